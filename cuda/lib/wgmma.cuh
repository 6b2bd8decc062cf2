// SPDX-License-Identifier: MIT
// The PTX of wgmma.mma_async, m64nNk16 with f32 accumulators, for N = 8, 16 .. 256. Inline assembly wants every register by name, so
// the lists of each N are the list before with four more. Operands stand in one order for all: %0 and %1 are A (a descriptor and
// nothing, or four registers in two words), %2 is B's descriptor, %3 whether D is added to, and D begins at %4. The first four are
// said to be written only because outputs are numbered first. For hopper.cuh alone.
#pragma once
#include <cstdint>

namespace folio {

#define FOLIO_NAMES_8 "%4, %5, %6, %7"
#define FOLIO_NAMES_16 FOLIO_NAMES_8 ", %8, %9, %10, %11"
#define FOLIO_NAMES_24 FOLIO_NAMES_16 ", %12, %13, %14, %15"
#define FOLIO_NAMES_32 FOLIO_NAMES_24 ", %16, %17, %18, %19"
#define FOLIO_NAMES_40 FOLIO_NAMES_32 ", %20, %21, %22, %23"
#define FOLIO_NAMES_48 FOLIO_NAMES_40 ", %24, %25, %26, %27"
#define FOLIO_NAMES_56 FOLIO_NAMES_48 ", %28, %29, %30, %31"
#define FOLIO_NAMES_64 FOLIO_NAMES_56 ", %32, %33, %34, %35"
#define FOLIO_NAMES_72 FOLIO_NAMES_64 ", %36, %37, %38, %39"
#define FOLIO_NAMES_80 FOLIO_NAMES_72 ", %40, %41, %42, %43"
#define FOLIO_NAMES_88 FOLIO_NAMES_80 ", %44, %45, %46, %47"
#define FOLIO_NAMES_96 FOLIO_NAMES_88 ", %48, %49, %50, %51"
#define FOLIO_NAMES_104 FOLIO_NAMES_96 ", %52, %53, %54, %55"
#define FOLIO_NAMES_112 FOLIO_NAMES_104 ", %56, %57, %58, %59"
#define FOLIO_NAMES_120 FOLIO_NAMES_112 ", %60, %61, %62, %63"
#define FOLIO_NAMES_128 FOLIO_NAMES_120 ", %64, %65, %66, %67"
#define FOLIO_NAMES_136 FOLIO_NAMES_128 ", %68, %69, %70, %71"
#define FOLIO_NAMES_144 FOLIO_NAMES_136 ", %72, %73, %74, %75"
#define FOLIO_NAMES_152 FOLIO_NAMES_144 ", %76, %77, %78, %79"
#define FOLIO_NAMES_160 FOLIO_NAMES_152 ", %80, %81, %82, %83"
#define FOLIO_NAMES_168 FOLIO_NAMES_160 ", %84, %85, %86, %87"
#define FOLIO_NAMES_176 FOLIO_NAMES_168 ", %88, %89, %90, %91"
#define FOLIO_NAMES_184 FOLIO_NAMES_176 ", %92, %93, %94, %95"
#define FOLIO_NAMES_192 FOLIO_NAMES_184 ", %96, %97, %98, %99"
#define FOLIO_NAMES_200 FOLIO_NAMES_192 ", %100, %101, %102, %103"
#define FOLIO_NAMES_208 FOLIO_NAMES_200 ", %104, %105, %106, %107"
#define FOLIO_NAMES_216 FOLIO_NAMES_208 ", %108, %109, %110, %111"
#define FOLIO_NAMES_224 FOLIO_NAMES_216 ", %112, %113, %114, %115"
#define FOLIO_NAMES_232 FOLIO_NAMES_224 ", %116, %117, %118, %119"
#define FOLIO_NAMES_240 FOLIO_NAMES_232 ", %120, %121, %122, %123"
#define FOLIO_NAMES_248 FOLIO_NAMES_240 ", %124, %125, %126, %127"
#define FOLIO_NAMES_256 FOLIO_NAMES_248 ", %128, %129, %130, %131"
#define FOLIO_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define FOLIO_D_8 FOLIO_4(0)
#define FOLIO_D_16 FOLIO_D_8, FOLIO_4(4)
#define FOLIO_D_24 FOLIO_D_16, FOLIO_4(8)
#define FOLIO_D_32 FOLIO_D_24, FOLIO_4(12)
#define FOLIO_D_40 FOLIO_D_32, FOLIO_4(16)
#define FOLIO_D_48 FOLIO_D_40, FOLIO_4(20)
#define FOLIO_D_56 FOLIO_D_48, FOLIO_4(24)
#define FOLIO_D_64 FOLIO_D_56, FOLIO_4(28)
#define FOLIO_D_72 FOLIO_D_64, FOLIO_4(32)
#define FOLIO_D_80 FOLIO_D_72, FOLIO_4(36)
#define FOLIO_D_88 FOLIO_D_80, FOLIO_4(40)
#define FOLIO_D_96 FOLIO_D_88, FOLIO_4(44)
#define FOLIO_D_104 FOLIO_D_96, FOLIO_4(48)
#define FOLIO_D_112 FOLIO_D_104, FOLIO_4(52)
#define FOLIO_D_120 FOLIO_D_112, FOLIO_4(56)
#define FOLIO_D_128 FOLIO_D_120, FOLIO_4(60)
#define FOLIO_D_136 FOLIO_D_128, FOLIO_4(64)
#define FOLIO_D_144 FOLIO_D_136, FOLIO_4(68)
#define FOLIO_D_152 FOLIO_D_144, FOLIO_4(72)
#define FOLIO_D_160 FOLIO_D_152, FOLIO_4(76)
#define FOLIO_D_168 FOLIO_D_160, FOLIO_4(80)
#define FOLIO_D_176 FOLIO_D_168, FOLIO_4(84)
#define FOLIO_D_184 FOLIO_D_176, FOLIO_4(88)
#define FOLIO_D_192 FOLIO_D_184, FOLIO_4(92)
#define FOLIO_D_200 FOLIO_D_192, FOLIO_4(96)
#define FOLIO_D_208 FOLIO_D_200, FOLIO_4(100)
#define FOLIO_D_216 FOLIO_D_208, FOLIO_4(104)
#define FOLIO_D_224 FOLIO_D_216, FOLIO_4(108)
#define FOLIO_D_232 FOLIO_D_224, FOLIO_4(112)
#define FOLIO_D_240 FOLIO_D_232, FOLIO_4(116)
#define FOLIO_D_248 FOLIO_D_240, FOLIO_4(120)
#define FOLIO_D_256 FOLIO_D_248, FOLIO_4(124)

// Both kinds of A, for transposes and type written into the instruction.
#define FOLIO_SHARED_A(N, TYPE, TA, TB)                                                                                              \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %3, 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {"          \
               FOLIO_NAMES_##N "}, %0, %2, p, 1, 1, " #TA ", " #TB ";\n}"                                                            \
               : "+l"(a), "+l"(unused), "+l"(b), "+r"(add), FOLIO_D_##N)
#define FOLIO_REGISTER_A(N, TYPE, TB)                                                                                                \
  asm volatile("{\n.reg .pred p;\n.reg .b32 x, y, z, w;\nsetp.ne.b32 p, %3, 0;\nmov.b64 {x, y}, %0;\nmov.b64 {z, w}, %1;\n"           \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" FOLIO_NAMES_##N                                  \
               "}, {x, y, z, w}, %2, p, 1, 1, " #TB ";\n}"                                                                           \
               : "+l"(low), "+l"(high), "+l"(b), "+r"(add), FOLIO_D_##N)

