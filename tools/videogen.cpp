// SPDX-License-Identifier: MIT
// videogen: a clip from words (-p), from latents on disk (--latent-in), or from another clip (--video-in), which then shows what the
// autoencoder loses. What it will take is worked out and printed before anything long begins; the output is opened first, so that a folder
// that cannot be written to is no surprise at the end; latents are saved before they are decoded; and Ctrl-C keeps what there is: while
// noise becomes a clip the clip as it was going to be, while frames are decoded those that are done.
#include <unistd.h>

#include <csignal>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/hash.h"
#include "base/threads.h"
#include "models/video_dit.h"
#include "models/video_presets.h"
#include "tools/lib/interrupt.h"
#include "tools/lib/machine.h"
#include "tools/lib/main.h"
#include "tools/lib/model.h"
#include "tools/lib/progress.h"
#include "tools/lib/video_flags.h"
#include "tools/lib/video_preview.h"

namespace folio {
namespace {

using Json = nlohmann::ordered_json;

// One run of the program: models, sizes, and then one clip after the other.
class Session {
 public:
  explicit Session(const VideoFlags& flags);
  int run();

 private:
  struct Made {   // one clip
    std::string output, latent_out;
    uint64_t seed = 0;
    int64_t frames = 0;
    bool interrupted = false;
    double encode_seconds = 0, denoise_seconds = 0, decode_seconds = 0;
    std::optional<Psnr> psnr;
  };

  void open_models();
  void open_flow();
  void open_autoencoder();
  void plan_size();
  void predict();
  const Weights& vae_weights() const { return other_ ? *other_ : *weights_; }
  void check_side(const char* flag, int64_t pixels) const;

  void read_clip();
  Clip clip_to_write(const Made& made) const;
  Notes notes(const Made& made) const;
  Latents encode(const uint8_t* rgb, int64_t frames, bool last_only) const;
  std::vector<float> still(const std::string& path, bool last) const;
  bool denoise_clip(Made& made, Latents& latents);
  void decode_clip(Made& made, const Latents& latents, FrameWriter* writer);
  void make(int number);
  void report(const Made& made) const;

