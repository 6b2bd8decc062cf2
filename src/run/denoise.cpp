// SPDX-License-Identifier: MIT
#include "run/denoise.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "base/random.h"

namespace folio {

static const char* const solver_names[] = {"euler", "heun", "dpmpp2m", "unipc"};

Solver parse_solver(std::string_view name) {
  std::string known;
  for (size_t i = 0; i < std::size(solver_names); ++i) {
    if (name == solver_names[i]) return Solver(i);
    known += (i ? ", " : "") + std::string(solver_names[i]);
  }
  fail("denoise: there is no sampler '", std::string(name), "'; known are: ", known);
}

std::string name_of(Solver solver) { return solver_names[int(solver)]; }

std::vector<double> denoise_times(int steps, double shift) {
  check(steps >= 1 && steps <= 100000, "denoise: ", steps, " steps, expected 1 to 100000");
  check(shift > 0 && std::isfinite(shift), "denoise: a shift of ", shift, ", expected more than 0");
  std::vector<double> times;
  for (int i = 0; i <= steps; ++i) {
    const double u = double(steps - i) / steps;
    times.push_back(shift * u / (1 + (shift - 1) * u));
  }
  return times;
}

void fill_noise(std::span<float> x, uint64_t seed) {
  for (size_t i = 0; i < x.size(); ++i) x[i] = normal(seed, i);
}

namespace {

using Numbers = std::vector<float>;

double lambda_of(double t) { return std::log((1 - t) / t); }   // −∞ at 1, ∞ at 0

class Denoiser {
 public:
  Denoiser(std::span<float> x, const DenoiseOptions& options, const Velocity& velocity)
      : x_(x), options_(options), velocity_(velocity), v_(x.size()), without_(options.guidance == 1 ? 0 : x.size()), clean_(x.size()) {
    for (const Held& h : options.held) {
      check(h.from <= x.size() && h.count <= x.size() - h.from, "denoise: numbers ", h.from, " to ", h.from + h.count, " of ", x.size(),
            " are held");
      given_.insert(given_.end(), x.begin() + std::ptrdiff_t(h.from), x.begin() + std::ptrdiff_t(h.from + h.count));
    }
  }

  void step(double t, double next) {
    evaluate(x_, t);
    for (size_t i = 0; i < x_.size(); ++i) clean_[i] = float(x_[i] - t * v_[i]);
    switch (options_.solver) {
      case Solver::euler: euler(t, next); break;
      case Solver::heun: next > 0 ? heun(t, next) : euler(t, next); break;
      case Solver::dpmpp2m: multistep(t, next); break;
      case Solver::unipc:
        correct(t);
        start_.assign(x_.begin(), x_.end());
        multistep(t, next);
        break;
    }
    restore();
  }
  std::span<const float> clean() const { return clean_; }

 private:
  // v_ at (x, t), guided, 0 where numbers are held.
  void evaluate(std::span<const float> x, double t) {
    const bool guided = options_.guidance != 1 && t > options_.guide_from && t <= options_.guide_to;
    velocity_(x, t, v_, guided ? std::span<float>(without_) : std::span<float>());
    const float w = float(options_.guidance);
    for (size_t i = 0; guided && i < v_.size(); ++i) v_[i] = without_[i] + w * (v_[i] - without_[i]);
    for (const Held& h : options_.held) std::fill_n(v_.begin() + std::ptrdiff_t(h.from), h.count, 0.0f);
  }
  void restore() {
    auto from = given_.begin();
    for (const Held& h : options_.held) {
      std::copy_n(from, h.count, x_.begin() + std::ptrdiff_t(h.from));
      from += std::ptrdiff_t(h.count);
    }
  }
  void euler(double t, double next) {
    const float by = float(next - t);
    for (size_t i = 0; i < x_.size(); ++i) x_[i] += by * v_[i];
  }
  void heun(double t, double next) {
    const Numbers first = v_, from(x_.begin(), x_.end());
    euler(t, next);
    evaluate(x_, next);
    const float by = float(0.5 * (next - t));
    for (size_t i = 0; i < x_.size(); ++i) x_[i] = from[i] + by * (first[i] + v_[i]);
  }
  // x' = ratio·x + A·(m + before·(m − m₋))
  void multistep(double t, double next) {
    const double ratio = next / t, A = (1 - next) - (1 - t) * ratio, h = lambda_of(next) - lambda_of(t);
    double before = 0;
    if (!last_.empty() && next > 0) before = h / (2 * h_);   // h_ infinite: 0
    for (size_t i = 0; i < x_.size(); ++i) {
      double m = clean_[i];
      if (before != 0) m += before * (m - last_[i]);
      x_[i] = float(ratio * x_[i] + A * m);
    }
    older_ = std::exchange(last_, clean_);
    h_older_ = std::exchange(h_, h);
    t_ = t;
  }
  // x at t again, from the x before, now that m at t is there: with it and, where λ is finite, two predictions before.
  void correct(double t) {
    if (last_.empty()) return;
    const double ratio = t / t_, A = (1 - t) - (1 - t_) * ratio;
    double new_share = 0.5, old_share = 0;
    if (!older_.empty() && std::isfinite(h_older_)) {
      const double hh = -h_, E = std::expm1(hh), r = -h_older_ / h_;
      const double b1 = 1 / hh - 1 / E, b2 = 2 * ((E / hh - 1) / hh - 0.5) / E;
      old_share = (b1 - b2) / (1 - r);
      new_share = b1 - old_share;
      old_share /= r;   // of m₋ − m
    }
    for (size_t i = 0; i < x_.size(); ++i) {
      double m = last_[i] + new_share * (double(clean_[i]) - last_[i]);
      if (old_share != 0) m += old_share * (double(older_[i]) - last_[i]);
      x_[i] = float(ratio * start_[i] + A * m);
    }
  }

  std::span<float> x_;
  const DenoiseOptions& options_;
  const Velocity& velocity_;
  Numbers v_, without_, clean_, given_;
  Numbers last_, older_, start_;          // m of the step before and of the one before that; x of the step before
  double t_ = 1, h_ = 0, h_older_ = 0;    // that step's t, and the h of both
};

}  // namespace

bool denoise(std::span<float> x, const DenoiseOptions& options, const Velocity& velocity, const DenoiseProgress& progress) {
  const std::vector<double> times = denoise_times(options.steps, options.shift);
  check(std::isfinite(options.guidance), "denoise: a guidance of ", options.guidance);
  Denoiser run(x, options, velocity);
  for (int i = 0; i < options.steps; ++i) {
    run.step(times[size_t(i)], times[size_t(i) + 1]);
    if (progress && !progress({i + 1, options.steps, times[size_t(i) + 1], x, run.clean()})) return false;
  }
  return true;
}

}  // namespace folio
