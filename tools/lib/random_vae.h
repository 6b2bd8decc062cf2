// SPDX-License-Identifier: MIT
// A thin autoencoder of TAEHV's layout for measuring: random weights made in memory, of the true widths or any others.
#pragma once
#include <array>

#include "files/weights.h"

namespace folio {

struct VaeShape {
  int64_t latent = 16, patch = 1;                            // z; pixels to a side of what the nets call one
  int64_t encoder = 64;                                      // channels; 0: there is none
  std::array<int64_t, 4> decoder = {256, 128, 64, 64};
  std::array<int64_t, 3> time = {1, 2, 2};                   // frames that each level makes of one; the encoder takes them in in reverse
};

// Multiply-adds of the decoder as its layers stand (nothing folded) for one latent pixel: 43,601,920 of the usual shape.
int64_t vae_decoder_macs(const VaeShape& shape);

// Weights as f32, scaled so that numbers neither grow nor vanish. Throws Error if there is no memory.
Weights random_vae(const VaeShape& shape = {});

}  // namespace folio
