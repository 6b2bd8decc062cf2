// SPDX-License-Identifier: MIT
#include "tools/lib/video_preview.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace folio {

Preview::Kind preview_kind(const std::string& name) {
  return name == "proj" ? Preview::Kind::projection : name == "vae" ? Preview::Kind::decoded : Preview::Kind::none;
}

Preview::Preview(Kind kind, const ThinVae& vae, std::string path, int every)
    : kind_(kind), vae_(vae), path_(std::move(path)), every_(every) {
  check(kind_ != Kind::projection || vae.encodes(),
        "--preview proj: it needs the autoencoder's encoder, which this file has not; --preview vae does not");
  check(kind_ != Kind::decoded || vae.decodes(), "--preview vae: this file has no decoder");
  if (kind_ == Kind::projection) learn_colours();
}

// Solves A x = b for three right sides; A [n, n] is symmetric and positive (Cholesky), b [n, 3] becomes x.
static void solve(std::vector<double>& A, std::vector<double>& b, size_t n) {
  for (size_t j = 0; j < n; ++j) {
    for (size_t k = 0; k < j; ++k) A[j * n + j] -= A[j * n + k] * A[j * n + k];
    A[j * n + j] = std::sqrt(A[j * n + j]);
    for (size_t i = j + 1; i < n; ++i) {
      for (size_t k = 0; k < j; ++k) A[i * n + j] -= A[i * n + k] * A[j * n + k];
      A[i * n + j] /= A[j * n + j];
    }
  }
  for (size_t c = 0; c < 3; ++c) {
    for (size_t i = 0; i < n; ++i) {
      for (size_t k = 0; k < i; ++k) b[i * 3 + c] -= A[i * n + k] * b[k * 3 + c];
      b[i * 3 + c] /= A[i * n + i];
    }
    for (size_t i = n; i-- > 0;) {
      for (size_t k = i + 1; k < n; ++k) b[i * 3 + c] -= A[k * n + i] * b[k * 3 + c];
      b[i * 3 + c] /= A[i * n + i];
    }
  }
}

void Preview::learn_colours() {
  const int64_t side = 5 * vae_.spatial();   // the latent in the middle sees little of the edge
  const size_t n = size_t(vae_.latent()) + 1, middle = 12 * size_t(vae_.latent());
  std::vector<double> A(n * n);
  colours_.assign(n * 3, 0);
  double size = 0;
  auto learn = [&](const float* latent, const double* colour) {
    std::vector<double> x(latent + middle, latent + middle + n - 1);
    x.push_back(1);
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n; ++j) A[i * n + j] += x[i] * x[j];
      for (size_t c = 0; c < 3; ++c) colours_[i * 3 + c] += x[i] * colour[c];
      size += x[i] * x[i];
    }
  };
  for (int k = 0; k < 27; ++k) {   // a clip of its own for each, so that none remembers another
    const double colour[3] = {(k % 3) / 2.0, (k / 3 % 3) / 2.0, (k / 9) / 2.0};
    std::vector<float> frame;
    for (int64_t i = 0; i < side * side; ++i)
      for (double c : colour) frame.push_back(float(c));
    VaeEncoder one(vae_, 1, side, side);
    one.push(frame.data(), [&](int64_t, const float* latent) {
      learn(latent, colour);
      return true;
    });
  }
  for (size_t i = 0; i < n; ++i) A[i * n + i] += 1e-4 * size / double(n);   // 27 colours do not say all about many channels
  solve(A, colours_, n);
}

std::vector<Image> Preview::projected(const Latents& l) const {
  std::vector<Image> pictures;
  const float* x = l.values.data();
  for (int64_t t = 0; t < l.count; ++t) {
    Image image{int(l.cols), int(l.rows), {}};
    for (int64_t p = 0; p < l.rows * l.cols; ++p, x += l.z)
      for (size_t c = 0; c < 3; ++c) {
        double sum = colours_[size_t(l.z) * 3 + c];
        for (size_t k = 0; k < size_t(l.z); ++k) sum += colours_[k * 3 + c] * x[k];
        image.rgb.push_back(uint8_t(std::clamp(sum, 0.0, 1.0) * 255 + 0.5));
      }
    pictures.push_back(std::move(image));
  }
  return pictures;
}

std::vector<Image> Preview::decoded(const Latents& l) const {
  std::vector<Image> pictures;
  VaeDecoder decoder(vae_, l.count, l.rows, l.cols);
  for (int64_t t = 0; t < l.count; ++t) {
    Image last{int(l.cols * vae_.spatial()), int(l.rows * vae_.spatial()), {}};
    decoder.push(l.values.data() + t * l.frame(), [&](int64_t, const float* rgb) {
      to_bytes(rgb, size_t(last.width) * size_t(last.height) * 3, last.rgb);
      return true;
    });
    if (!last.rgb.empty()) pictures.push_back(std::move(last));   // a net that looks ahead has none yet
  }
  return pictures;
}

void Preview::show(int step, const Latents& latents) const {
  if (!any() || step % every_ != 0) return;
  write_png(path_, sheet(kind_ == Kind::decoded ? decoded(latents) : projected(latents), 8, 64));
}

}  // namespace folio
