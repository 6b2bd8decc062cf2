// SPDX-License-Identifier: MIT
#include "tools/lib/video_flags.h"

#include <charconv>
#include <filesystem>
#include <random>

#include "base/error.h"

namespace folio {

static void add_clip_flags(CLI::App& app, VideoFlags& flags) {
  const std::string what = "The clip", how = "How it is made";
  app.add_option("-p,--prompt", flags.prompt, "What is to be seen")->group(what);
  app.add_option("--neg,--negative-prompt", flags.negative, "What is not: guidance leads away from it (otherwise from no words at all)")
      ->group(what);
  app.add_option("-W,--width", flags.width, "Pixels to a side; 0: what the model makes, or what the clip that comes in has")
      ->check(CLI::Range(0, 16384))->capture_default_str()->group(what);
  app.add_option("-H,--height", flags.height)->check(CLI::Range(0, 16384))->capture_default_str()->group(what);
  app.add_option("--frames,--video-frames", flags.frames, "How many; likewise. Of a clip that comes in, the first so many")
      ->check(CLI::Range(int64_t(1), int64_t(1) << 24))->group(what);
  app.add_option("--fps", flags.fps, "Frames a second: 8, 12.5 or 30000/1001; likewise")->group(what);
  app.add_option("-s,--seed", flags.seed, "The noise that it begins with; -1: one is drawn, and printed")
      ->capture_default_str()
      ->group(what);
  app.add_option("--batch", flags.batch, "So many clips, with one seed after the other")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str()
      ->group(what);
  app.add_option("--init-image", flags.init_image, "A PNG that the clip begins with")->group(what);
  app.add_option("--last-image", flags.last_image, "A PNG that it ends with")->group(what);
  app.add_option("--steps", flags.steps, "Steps from noise to clip; 0: what the model was tuned for")
      ->check(CLI::Range(0, 100000))->capture_default_str()->group(how);
  app.add_option("--cfg,--cfg-scale", flags.cfg,
                 "How much the words count: 1 is as learnt, and twice as fast as others (otherwise the model's own)")
      ->check(CLI::Range(0.0, 1000.0))
      ->group(how);
  app.add_option("--shift,--flow-shift", flags.shift,
                 "More than 1: longer at the noisy end, which large clips want (otherwise the model's own)")
      ->check(CLI::Range(0.001, 1000.0))
      ->group(how);
  app.add_option("--sampler,--sampling-method", flags.sampler, "euler, heun (two evaluations a step), dpmpp2m or unipc")
      ->check(CLI::IsMember({"euler", "heun", "dpmpp2m", "unipc"}))->capture_default_str()->group(how);
}

void add_video_flags(CLI::App& app, VideoFlags& flags) {
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);   // a script's flags may be overruled by later ones
  const std::string files = "What comes in and goes out", machine = "The machine", shown = "What is shown";
  app.add_option("-m,--model", flags.model, "The model: a .folio file");
  app.add_option("--vae", flags.vae, "A file whose autoencoder is taken in place of the model's own");
  app.add_option("-o,--output", flags.output,
                 "x.y4m, x.gif, x.apng, x.png (one frame), out/%04d.png, x.rgb, - (raw RGB to standard output), or x.mp4, .webm, .mkv, "
                 ".mov through ffmpeg")
      ->group(files);
  app.add_option("--video-in", flags.video_in,
                 "No prompt: this clip (.y4m, in/%04d.png, - for y4m, others through ffmpeg) is encoded, decoded, and compared")
      ->group(files);
  app.add_option("--latent-out", flags.latent_out, "Save the latents before they are decoded: .npy, float32 [1, z, T, h, w]")->group(files);
  app.add_option("--latent-in", flags.latent_in, "No prompt: these latents are decoded")->group(files);
  app.add_flag("--vae-only", flags.vae_only, "The autoencoder alone: no flow model is looked for")->group(files);
  app.add_option("--chroma", flags.chroma, "Colours of a y4m: 444, or 420 with a quarter of them")
      ->check(CLI::IsMember({"444", "420"}))
      ->capture_default_str()
      ->group(files);
  add_clip_flags(app, flags);
  app.add_option("--decode", flags.decode,
                 "stream: frame by frame, at a memory that does not grow with their number; full: all at once, for comparison")
      ->check(CLI::IsMember({"stream", "full"}))
      ->capture_default_str()
      ->group(machine);
  app.add_option("--mem-limit", flags.mem_limit,
                 "Bytes that may be used (2GB, 500MB): decoding works in bands where it must; what cannot be done is refused at once")
      ->transform(CLI::AsSizeValue(false))
      ->group(machine);
  app.add_option("--vae-type", flags.vae_type, "What the autoencoder computes with: f32, or f16 or bf16 weights")
      ->check(CLI::IsMember({"f32", "f16", "bf16"}))->capture_default_str()->group(machine);
  app.add_option("--device", flags.device, "cpu, cuda (the first card) or cuda:N")->capture_default_str()->group(machine);
  app.add_option("-t,--threads", flags.threads, "Threads; 0: all that this process may use. The clip does not depend on it")
      ->check(CLI::Range(0, 1024))->capture_default_str()->group(machine);
  app.add_option("--preview", flags.preview,
                 "While it is made, a PNG of what it will be: proj (colours of the latents, at once) or vae (decoded)")
      ->check(CLI::IsMember({"none", "proj", "vae"}))
      ->capture_default_str()
      ->group(shown);
  app.add_option("--preview-every", flags.preview_every, "After so many steps")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str()
      ->group(shown);
  app.add_option("--preview-path", flags.preview_path, "Where (otherwise beside the output: x.preview.png)")->group(shown);
  app.add_flag("--json", flags.json, "One JSON object for each clip on standard output")->group(shown);
  app.add_flag("-q,--quiet", flags.quiet, "Nothing on standard error but errors")->group(shown);
  app.add_flag("--list-presets", flags.list_presets, "The models and autoencoders that are known, with their sizes")->group(shown);
  app.footer(
      "Examples:\n"
      "  videogen -m folio-shapes.folio -p 'a red circle bouncing' -o clip.gif -s 1\n"
      "  videogen -m folio-shapes.folio -p 'a small blue square' --batch 8 -o clips/out.apng --preview proj\n"
      "  videogen --vae taew2_1.folio --latent-in wan.npy -o clip.mp4 --mem-limit 1GB\n"
      "  videogen --vae taef2.folio --video-in clip.y4m -o back.y4m       how much an autoencoder loses\n"
      "  videogen -m folio-shapes.folio -p 'a red circle' -o - | ffplay -f rawvideo -pixel_format rgb24 -video_size 64x64 -framerate 8 -");
}