// One instruction on f16 (Half) or bf16. TA, TB: A is M-major, B is N-major. The first run() takes A from shared memory, the second from
// registers.
template <int N, bool Half, bool TA, bool TB> struct WgmmaPtx;

#define FOLIO_WGMMA(N)                                                                                                               \
  template <bool Half, bool TA, bool TB> struct WgmmaPtx<N, Half, TA, TB> {                                                          \
    static __device__ __forceinline__ void run(float (&d)[N / 2], uint64_t a, uint64_t b, int add) {                                 \
      uint64_t unused = 0;                                                                                                           \
      if constexpr (Half && TA && TB) FOLIO_SHARED_A(N, "f16", 1, 1);                                                                \
      else if constexpr (Half && TA) FOLIO_SHARED_A(N, "f16", 1, 0);                                                                 \
      else if constexpr (Half && TB) FOLIO_SHARED_A(N, "f16", 0, 1);                                                                 \
      else if constexpr (Half) FOLIO_SHARED_A(N, "f16", 0, 0);                                                                       \
      else if constexpr (TA && TB) FOLIO_SHARED_A(N, "bf16", 1, 1);                                                                  \
      else if constexpr (TA) FOLIO_SHARED_A(N, "bf16", 1, 0);                                                                        \
      else if constexpr (TB) FOLIO_SHARED_A(N, "bf16", 0, 1);                                                                        \
      else FOLIO_SHARED_A(N, "bf16", 0, 0);                                                                                          \
    }                                                                                                                                \
    static __device__ __forceinline__ void run(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, int add) {                     \
      uint64_t low = a[0] | uint64_t(a[1]) << 32, high = a[2] | uint64_t(a[3]) << 32;                                                \
      if constexpr (Half && TB) FOLIO_REGISTER_A(N, "f16", 1);                                                                       \
      else if constexpr (Half) FOLIO_REGISTER_A(N, "f16", 0);                                                                        \
      else if constexpr (TB) FOLIO_REGISTER_A(N, "bf16", 1);                                                                         \
      else FOLIO_REGISTER_A(N, "bf16", 0);                                                                                           \
    }                                                                                                                                \
  };

FOLIO_WGMMA(8) FOLIO_WGMMA(16) FOLIO_WGMMA(24) FOLIO_WGMMA(32) FOLIO_WGMMA(40) FOLIO_WGMMA(48) FOLIO_WGMMA(56) FOLIO_WGMMA(64)
FOLIO_WGMMA(72) FOLIO_WGMMA(80) FOLIO_WGMMA(88) FOLIO_WGMMA(96) FOLIO_WGMMA(104) FOLIO_WGMMA(112) FOLIO_WGMMA(120) FOLIO_WGMMA(128)
FOLIO_WGMMA(136) FOLIO_WGMMA(144) FOLIO_WGMMA(152) FOLIO_WGMMA(160) FOLIO_WGMMA(168) FOLIO_WGMMA(176) FOLIO_WGMMA(184) FOLIO_WGMMA(192)
FOLIO_WGMMA(200) FOLIO_WGMMA(208) FOLIO_WGMMA(216) FOLIO_WGMMA(224) FOLIO_WGMMA(232) FOLIO_WGMMA(240) FOLIO_WGMMA(248) FOLIO_WGMMA(256)
#undef FOLIO_WGMMA
#undef FOLIO_REGISTER_A
#undef FOLIO_SHARED_A

}  // namespace folio
