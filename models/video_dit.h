// SPDX-License-Identifier: MIT
// The flow model of short clips: a diffusion transformer whose layers are, in turn, log-linear attention and MesaNet. Text and video are
// one sequence, the caption's words first; time and caption scale, shift and gate every layer (adaLN), and the ffn has depthwise
// convolutions over the video's tokens. The mixers are causal, so every other pair of layers scans the video backwards: between them each
// token sees all others.
//
//   z  ─ in ─ + position ────────┐  xv [B·N, C] ┐                                          ┌ rows of the video ─ + gate ⊙ ─ ffn … out ─ v
//   words ─ embed ─ + position ──┘  xt [B·L, C] ┴ norm, scale, shift ─ scan order ─ mixer ─┴ rows of the text
//   t ─ sin, cos ─ time ┬─ + ─ SiLU ─ modulate ─ six rows a layer
//   words ──── caption ─┘
//
// The mixers keep to the page law (ops/log_linear.h, ops/mesa.h), but a clip has no cache: it is one step from its first token to its
// last, so all layers share one set of pools, which are filled and forgotten within a forward.
//
// Metadata (arch "video_dit"; the file may hold the VAE as well):
//   vae.latent z · video.grid [T', h, w] of tokens · video.patch p · video.dim C · video.layers n · video.heads H · video.ffn F
//   video.text L words of a caption · video.caption width of a word in its summary · video.levels · video.words: word 0 fills up, word 1
//   alone is no caption · video.mixers n of "log_linear", "mesa", "softmax" · video.reverse n of 0 and 1
//   video.rounds? Mesa by that many rounds from q/(β + Λ), as the prototype was trained (ops/mesa.h, mode 3); absent: solved exactly
//   video.frames, .height, .width, .fps of a clip · video.steps?, .cfg?, .shift?: what it is best sampled with
// Tensors, weight matrices [out, in] of any format, the rest f32; D = C/H, c = z·p²:
//   flow.mean, flow.std [z] · flow.embed.weight [V, C] · flow.text.position [L, C] · flow.in.weight [C, c] (+ .bias)
//   flow.video.position [N, C] · flow.time.0.weight [C, 128], .2.weight [C, C] (+ .bias) · flow.caption.embed.weight [V, caption],
//   .0.weight [C, caption·L], .2.weight [C, C] (+ .bias)
//   flow.modulate.weight [6C, C], .bias, .table [n, 6C] · flow.modulate.out.weight [2C, C], .bias · flow.out.weight [c, C], .bias
//   flow.layer.I.mix.in.weight [4C, C]: rows of q, k, v, z · .gates.weight [2H (+ H·levels), C], .bias: a [H], b [H], l [H·levels]
//   .ridge [H, D] (mesa) · .norm.weight [D] · .out.weight [C, C]
//   flow.layer.I.ffn.up.weight [2F, C] · .space.weight [9, 2F] · .time.weight [3, 2F] · .down.weight [C, F], each with .bias
// A token's c channels: channel·p² + row·p + column of its patch. tools/train_video.py has the same in formulas.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "files/weights.h"
#include "graph/device.h"
#include "ops/ops.h"
#include "run/denoise.h"

namespace folio {

struct VideoSize {
  int64_t frames, rows, cols;            // T', h, w of the tokens' grid
  int64_t latent, patch, dim, layers, heads, ffn, text, caption, levels;
  int64_t tokens() const { return frames * rows * cols; }            // N
  int64_t channels() const { return latent * patch * patch; }        // c
  int64_t sequence() const { return text + tokens(); }
  int64_t pages() const { return (sequence() + page_tokens - 1) / page_tokens; }
  int64_t numbers() const { return tokens() * channels(); }          // of a latent [T', h·p, w·p, z]
};

class VideoDit {
 public:
  // Takes its tensors from the file, which must stay open as long as the model. Throws Error on whatever does not fit together.
  explicit VideoDit(const Weights& weights);
  const VideoSize& size() const { return size_; }
  const std::vector<std::string>& words() const { return words_; }

