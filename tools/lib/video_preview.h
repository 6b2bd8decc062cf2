// SPDX-License-Identifier: MIT
// What a clip will look like, while it is made. `proj` shows the latents themselves: a linear map from their channels to colours, found
// once by encoding plain colours and least squares, at no cost afterwards. `vae` decodes them, which is as good as the clip and as slow.
#pragma once
#include <string>
#include <vector>

#include "models/thin_vae.h"
#include "tools/lib/video_files.h"

namespace folio {

class Preview {
 public:
  enum class Kind { none, projection, decoded };
  // Throws Error if the autoencoder has no half that this needs.
  Preview(Kind kind, const ThinVae& vae, std::string path, int every);
  // After a step: writes the PNG if it is time for one. A picture for each latent.
  void show(int step, const Latents& latents) const;
  bool any() const { return kind_ != Kind::none; }

 private:
  void learn_colours();
  std::vector<Image> projected(const Latents& latents) const;
  std::vector<Image> decoded(const Latents& latents) const;

  const Kind kind_;
  const ThinVae& vae_;
  const std::string path_;
  const int every_;
  std::vector<double> colours_;   // [z + 1, 3]: of each channel, and what is always added
};

Preview::Kind preview_kind(const std::string& name);   // "none", "proj", "vae"

}  // namespace folio
