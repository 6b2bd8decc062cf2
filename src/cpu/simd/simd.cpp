// SPDX-License-Identifier: MIT
#include "cpu/simd/simd.h"

#include <cstdlib>
#include <string>

#include "base/error.h"

namespace folio {

extern const Simd simd_plain;
#ifdef FOLIO_SIMD_avx2
extern const Simd simd_avx2, simd_avx512;
extern const MatmulFormat matmul_of_bf16;

static const Simd& avx512_bf16() {
  static const Simd set = [] {
    Simd simd = simd_avx512;
    simd.name = "avx512_bf16";
    simd.matmul.bf16 = matmul_of_bf16;
    return simd;
  }();
  return set;
}
#endif
#ifdef FOLIO_SIMD_neon
extern const Simd simd_neon;
#endif

std::vector<const Simd*> simd_sets() {
  std::vector<const Simd*> sets;
#ifdef FOLIO_SIMD_avx2
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) sets.push_back(&avx512_bf16());
  if (avx512) sets.push_back(&simd_avx512);
  if (avx2) sets.push_back(&simd_avx2);
#endif
#ifdef FOLIO_SIMD_neon
  sets.push_back(&simd_neon);
#endif
  sets.push_back(&simd_plain);
  return sets;
}

static const Simd* named(std::string_view name) {
  for (const Simd* set : simd_sets())
    if (name == set->name) return set;
  return nullptr;
}

static const Simd* pick() {
  const char* wish = std::getenv("FOLIO_SIMD");
  if (!wish || !*wish) return simd_sets().front();
  const Simd* set = named(wish);
  std::string known;
  for (const Simd* s : simd_sets()) known += std::string(known.empty() ? "" : ", ") + s->name;
  check(set != nullptr, "FOLIO_SIMD=", wish, ": not an instruction set of this build and processor; there are ", known);
  return set;
}

static const Simd*& active() {
  static const Simd* set = pick();
  return set;
}

const Simd& simd() { return *active(); }

bool force_simd(std::string_view name) {
  const Simd* set = name.empty() ? pick() : named(name);
  if (set) active() = set;
  return set != nullptr;
}

}  // namespace folio
