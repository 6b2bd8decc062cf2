// SPDX-License-Identifier: MIT
// The sampler of a rectified flow (arXiv 2209.03003): x_t = (1 − t)·x₀ + t·ε goes from noise at t = 1 to data at t = 0 along dx/dt = v, and
// a model knows v. All of it happens in host memory and on one thread, so that numbers do not hang on the device: a clip's latent is small
// beside what the model does with it. The room knows no model: v is a function that somebody hands in.
//
// The solvers, with steps t → t', α = 1 − t, σ = t, λ = log(α/σ), h = λ' − λ and the data's prediction m = x − t·v:
//   euler     x' = x + (t' − t)·v
//   heun      x' = x + (t' − t)·(v + v(x_euler, t'))/2, the last step euler: two evaluations a step
//   dpmpp2m   x' = (t'/t)·x + A·(m + (m − m₋)·h/(2h₋)), A = α' − α·t'/t   (DPM-Solver++ 2M, arXiv 2211.01095)
//   unipc     the same; and when m' is there, x' is made again with it, at no evaluation (UniPC-2, B(h) = e^h − 1, arXiv 2302.04867)
// λ is infinite at both ends: there the multistep ones go with one prediction alone, as their authors do in the last step.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace folio {

enum class Solver { euler, heun, dpmpp2m, unipc };

// The solver of that name. Throws Error listing those there are.
Solver parse_solver(std::string_view name);
std::string name_of(Solver solver);

// Numbers that stay what they are: a frame that is given.
struct Held {
  size_t from, count;
};

struct DenoiseOptions {
  Solver solver = Solver::euler;
  int steps = 24;
  double shift = 1;                      // s: t = s·u/(1 + (s − 1)·u) for u from 1 to 0 (arXiv 2403.03206); larger clips want more
  double guidance = 1;                   // w: v = v_without + w·(v_with − v_without) (arXiv 2207.12598); 1: v_with alone
  double guide_from = 0, guide_to = 1;   // guided only where guide_from < t ≤ guide_to (arXiv 2404.07724)
  std::vector<Held> held;
};

// Writes v at (x, t): with the prompt, and without it if that is wanted; else `without` is empty. Nobody reads it of held numbers.
using Velocity = std::function<void(std::span<const float> x, double t, std::span<float> with, std::span<float> without)>;

// Where a run stands after a step. `clean`: what x would be at t = 0 by the step's last v, for previews. Both last as long as the call.
struct DenoiseStep {
  int done, steps;
  double t;
  std::span<const float> x, clean;
};
// After each step; false: enough, x stays as it is.
using DenoiseProgress = std::function<bool(const DenoiseStep&)>;

// The times of the steps, from 1 to 0: steps + 1 of them. Throws Error on steps < 1 or shift ≤ 0.
std::vector<double> denoise_times(int steps, double shift);

// Brings x from t = 1 to t = 0. False if `progress` (may be empty) stopped it.
bool denoise(std::span<float> x, const DenoiseOptions& options, const Velocity& velocity, const DenoiseProgress& progress = {});

// x = number i of the seed's normal noise, for each i (base/random.h): the same bits on every machine and device.
void fill_noise(std::span<float> x, uint64_t seed);

}  // namespace folio
