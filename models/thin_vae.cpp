// SPDX-License-Identifier: MIT
#include "models/thin_vae.h"

#include <algorithm>

namespace folio {

namespace {

bool holds(const Weights& w, const std::string& half) {
  return std::any_of(w.tensors().begin(), w.tensors().end(), [&](const WeightEntry& e) { return e.name.starts_with(half + "."); });
}

// What the file says beside its layers must be what they come to.
void check_same(const Weights& w, const char* key, int64_t said, int64_t is) {
  check(said == is, w.path(), ": ", key, " comes to ", said, ", but the layers to ", is);
}

}  // namespace

ThinVae::ThinVae(const Weights& w, Device& device, const VaeOptions& options)
    : device_(device), options_(options), path_(w.path()), name_(w.text("name", "")), latent_(w.integer("vae.latent")) {
  if (options.encoder && holds(w, "encoder")) encoder_.emplace(w, "encoder", options.weights);
  if (holds(w, "decoder")) decoder_.emplace(w, "decoder", options.weights);
  check(encodes() || decodes(), path_, ": it holds neither an encoder nor a decoder");
  spatial_ = decodes() ? decoder_->up() : encoder_->down();
  time_ = decodes() ? decoder_->grow() : encoder_->pool();
  if (decodes()) check(decoder_->down() == 1 && decoder_->pool() == 1, path_, ": the decoder makes images smaller");
  if (encodes()) {
    check(encoder_->up() == 1 && encoder_->grow() == 1, path_, ": the encoder makes images larger");
    check(std::none_of(encoder_->units().begin(), encoder_->units().end(), [](const VaeUnit& u) { return u.late; }), path_,
          ": the encoder looks ahead ('volume'), which only decoders may");
    check(encoder_->down() == spatial_ && encoder_->pool() == time_, path_, ": the encoder makes a latent of ", encoder_->pool(),
          " frames of ", encoder_->down(), " pixels, the decoder ", time_, " of ", spatial_);
  }
  if (w.has("vae.spatial")) check_same(w, "vae.spatial", w.integer("vae.spatial"), spatial_);
  if (w.has("vae.time")) {
    int64_t frames = 1;
    for (const int64_t s : w.integers("vae.time")) frames *= std::clamp<int64_t>(s, 0, 1 << 10);
    check_same(w, "vae.time", frames, time_);
  }
  const std::string pad = w.text("vae.pad", "tail"), trim = w.text("vae.trim", "always");
  check(pad == "tail" || pad == "front", path_, ": vae.pad is '", pad, "', expected tail or front");
  check(trim == "always" || trim == "odd", path_, ": vae.trim is '", trim, "', expected always or odd");
  front_ = pad == "front", odd_ = trim == "odd";
}

const VaeNet& ThinVae::half(bool encoder) const {
  check(encoder ? encodes() : decodes(), path_, ": it holds no ", encoder ? "encoder" : "decoder");
  return encoder ? *encoder_ : *decoder_;
}

int64_t ThinVae::trimmed(int64_t latents) const { return odd_ && latents % 2 == 0 ? 0 : time_ - 1; }
int64_t ThinVae::frames_of(int64_t latents) const { return time_ * latents - trimmed(latents); }
int64_t ThinVae::latents_of(int64_t frames) const { return (frames + time_ - 1) / time_; }

int64_t ThinVae::legal_frames(int64_t frames) const {
  frames = std::max<int64_t>(frames, 1);
  const auto fits = [&](int64_t n) { return n >= 1 && frames_of(latents_of(n)) == n; };
  for (int64_t off = 0;; ++off) {
    if (fits(frames - off)) return frames - off;
    if (fits(frames + off)) return frames + off;
  }
}

int64_t ThinVae::legal_side(int64_t pixels) const { return std::max<int64_t>(1, (pixels + spatial_ / 2) / spatial_) * spatial_; }

int64_t ThinVae::decode_bytes(int64_t rows, int64_t cols) const {
  return VaeStream(half(false), device_, rows, cols, options_.limit).bytes();
}
int64_t ThinVae::encode_bytes(int64_t rows, int64_t cols) const {
  return VaeStream(half(true), device_, rows, cols, options_.limit).bytes();
}

void ThinVae::check_latents(const Tensor& t) const {
  check(t.type == F32 && t.rank() == 4 && t.count() > 0 && t.contiguous(), "latents are ", format(t.type).name, " ", t.shape.text(),
        ", expected f32 [latents, rows, columns, ", latent_, "]");
  check(t.dim(3) == latent_, "latents have ", t.dim(3), " channels, but the autoencoder ", path_, " has ", latent_,
        "; they are of another model");
}

void ThinVae::check_frames(const Tensor& t) const {
  check(t.type == F32 && t.rank() == 4 && t.count() > 0 && t.contiguous() && t.dim(3) == 3, "frames are ", format(t.type).name, " ",
        t.shape.text(), ", expected f32 [frames, rows, columns, 3]");
  check(t.dim(1) % spatial_ == 0 && t.dim(2) % spatial_ == 0, "frames are ", t.dim(2), " by ", t.dim(1), " pixels, expected multiples of ",
        spatial_, ": ", legal_side(t.dim(2)), " by ", legal_side(t.dim(1)), " is the nearest");
}

void ThinVae::decode(const Tensor& latents, const FrameSink& sink) const {
  check_latents(latents);
  VaeDecoder decoder(*this, latents.dim(0), latents.dim(1), latents.dim(2));
  const int64_t one = latents.count() / latents.dim(0);
  for (int64_t t = 0; t < latents.dim(0); ++t)
    if (!decoder.push(latents.at<float>() + t * one, sink)) return;
}

void ThinVae::encode(const Tensor& frames, const LatentSink& sink) const {
  check_frames(frames);
  VaeEncoder encoder(*this, frames.dim(0), frames.dim(1), frames.dim(2));
  const int64_t one = frames.count() / frames.dim(0);
  for (int64_t t = 0; t < frames.dim(0); ++t)
    if (!encoder.push(frames.at<float>() + t * one, sink)) return;
}

std::vector<float> ThinVae::full(const VaeNet& net, const Tensor& x) const {
  auto graph = std::make_unique<Graph>();
  graph->output("y", net.record_full(graph->input("x", F32, x.shape)));
  const std::unique_ptr<Program> program = device_.compile(std::move(graph));
  std::copy_n(x.at<float>(), x.count(), program->input("x").at<float>());
  program->run();
  const Tensor y = program->output("y");
  return {y.at<float>(), y.at<float>() + y.count()};
}

std::vector<float> ThinVae::decode_full(const Tensor& latents) const {
  check_latents(latents);
  std::vector<float> frames = full(half(false), latents);
  const int64_t one = int64_t(frames.size()) / (time_ * latents.dim(0));
  frames.erase(frames.begin(), frames.begin() + trimmed(latents.dim(0)) * one);
  for (float& x : frames) x = std::clamp(x, 0.0f, 1.0f);
  return frames;
}

std::vector<float> ThinVae::encode_full(const Tensor& frames) const {
  check_frames(frames);
  const int64_t T = frames.dim(0), one = frames.count() / T, fill = latents_of(T) * time_ - T;
  std::vector<float> filled;
  const float* x = frames.at<float>();
  for (int64_t t = -fill * front_; t < T + fill * !front_; ++t) {
    const float* frame = x + std::clamp<int64_t>(t, 0, T - 1) * one;
    filled.insert(filled.end(), frame, frame + one);
  }
  return full(half(true), Tensor::of(F32, {T + fill, frames.dim(1), frames.dim(2), 3}, filled.data()));
}

VaeDecoder::VaeDecoder(const ThinVae& vae, int64_t latents, int64_t rows, int64_t cols)
    : stream_(vae.half(false), vae.device_, rows, cols, vae.options_.limit), latents_(latents), trimmed_(vae.trimmed(latents)) {}

bool VaeDecoder::push(const float* latent, const ThinVae::FrameSink& sink) {
  bool on = true;
  const VaeStream::Sink give = [&](float* frame) {
    std::transform(frame, frame + stream_.frame_count(), frame, [](float x) { return std::clamp(x, 0.0f, 1.0f); });
    on = on && sink(frame_++, frame);
  };
  stream_.push(latent, trimmed_, give);
  if (++taken_ == latents_ && on) stream_.finish(trimmed_, give);
  return on;
}

VaeEncoder::VaeEncoder(const ThinVae& vae, int64_t frames, int64_t rows, int64_t cols)
    : stream_(vae.half(true), vae.device_, rows, cols, vae.options_.limit), frames_(frames),
      fill_(vae.latents_of(frames) * vae.time() - frames), front_(vae.front_) {}

bool VaeEncoder::push_one(const float* rgb, const ThinVae::LatentSink& sink) {
  bool on = true;
  stream_.push(rgb, 0, [&](const float* latent) { on = sink(index_++, latent); });
  return on;
}

bool VaeEncoder::push(const float* rgb, const ThinVae::LatentSink& sink) {
  const bool filled = front_ ? taken_ == 0 : taken_ + 1 == frames_;   // this frame stands for others, too
  ++taken_;
  for (int64_t i = 0; i <= (filled ? fill_ : 0); ++i)
    if (!push_one(rgb, sink)) return false;
  return true;
}

}  // namespace folio