  const VideoFlags& flags_;
  const VideoWay way_;
  const double start_;
  std::optional<Weights> weights_, other_;   // -m, --vae
  std::unique_ptr<Device> device_;
  std::optional<VideoDit> dit_;
  std::optional<VideoFlow> flow_;
  std::optional<ThinVae> vae_;
  std::optional<Preview> preview_;
  DenoiseOptions sampling_;
  Frames source_;                            // --video-in
  Latents given_;                            // --latent-in
  int64_t width_ = 0, height_ = 0, frames_ = 0, latents_ = 0;
  Rate rate_;
  int64_t flow_bytes_ = 0, predicted_ = 0;
  uint64_t first_seed_ = 0;
  bool stopped_ = false;
};

Session::Session(const VideoFlags& flags) : flags_(flags), way_(video_way(flags)), start_(seconds_now()) {
  if (flags.output == "-")
    check(!isatty(STDOUT_FILENO), "-o -: frames are no text for a terminal; send them to a file or to another program");
  first_seed_ = video_seed(flags);
  open_models();
  plan_size();
  predict();
  if (way_ == VideoWay::generate) preview_.emplace(preview_kind(flags.preview), *vae_, preview_name(flags), flags.preview_every);
}

void Session::open_models() {
  if (!flags_.model.empty()) weights_.emplace(flags_.model);
  if (!flags_.vae.empty()) other_.emplace(flags_.vae);
  device_ = open_device(flags_.device, flags_.threads > 0 ? flags_.threads : hardware_threads());
  if (way_ == VideoWay::generate) open_flow();
  open_autoencoder();
}

void Session::open_flow() {
  const Weights& w = *weights_;
  check(w.text("arch", "") == "video_dit", w.path(), ": this is no model that makes clips (its arch is '", w.text("arch", ""), "')");
  dit_.emplace(w);
  sampling_.solver = parse_solver(flags_.sampler);
  sampling_.steps = flags_.steps > 0 ? flags_.steps : int(w.integer("video.steps", 24));
  sampling_.shift = flags_.shift > 0 ? flags_.shift : w.real("video.shift", 1);
  sampling_.guidance = flags_.cfg >= 0 ? flags_.cfg : w.real("video.cfg", 1);
  denoise_times(sampling_.steps, sampling_.shift);   // does it agree?
  dit_->caption(flags_.prompt);                      // are the words known?
  if (!flags_.negative.empty()) dit_->caption(flags_.negative);
  flow_.emplace(*dit_, *device_);
  flow_bytes_ = flow_->bytes(sampling_.guidance == 1 ? 1 : 2);
}

void Session::open_autoencoder() {
  VaeOptions options;
  parse_dtype(flags_.vae_type, options.weights);
  if (flags_.mem_limit > 0) {
    options.limit = int64_t(flags_.mem_limit) - flow_bytes_ - peak_memory();
    check(options.limit > 0, "--mem-limit: ", human_bytes(double(flags_.mem_limit)),
          " are not enough for the flow model alone, which takes ", human_bytes(double(flow_bytes_ + peak_memory())));
  }
  vae_.emplace(vae_weights(), *device_, options);
  const bool encodes = !flags_.video_in.empty() || !flags_.init_image.empty() || !flags_.last_image.empty();
  check(!encodes || vae_->encodes(), vae_weights().path(), ": its autoencoder has no encoder, which pictures that come in need");
  check(flags_.output.empty() || vae_->decodes(), vae_weights().path(), ": its autoencoder has no decoder");
}

void Session::check_side(const char* flag, int64_t pixels) const {
  const int64_t legal = vae_->legal_side(pixels);
  check(pixels == legal, flag, ": ", pixels, " pixels are no whole number of the ", vae_->spatial(),
        " that a latent stands for; the nearest is ", flag, " ", legal);
}

// What width_, height_, frames_ and latents_ are, and whether they can be that.
void Session::plan_size() {
  rate_ = {24, 1};
  if (way_ == VideoWay::generate) {
    const VideoSize& s = dit_->size();
    const Weights& w = *weights_;
    check(s.latent == vae_->latent(), vae_weights().path(), ": an autoencoder of ", vae_->latent(), " channels does not go with ", w.path(),
          ", which makes ", s.latent);
    latents_ = s.frames;
    frames_ = vae_->frames_of(latents_);
    width_ = s.cols * s.patch * vae_->spatial();
    height_ = s.rows * s.patch * vae_->spatial();
    const int64_t made[] = {w.integer("video.width", width_), w.integer("video.height", height_), w.integer("video.frames", frames_)};
    check(made[0] == width_ && made[1] == height_ && made[2] == frames_, w.path(), ": it says that it makes ", made[2], " frames of ",
          made[0], "x", made[1], ", but with this autoencoder it comes to ", frames_, " of ", width_, "x", height_);
    for (const auto& [flag, asked, is] :
         {std::tuple("-W", int64_t(flags_.width), width_), {"-H", int64_t(flags_.height), height_}, {"--frames", flags_.frames, frames_}})
      check(asked == 0 || asked == is, flag, ": ", asked, " cannot be made: this model makes clips of ", frames_, " frames of ", width_,
            "x", height_, " alone; the nearest is ", flag, " ", is);
    rate_ = parse_rate(join(w.real("video.fps", 24)), w.path() + ": video.fps");
  } else if (way_ == VideoWay::decode) {
    given_ = load_latents(flags_.latent_in, vae_->latent(), vae_weights().path());
    latents_ = given_.count;
    frames_ = vae_->frames_of(latents_);
    width_ = given_.cols * vae_->spatial();
    height_ = given_.rows * vae_->spatial();
    for (const auto& [flag, asked, is] :
         {std::tuple("-W", int64_t(flags_.width), width_), {"-H", int64_t(flags_.height), height_}, {"--frames", flags_.frames, frames_}})
      check(asked == 0 || asked == is, flag, ": ", asked, " is not what ", flags_.latent_in, " comes to; leave it away, or give ", flag,
            " ", is);
  } else {
    read_clip();
  }
  if (!flags_.fps.empty()) rate_ = parse_rate(flags_.fps, "--fps");
}

void Session::read_clip() {
  if (flags_.width > 0) check_side("-W", flags_.width);
  if (flags_.height > 0) check_side("-H", flags_.height);
  source_ = load_frames(flags_.video_in, flags_.frames, flags_.width, flags_.height);
  width_ = source_.clip.width;
  height_ = source_.clip.height;
  check_side("-W", width_);
  check_side("-H", height_);
  frames_ = source_.count;
  const int64_t legal = vae_->legal_frames(frames_);
  check(frames_ == legal || way_ == VideoWay::encode, flags_.video_in, ": ", frames_,
        " frames do not come back as they went in; the nearest is --frames ",
        legal < frames_ ? legal : vae_->frames_of(vae_->latents_of(frames_) - 1));
  latents_ = vae_->latents_of(frames_);
  rate_ = source_.clip.rate;
}

// The most memory that it will take, before anything long begins: what there is by now, and what is still to come.
void Session::predict() {
  const int64_t h = height_ / vae_->spatial(), w = width_ / vae_->spatial();
  const bool encodes = source_.count > 0 || !flags_.init_image.empty() || !flags_.last_image.empty(),
             decodes = way_ != VideoWay::encode && vae_->decodes();
  const int64_t encoding = encodes ? vae_->encode_bytes(height_, width_) : 0;
  const int64_t decoding = decodes && flags_.decode == "stream" ? vae_->decode_bytes(h, w) : 0;
  const int64_t latents = 4 * int64_t(sizeof(float)) * latents_ * h * w * vae_->latent(), frame = 8 * 3 * width_ * height_;
  const int64_t model = dit_ ? weights_->file_bytes() : 0;
  predicted_ = peak_memory() + model + flow_bytes_ + std::max(encoding, decoding) + latents + frame;
  check(flags_.mem_limit == 0 || predicted_ <= int64_t(flags_.mem_limit), "--mem-limit: this takes about ", human_bytes(double(predicted_)),
        ", more than the limit of ", human_bytes(double(flags_.mem_limit)));
  if (flags_.quiet) return;
  std::string parts;
  for (const auto& [name, bytes] : {std::pair("flow", model + flow_bytes_), {"encoding", encoding}, {"decoding", decoding}})
    if (bytes > 0) parts += join(parts.empty() ? "" : ", ", name, " ", human_bytes(double(bytes)));
  std::fprintf(stderr, "%lld %s of %lldx%lld · predicted peak %s%s%s\n", static_cast<long long>(frames_), frames_ == 1 ? "frame" : "frames",
               static_cast<long long>(width_), static_cast<long long>(height_), human_bytes(double(predicted_)).c_str(),
               parts.empty() ? "" : join(" (", parts, ")").c_str(), flags_.decode == "full" ? " and what --decode full takes" : "");
}

Notes Session::notes(const Made& made) const {
  Notes all;   // the shortest first: a y4m has little room
  if (dit_) all.emplace_back("seed", std::to_string(made.seed));
  all.emplace_back("model", hex64(dit_ ? weights_->index_hash() : vae_weights().index_hash()));
  if (dit_) {
    all.emplace_back("sampler", name_of(sampling_.solver));
    all.emplace_back("steps", std::to_string(sampling_.steps));
    all.emplace_back("cfg", join(sampling_.guidance));
    all.emplace_back("shift", join(sampling_.shift));
    all.emplace_back("prompt", flags_.prompt);
    if (!flags_.negative.empty()) all.emplace_back("negative", flags_.negative);
    if (other_) all.emplace_back("vae", hex64(other_->index_hash()));
  }
  all.emplace_back("software", "Folio videogen");
  return all;
}

Clip Session::clip_to_write(const Made& made) const {
  return {.width = int(width_),
          .height = int(height_),
          .rate = rate_,
          .frames = frames_,
          .notes = notes(made),
          .half_chroma = flags_.chroma == "420"};
}

Latents Session::encode(const uint8_t* rgb, int64_t frames, bool last_only) const {
  Latents out{0, height_ / vae_->spatial(), width_ / vae_->spatial(), vae_->latent(), {}};
  const size_t bytes = size_t(width_ * height_ * 3);
  VaeEncoder encoder(*vae_, frames, height_, width_);
  for (int64_t i = 0; i < frames; ++i)
    encoder.push(to_floats(rgb + size_t(i) * (last_only ? 0 : bytes), bytes).data(), [&](int64_t, const float* latent) {
      if (last_only) out.values.clear(), out.count = 0;
      out.values.insert(out.values.end(), latent, latent + out.frame());
      ++out.count;
      return true;
    });
  return out;
}

// A picture as the first latent of a clip, or as one at whose end it stands.
std::vector<float> Session::still(const std::string& path, bool last) const {
  const Image image = fit(read_png(path), int(width_), int(height_));
  return dit_->normal_of(encode(image.rgb.data(), last ? vae_->frames_of(2) : 1, true).values);
}

// False if it was stopped; the latents are those that the clip was going to have then, none if no step was done.
bool Session::denoise_clip(Made& made, Latents& latents) {
  const size_t frame = size_t(latents.frame()), numbers = frame * size_t(latents.count);
  std::vector<float> x(numbers), clean;
  fill_noise(x, made.seed);
  DenoiseOptions options = sampling_;
  std::vector<bool> given(size_t(latents.count), false);
  for (const auto& [path, last] : {std::pair(flags_.init_image, false), {flags_.last_image, true}}) {
    if (path.empty()) continue;
    const size_t at = last ? size_t(latents.count - 1) : 0;
    const std::vector<float> values = still(path, last);
    std::copy(values.begin(), values.end(), x.begin() + std::ptrdiff_t(at * frame));
    options.held.push_back({at * frame, frame});
    given[at] = true;
  }
  if (options.held.empty()) given.clear();
  const Velocity velocity =
      flow_->velocity(dit_->caption(flags_.prompt), flags_.negative.empty() ? dit_->no_caption() : dit_->caption(flags_.negative), given);
  Progress progress("denoise", options.steps, flags_.quiet);
  const bool whole = denoise(x, options, velocity, [&](const DenoiseStep& step) {
    clean.assign(step.clean.begin(), step.clean.end());
    progress.done(step.done);
    if (preview_->any()) {
      latents.values = dit_->latent_of(clean);
      preview_->show(step.done, latents);
    }
    return !interrupt_asked;
  });
  made.denoise_seconds = progress.seconds();
  latents.values = whole ? dit_->latent_of(x) : clean.empty() ? clean : dit_->latent_of(clean);
  return whole;
}

void Session::decode_clip(Made& made, const Latents& latents, FrameWriter* writer) {
  Progress progress("decode", frames_, flags_.quiet);
  std::vector<uint8_t> bytes;
  auto take = [&](int64_t index, const float* rgb) {
    to_bytes(rgb, size_t(width_ * height_ * 3), bytes);
    if (writer) writer->push(bytes.data());
    if (index < source_.count) made.psnr->add(source_.frame(index), bytes.data(), bytes.size());
    progress.done(++made.frames);
    return !interrupt_asked;
  };
  if (source_.count > 0) made.psnr.emplace();
  const Tensor all = Tensor::of(F32, {latents.count, latents.rows, latents.cols, latents.z}, const_cast<float*>(latents.values.data()));
  if (flags_.decode == "full") {
    const std::vector<float> frames = vae_->decode_full(all);
    for (int64_t i = 0; i < frames_ && take(i, frames.data() + i * width_ * height_ * 3); ++i) {
    }
  } else {
    vae_->decode(all, take);
  }
  made.decode_seconds = progress.seconds();
  made.interrupted |= made.frames < frames_;
}

// Clip `number` of the batch, from 1 on.
void Session::make(int number) {
  Made made{.output = batch_name(flags_.output, number, flags_.batch), .latent_out = batch_name(flags_.latent_out, number, flags_.batch),
            .seed = first_seed_ + uint64_t(number - 1)};
  std::unique_ptr<FrameWriter> writer;
  if (!made.output.empty()) writer = write_frames(made.output, clip_to_write(made));
  Latents latents{latents_, height_ / vae_->spatial(), width_ / vae_->spatial(), vae_->latent(), {}};
  interrupt_asked = false;
  if (way_ == VideoWay::generate) made.interrupted = !denoise_clip(made, latents);
  if (way_ == VideoWay::decode) latents = std::move(given_);
  if (source_.count > 0) {
    const double start = seconds_now();
    latents = encode(source_.rgb.data(), source_.count, false);
    made.encode_seconds = seconds_now() - start;
  }
  stopped_ = made.interrupted;
  if (latents.values.empty()) return;   // not one step: there is nothing to keep
  if (!made.latent_out.empty()) save_latents(made.latent_out, latents);
  interrupt_asked = false;              // asked once more: fewer frames
  if (writer || way_ == VideoWay::recode) decode_clip(made, latents, writer.get());
  if (writer) writer->finish();
  stopped_ = made.interrupted;
  report(made);
}

void Session::report(const Made& made) const {
  const double seconds = seconds_now() - start_;
  if (flags_.json) {
    Json json{{"output", made.output}, {"latent_out", made.latent_out}, {"frames", made.frames}, {"width", width_}, {"height", height_},
              {"fps", rate_.fps()}};
    if (dit_) {
      json.update({{"prompt", flags_.prompt}, {"negative", flags_.negative}, {"seed", made.seed}, {"sampler", name_of(sampling_.solver)},
                   {"steps", sampling_.steps}, {"cfg", sampling_.guidance}, {"shift", sampling_.shift}});
      json["model_hash"] = hex64(weights_->index_hash());
    }
    json["vae_hash"] = hex64(vae_weights().index_hash());
    if (made.psnr && made.psnr->frames() > 0) json["psnr"] = made.psnr->all(), json["psnr_worst"] = made.psnr->worst();
    json["interrupted"] = made.interrupted;
    json["timings"] = {
        {"encode_s", made.encode_seconds}, {"denoise_s", made.denoise_seconds}, {"decode_s", made.decode_seconds}, {"all_s", seconds}};
    json["predicted_peak_bytes"] = predicted_;
    json["peak_memory_bytes"] = peak_memory();
    std::printf("%s\n", json.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
    return;
  }
  std::string line = made.output.empty() || made.output == "-" ? "" : made.output + " · ";
  if (made.frames > 0)
    line += join(made.frames, made.frames == 1 ? " frame of " : " frames of ", width_, "x", height_, ", ", rate_.text(), " a second");
  else line += join(made.latent_out, " · ", latents_, latents_ == 1 ? " latent" : " latents");
  if (made.psnr && made.psnr->frames() > 0) {
    char text[64];
    std::snprintf(text, sizeof text, " · PSNR %.2f dB, worst frame %.2f", made.psnr->all(), made.psnr->worst());
    line += text;
  }
  for (const auto& [name, time] :
       {std::pair("encoded", made.encode_seconds), {"denoised", made.denoise_seconds}, {"decoded", made.decode_seconds}})
    if (time > 0) line += join(" · ", name, " in ", human_time(time));
  line += " · peak " + human_bytes(double(peak_memory()));
  if (dit_) line += join(" · seed ", made.seed);
  if (made.interrupted) line += " · interrupted";
  std::FILE* to = made.output == "-" ? stderr : stdout;
  if (to == stdout || !flags_.quiet) std::fprintf(to, "%s\n", line.c_str());
}

int Session::run() {
  catch_interrupts();
  for (int number = 1; number <= flags_.batch && !stopped_; ++number) make(number);
  return stopped_ ? 128 + SIGINT : 0;
}

// What is known by name: models of this project, and the autoencoders that tools/convert.py reads.
int list_presets() {
  const std::vector<std::vector<std::string>> rows = {
      {"autoencoder", "makes", "latents", "of"},
      {"taehv, taew2_1", "4k+1 frames, sides of 8", "16 channels", "HunyuanVideo, Wan 2.1, Qwen-Image"},
      {"taew2_2, taehv1_5", "4k+1 frames, sides of 16", "48, 32 channels", "Wan 2.2-5B, HunyuanVideo 1.5"},
      {"taecvx", "4k+1 or 8k frames, sides of 8", "16 channels", "CogVideoX"},
      {"taeltx", "8k+1 frames, sides of 32", "128 channels", "LTX"},
      {"taesd, taef2", "pictures, sides of 8", "4, 16, 32 channels", "Stable Diffusion, FLUX"},
      {"thin, naive", "any frames, any sides", "32 channels", "two 3-D convolutions, by way of 8 channels or of 32"},
  };
  std::printf("%s\n%s", list_video_presets().c_str(), table(rows).c_str());
  return 0;
}

}  // namespace
}  // namespace folio

int main(int argc, char** argv) {
  using namespace folio;
  CLI::App app{"Makes a clip from words, or decodes one from its latents.", "videogen"};
  VideoFlags flags;
  add_video_flags(app, flags);
  return run_tool(argc, argv, app, [&] {
    flags.has_prompt = app.count("--prompt") > 0;
    return flags.list_presets ? list_presets() : Session(flags).run();
  });
}
