// SPDX-License-Identifier: MIT
// A thin autoencoder of clips or images: TAEHV and its kin (TAEW2.1, TAEW2.2 …), our own of the same layout, TAESD and its kin frame by
// frame. Pixels are in [0, 1], latents are what the diffusion model itself works with; channels last in both.
//
// Metadata ("?" = may be absent, then the value in brackets):
//   arch "taehv" | "taesd" | "thin" (or a model's that carries one) · vae.latent (channels z) · vae.patch? [1] (pixels to a side of what the net
//   calls one) · vae.encoder?, vae.decoder? (layers: vae_net.h; a half without tensors is absent) · vae.time?, vae.spatial? (checked
//   against the layers)
//   vae.pad? ["tail"] | "front": where a clip is filled up to whole latents, with its last or its first frame
//   vae.trim? ["always"] | "odd": a decoded clip loses its first time() − 1 frames, with "odd" only if its latents are odd in number
//   (CogVideoX)
// Frames: a latent stands for time() of them, but the first for one: T' latents are time()·(T' − 1) + 1 frames.
#pragma once
#include <functional>
#include <memory>
#include <optional>

#include "models/vae_stream.h"

namespace folio {

struct VaeOptions {
  DType weights = F32;    // F32, F16 or BF16: what the convolutions read
  int64_t limit = 0;      // bytes that decoding or encoding may take, weights and all; 0: no limit
  bool encoder = true;    // wanted at all, where the file has one
};

class ThinVae {
 public:
  // The file must stay open as long as this. Throws Error on whatever does not fit together.
  ThinVae(const Weights& weights, Device& device, const VaeOptions& options = {});

  bool encodes() const { return encoder_.has_value(); }
  bool decodes() const { return decoder_.has_value(); }
  const std::string& name() const { return name_; }
  int64_t latent() const { return latent_; }      // channels
  int spatial() const { return spatial_; }        // pixels of a latent's side
  int time() const { return time_; }              // frames of a latent

  int64_t frames_of(int64_t latents) const;       // that decoding gives
  int64_t latents_of(int64_t frames) const;       // that encoding gives
  // The nearest number of frames, and of pixels to a side, that comes back as it went in; at least one frame, one latent.
  int64_t legal_frames(int64_t frames) const;
  int64_t legal_side(int64_t pixels) const;

  // Bytes that a clip of that size will take, its length does not matter; nothing is touched for it. Throws Error as decoding would.
  int64_t decode_bytes(int64_t rows, int64_t cols) const;   // of latents
  int64_t encode_bytes(int64_t rows, int64_t cols) const;   // of pixels

  // Frames arrive in order, rgb [rows, cols, 3] in [0, 1], valid during the call; false stops.
  using FrameSink = std::function<bool(int64_t frame, const float* rgb)>;
  // Latents likewise, [rows, cols, z].
  using LatentSink = std::function<bool(int64_t index, const float* latent)>;

  // latents [T', h, w, z] f32, one after the other at constant memory.
  void decode(const Tensor& latents, const FrameSink& sink) const;
  // All at once in one graph, for comparison: [T, H, W, 3].
  std::vector<float> decode_full(const Tensor& latents) const;
  // frames [T, H, W, 3] f32 in [0, 1].
  void encode(const Tensor& frames, const LatentSink& sink) const;
  std::vector<float> encode_full(const Tensor& frames) const;

 private:
  friend class VaeDecoder;
  friend class VaeEncoder;
  const VaeNet& half(bool encoder) const;
  void check_latents(const Tensor& latents) const;
  void check_frames(const Tensor& frames) const;
  int64_t trimmed(int64_t latents) const;
  std::vector<float> full(const VaeNet& net, const Tensor& x) const;

  Device& device_;
  VaeOptions options_;
  std::string path_, name_;
  std::optional<VaeNet> encoder_, decoder_;
  int64_t latent_ = 0;
  int spatial_ = 1, time_ = 1;
  bool front_ = false, odd_ = false;
};

// A clip that is decoded as its latents come: `latents` of them, each [rows, cols, z].
class VaeDecoder {
 public:
  VaeDecoder(const ThinVae& vae, int64_t latents, int64_t rows, int64_t cols);
  // The frames that this latent completes, which are none if the net looks ahead; the last one's are all that are left. False if the sink
  // has stopped it; no more may be pushed then.
  bool push(const float* latent, const ThinVae::FrameSink& sink);
  int64_t bytes() const { return stream_.bytes(); }
  bool banded() const { return stream_.banded(); }

 private:
  VaeStream stream_;
  int64_t latents_, trimmed_, taken_ = 0, frame_ = 0;
};

// A clip that is encoded as its frames come: `frames` of them, each [rows, cols, 3].
class VaeEncoder {
 public:
  VaeEncoder(const ThinVae& vae, int64_t frames, int64_t rows, int64_t cols);
  bool push(const float* rgb, const ThinVae::LatentSink& sink);
  int64_t bytes() const { return stream_.bytes(); }

 private:
  bool push_one(const float* rgb, const ThinVae::LatentSink& sink);
  VaeStream stream_;
  int64_t frames_, fill_, taken_ = 0, index_ = 0;
  bool front_;
};

}  // namespace folio