VideoWay video_way(const VideoFlags& f) {
  check(!f.model.empty() || !f.vae.empty(), "no model: give one with -m FILE, or an autoencoder alone with --vae FILE");
  check(f.video_in.empty() || f.latent_in.empty(), "--video-in and --latent-in: only one of them can be decoded");
  const bool given = !f.video_in.empty() || !f.latent_in.empty();
  check(!given || !f.has_prompt, "--prompt and ", f.video_in.empty() ? "--latent-in" : "--video-in", ": a clip is either made or given");
  check(given || !f.vae_only, "--vae-only: give what is to be encoded or decoded with --video-in or --latent-in");
  check(!f.json || f.output != "-", "--json and -o -: standard output has room for one of them");
  VideoWay way = VideoWay::generate;
  if (!f.latent_in.empty()) way = VideoWay::decode;
  if (!f.video_in.empty()) way = f.output.empty() && !f.latent_out.empty() ? VideoWay::encode : VideoWay::recode;
  if (way == VideoWay::generate) {
    check(!f.model.empty(),
          "no model: --vae is an autoencoder alone; give the model with -m FILE, or something to decode with --latent-in or --video-in");
    check(f.has_prompt, "no prompt: say what is to be seen with -p 'a red circle bouncing'");
    check(!f.output.empty() || !f.latent_out.empty(), "no output: say where the clip goes with -o clip.gif");
    check(f.output != "-" || f.batch == 1, "--batch and -o -: clips one behind the other cannot be told apart");
  } else {
    check(f.batch == 1, "--batch: there is one clip to ", way == VideoWay::decode ? "decode" : "encode");
    for (const auto& [name, given_flag] :
         {std::pair("--init-image", !f.init_image.empty()), {"--last-image", !f.last_image.empty()}, {"--neg", !f.negative.empty()}})
      check(!given_flag, name, ": this is for clips that are made from a prompt");
  }
  if (way == VideoWay::decode) check(!f.output.empty(), "no output: say where the clip goes with -o clip.gif");
  if (way == VideoWay::decode) check(f.latent_out.empty(), "--latent-out: the latents are those of --latent-in");
  check(f.decode == "stream" || f.mem_limit == 0, "--decode full takes what it takes; with --mem-limit only stream can be used");
  return way;
}

uint64_t video_seed(const VideoFlags& flags) {
  if (flags.seed == "-1") {
    std::random_device random;
    return random();   // 32 bits: short enough to be typed again
  }
  uint64_t seed = 0;
  const char *at = flags.seed.data(), *end = at + flags.seed.size();
  const auto [after, error] = std::from_chars(at, end, seed);
  check(error == std::errc() && after == end && at != end, "--seed: '", flags.seed, "' is not a number from 0 to 2^64 - 1, nor -1");
  return seed;
}

std::string batch_name(const std::string& name, int number, int batch) {
  if (batch == 1 || name.empty()) return name;
  const std::filesystem::path path = name;
  if (has_number(name)) return (path.parent_path() / std::to_string(number) / path.filename()).string();
  return (path.parent_path() / join(path.stem().string(), "-", number, path.extension().string())).string();
}

std::string preview_name(const VideoFlags& flags) {
  if (!flags.preview_path.empty()) return flags.preview_path;
  if (flags.output.empty() || flags.output == "-") return "preview.png";
  const std::filesystem::path path = flags.output;
  return (path.parent_path() / (has_number(flags.output) ? "preview.png" : path.stem().string() + ".preview.png")).string();
}

}  // namespace folio
