// SPDX-License-Identifier: MIT
// An autoencoder of small square grey images: convolutions, and in the middle layers in which every place looks at all others. Its latents
// are [s, s], a number each. github.com/sofia-dominguezc/MNIST-diffusion trained the one that convert.py knows, on the digits of MNIST.
//
//   encoder  [S, S] ─ 5×5 of every second place ─ gelu ─ 3×3 ─ gelu ─ largest of 2×2 ─ layers ─ out: mean (and logarithm of the variance)
//   decoder  [s, s] ─ in ─ layers ─ ×2 ─ 3×3 ─ to S ─ 5×5                                     both enlargements: the nearest place
//   layer    x + attention(x), then x + down · gelu(3×3 depthwise · gelu(up · x)); no norms
// 3×3s are padded with what lies on the other side of the edge's pixel, as in a mirror; the decoder's 5×5 with zeros, the encoder's not.
//
// Metadata (arch "image_vae"): image.side S · vae.side s · vae.channels C · vae.inner c · vae.layers · vae.heads · vae.attention A ·
//   vae.ffn F
// Tensors, HALF encoder or decoder, matrices [out, in] of any format, convolutions [taps, in, out] f32, all with .bias:
//   encoder.in.weight [25, 1, c] · encoder.conv.weight [9, c, C] · encoder.out.weight [2, C]
//   decoder.in.weight [C, 1] · decoder.conv.weight [9, C, c] · decoder.out.weight [25, c, 1]
//   HALF.layer.I.mix.qkv.weight [3A, C], .mix.out.weight [C, A], .ffn.up.weight [F, C], .ffn.space.weight [9, F], .ffn.down.weight [C, F]
#pragma once
#include <memory>
#include <span>
#include <vector>

#include "files/weights.h"
#include "graph/device.h"
#include "ops/ops.h"

namespace folio {

class ImageVae {
 public:
  // Takes its tensors from the file, which must stay open as long as the model. Throws Error on whatever does not fit together.
  ImageVae(const Weights& weights, Device& device);
  int64_t side() const { return side_; }
  int64_t latent_side() const { return latent_; }

  // Images [B, S, S] -> the means of their latents [B, s, s], and back. Throws Error if the numbers are no whole images.
  std::vector<float> encode(std::span<const float> images) { return run(0, images, side_, latent_); }
  std::vector<float> decode(std::span<const float> latents) { return run(1, latents, latent_, side_); }

 private:
  struct Part {
    Tensor w, bias;
  };
  struct Layer {
    Part qkv, out, up, space, down;
  };
  struct Half {
    Part in, conv, out;
    std::vector<Layer> layers;
    std::unique_ptr<Program> program;   // for so many images
    int64_t images = 0;
  };
  Tensor layer(Tensor x, const Layer& layer, int64_t images) const;
  Tensor encoded(Tensor x, int64_t images) const;
  Tensor decoded(Tensor z, int64_t images) const;
  std::vector<float> run(size_t half, std::span<const float> in, int64_t from, int64_t to);

  Device& device_;
  int64_t side_, latent_, heads_;
  Half halves_[2];   // encoder, decoder
};

}  // namespace folio