  // The words of a caption, L of them. Throws Error naming a word that is not known and those that are, or if they are too many.
  std::vector<int32_t> caption(std::string_view text) const;
  std::vector<int32_t> no_caption() const;

  // What the mixers write while a forward runs: one set for all layers. [pages, 64, ...] and [pages, ...] of `sequences` captions.
  struct Pools {
    Tensor k, u, g, beta;   // rows
    Tensor S, c, H, G;      // slabs of log-linear attention; of Mesa, which keeps none of a clip's
  };
  Pools pools(int64_t sequences) const;   // shapes alone

  // Records v for `sequences` captions of one clip. Inputs: "z" [B·N, c], "word" [B·L] i32, "t" [2·B] f32: each sequence's time and that of
  // its clean frames; "row" [B·N] i32: which of the 2·B times is each video token's. Output "v" [B·N, c].
  void record(Graph& graph, int64_t sequences, const Pools& pools) const;
  // Multiplies and adds of the matrices and convolutions, as two operations each, of a forward of that many captions.
  double flops(int64_t sequences) const;
  int64_t parameters() const { return parameters_; }

  // Latents [T', h·p, w·p, z] as tokens [N, c] and back; `normal`: as the model has them, (latent − mean)/std.
  std::vector<float> to_tokens(std::span<const float> latent) const;
  void from_tokens(std::span<const float> tokens, std::span<float> latent) const;
  std::vector<float> normal_of(std::span<const float> latent) const;
  std::vector<float> latent_of(std::span<const float> normal) const;

 private:
  enum class Kind { log_linear, mesa, softmax };
  struct Linear {
    Tensor w, bias;
    Tensor operator()(Tensor x, Act act = Act::none) const;
  };
  struct Layer {
    Kind kind;
    bool reverse;
    Linear in, gates, out, up, down;
    Tensor ridge, norm, table;
    Linear space, time;   // depthwise
  };
  // Tensors of a forward that all layers see.
  struct Step;
  Linear linear(const Weights& w, const std::string& name, int64_t out, int64_t in, bool bias = true) const;
  Linear depthwise(const Weights& w, const std::string& name, int64_t taps) const;
  Layer layer(const Weights& w, int64_t i, const std::string& kind, bool reverse) const;
  Tensor conditions(Graph& graph, const Step& step) const;                              // [2·B, C]
  Tensor mix(const Layer& layer, Tensor x, const Step& step) const;                     // [B·T, C] in scan order
  Tensor convolved(const Layer& layer, Tensor x, const Step& step) const;               // ffn of the video's tokens
  Tensor worded(const Layer& layer, Tensor x) const;                                    // of the text's

  VideoSize size_;
  int rounds_;   // of Mesa; 0: exactly
  int64_t parameters_ = 0;
  std::vector<std::string> words_;
  Tensor mean_, std_, embed_, text_position_, video_position_, caption_embed_;
  Linear in_, time0_, time2_, caption0_, caption2_, modulate_, modulate_out_, out_;
  std::vector<Layer> layers_;
};

// A model on a device, ready to be sampled.
class VideoFlow {
 public:
  VideoFlow(const VideoDit& model, Device& device) : model_(model), device_(device) {}
  ~VideoFlow();
  VideoFlow(const VideoFlow&) = delete;
  VideoFlow& operator=(const VideoFlow&) = delete;
  // The velocity of normal latents [T', h·p, w·p, z] under a caption, and without it or under another. `clean`: frames of the latent that
  // are given, whose time is 0 throughout (DenoiseOptions::held must hold their numbers); empty: none. Lasts as long as this object.
  Velocity velocity(std::vector<int32_t> caption, std::vector<int32_t> without, std::vector<bool> clean = {});
  // The program for one caption or two, compiled now if it is not there yet; its bytes are its arena and its pools.
  Program& program(int64_t sequences);
  int64_t bytes(int64_t sequences);

 private:
  struct Compiled {
    std::unique_ptr<Program> program;
    std::vector<std::pair<std::byte*, int64_t>> pools;
  };
  const VideoDit& model_;
  Device& device_;
  Compiled compiled_[2];
};

}  // namespace folio
