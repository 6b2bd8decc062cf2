// SPDX-License-Identifier: MIT
// The command line of videogen: its flags, and which of the four ways through the program they ask for.
#pragma once
#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "files/video.h"

namespace folio {

struct VideoFlags {
  std::string model, vae, output, device = "cpu", vae_type = "f32";
  std::string prompt, negative, sampler = "euler", seed = "-1", init_image, last_image;
  std::string video_in, latent_in, latent_out, decode = "stream";
  std::string preview = "none", preview_path, fps, chroma = "444";
  int width = 0, height = 0, steps = 0, batch = 1, threads = 0, preview_every = 1;
  int64_t frames = 0;
  double cfg = -1, shift = 0;            // below zero, or zero: what the model was made for
  uint64_t mem_limit = 0;                // 0: none
  bool has_prompt = false, vae_only = false, list_presets = false, json = false, quiet = false;
};

enum class VideoWay {
  generate,     // words -> latents -> frames
  decode,       // --latent-in -> frames
  encode,       // --video-in -> --latent-out
  recode,       // --video-in -> latents -> frames, and how near they come
};

void add_video_flags(CLI::App& app, VideoFlags& flags);

// After parsing. Throws Error if flags are missing or do not go together.
VideoWay video_way(const VideoFlags& flags);

// The seed of a run: the number, or one drawn for "-1". Throws Error on anything else.
uint64_t video_seed(const VideoFlags& flags);

// What clip `number` of `--batch` is called: "x.gif" -> "x-2.gif", "out/%04d.png" -> "out/2/%04d.png"; as it is if there is only one.
std::string batch_name(const std::string& name, int number, int batch);

// Where previews go: the name that was given, or one beside the output: "x.gif" -> "x.preview.png".
std::string preview_name(const VideoFlags& flags);

}  // namespace folio
