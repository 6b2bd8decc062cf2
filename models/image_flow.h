// SPDX-License-Identifier: MIT
// A flow model of small images of known classes: a vision transformer over the image's patches and four more tokens, two that say the
// time and two the class; full attention, norms behind each part (post-norm). It predicts not the velocity but the image at the path's end.
// github.com/sofia-dominguezc/MNIST-diffusion trained the one that convert.py knows, on the digits of MNIST.
//
// Metadata (arch "image_flow"): image.channels c · image.height, .width · image.patch p · image.dim C · image.layers · image.heads ·
//   image.ffn F · image.classes
// Tensors, weight matrices [out, in] of any format, the rest f32, N patches of c·p² numbers (channel·p² + row·p + column):
//   flow.in.weight [C, c·p²], .bias · flow.position [N, C] · flow.class.weight [classes + 1, 2C]: the last row is no class
//   layer.I.mix.qkv.weight [3C, C], layer.I.mix.out.weight [C, C], layer.I.ffn.up.weight [F, C], .down.weight [C, F], with .bias each
//   layer.I.norm_mix.weight, layer.I.norm_ffn.weight [C], with .bias · flow.out.weight [c·p², C], .bias
#pragma once
#include <memory>
#include <vector>

#include "files/weights.h"
#include "graph/device.h"
#include "ops/ops.h"
#include "run/denoise.h"

namespace folio {

class ImageFlow {
 public:
  // Takes its tensors from the file, which must stay open as long as the model. Throws Error on whatever does not fit together.
  ImageFlow(const Weights& weights, Device& device);
  ~ImageFlow();
  ImageFlow(const ImageFlow&) = delete;
  ImageFlow& operator=(const ImageFlow&) = delete;
  int64_t channels() const { return channels_; }
  int64_t height() const { return height_; }
  int64_t width() const { return width_; }
  int64_t classes() const { return classes_; }
  int64_t numbers() const { return channels_ * height_ * width_; }   // of an image [c, H, W]

  // The images at the paths' ends as the model sees them from x at time t (1: noise); class −1: none. x and the result are [B, c, H, W].
  std::vector<float> predict(std::span<const float> x, double t, const std::vector<int32_t>& classes);
  // v = (x − predict(x))/t of images of these classes, side by side in x; without: of none. Lasts as long as this object.
  Velocity velocity(std::vector<int32_t> classes);

 private:
  struct Linear {
    Tensor w, bias;
    Tensor operator()(Tensor x, Act act = Act::none, Tensor add = {}) const;
  };
  struct Layer {
    Linear qkv, out, up, down;
    Tensor norm_mix, norm_mix_bias, norm_ffn, norm_ffn_bias;
  };
  void compile(int64_t images);
  template <class F> void each_number(int64_t images, F fn) const;   // fn(number of the image, number of its patches)
  int64_t patches() const { return height_ / patch_ * (width_ / patch_); }

  Device& device_;
  int64_t channels_, height_, width_, patch_, dim_, heads_, classes_;
  Linear in_, out_;
  Tensor position_, class_;
  std::vector<Layer> layers_;
  std::unique_ptr<Program> program_;   // for so many images
  int64_t images_ = 0, pool_bytes_ = 0;
  std::byte* pools_[2] = {};
};

}  // namespace folio
