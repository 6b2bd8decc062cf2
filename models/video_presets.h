// SPDX-License-Identifier: MIT
// Video models that are known by name: their sizes, what their files hold, and files of random weights of those sizes, for
// measuring and for tests.
//   vg-s, vg-m    flow models of clips (models/video_dit.h), as tools/train_video.py trains them
//   seed-8.5m     the reconstruction network that this project began with (models/seed_video.h): 8,543,563 parameters
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "files/weights.h"
#include "models/video_dit.h"

namespace folio {

struct VideoPreset {
  std::string name, what;   // `what`: one line for people
  Metadata meta;
  std::vector<std::pair<std::string, Shape>> tensors;
  int64_t parameters() const;   // numbers that are trained
};

std::vector<VideoPreset> video_presets();
VideoPreset video_preset(const std::string& name);   // throws Error with the list if there is none of that name
std::string list_video_presets();                    // a line each: name, parameters, what it is

// A flow model of any size whose layers have these mixers in turn.
VideoPreset flow_preset(const VideoSize& size, const std::vector<std::string>& mixers, const std::vector<std::string>& words);

// Matrices with variance 1/inputs, norms and ridges 1, gates that hardly forget, biases 0. `number` is a seed.
Weights random_weights(const VideoPreset& preset, uint64_t number);

}  // namespace folio
