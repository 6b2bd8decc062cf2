// SPDX-License-Identifier: MIT
// The simulator and the helpers of cuda/lib against plain C++: threads and layouts, barriers and votes, sums, atomics, tickets and grid
// barriers, vector accesses and what is counted of them, pipelines of copies, and a product through TMA and wgmma. Instructions one by
// one are in cuda/lib/conform.cu. Every kernel runs under every schedule.
#include <cmath>
#include <numeric>

#include "cuda/lib/buffer.h"
#include "cuda/lib/hopper.cuh"
#include "cuda/lib/kernel.cuh"
#include "schedules.h"

namespace folio {
namespace {

using sim::Config, sim::Failure, sim::Use, sim::same_under_every_schedule, sim::stats;

std::vector<float> waves(int64_t n, float step = 0.37f) {
  std::vector<float> x(static_cast<size_t>(n));
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(float(i) * step);
  return x;
}

// --- Threads and shared memory.

__global__ void name_threads(int* out, int64_t base) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = int(base + block * 1000 + thread);
}

TEST(Threads, KnowWhoTheyAre) {
  const auto out = same_under_every_schedule([] {
    Buffer<int> y(2 * 3 * 4 * 30);
    launch<name_threads>({dim3(2, 3, 4), dim3(5, 3, 2), 0, nullptr}, y.data(), 7);  // 7 becomes int64_t
    return y.read();
  });
  for (size_t i = 0; i < out.size(); ++i) EXPECT_EQ(out[i], int(7 + i / 30 * 1000 + i % 30));
}

struct Layout {
  float* x;
  uint64_t* barrier;
  uint8_t* tile;
  __host__ __device__ explicit Layout(Smem& shared) {
    x = shared.take<float>(5);
    barrier = shared.take<uint64_t>(3, 8);
    tile = shared.take<uint8_t>(100, 1024);
  }
};

__global__ void use_layout(int* out) {
  Smem shared = Smem::here();
  const Layout l(shared);
  FOLIO_SHARED(int, table, [2][3]);
  FOLIO_SHARED(int, other, [4]);
  out += blockIdx.x * 3;
  out[0] = int(shared_address(l.x) % 16 + shared_address(l.barrier) % 8 + shared_address(l.tile) % 1024);
  out[1] = std::isnan(l.x[4]) && l.tile[99] == 0xff && table[1][2] == -1;  // poison
  table[1][2] = 5;
  other[3] = 6;
  out[2] = table[1][2] + other[3] + other[0];
}

TEST(SharedMemory, IsLaidOutAlikeOnBothSides) {
  Smem host;
  const Layout unused(host);
  EXPECT_EQ(host.bytes(), 1024u + 100);
  const auto out = same_under_every_schedule([&] {
    Buffer<int> y(9);
    launch<use_layout>({3, 1, host.bytes(), nullptr}, y.data());
    return y.read();
  });
  EXPECT_EQ(out, (std::vector<int>{0, 1, 10, 0, 1, 10, 0, 1, 10}));
  EXPECT_EQ(unused.x, nullptr);
}

// --- Barriers, votes, sums.

__global__ void vote(int* out) {
  const int t = int(threadIdx.x);
  const int all = __syncthreads_and(t < 96), any = __syncthreads_or(t == 95), count = __syncthreads_count(t % 3 == 0);
  const unsigned half = t % 32 < 16 ? 0xffffu : 0xffff0000u;
  const unsigned odd = __ballot_sync(half, t % 2);
  int v = t;
  if (t % 32 < 16) v += __shfl_xor_sync(0xffffu, v, 8);
  __syncwarp();
  out[t] = all + 2 * any + 4 * count + (odd == (0xaaaaaaaau & half) ? 1000 : 0) + (__all_sync(all_lanes, t >= 0) ? 2000 : 0) +
           (__any_sync(all_lanes, t == 40) ? 4000 : 0) + 10000 * v;
}

TEST(Barriers, Vote) {
  const auto out = same_under_every_schedule([] {
    Buffer<int> y(96);
    launch<vote>({1, 96, 0, nullptr}, y.data());
    return y.read();
  });
  for (int t = 0; t < 96; ++t)
    EXPECT_EQ(out[size_t(t)], 1 + 2 + 4 * 32 + 3000 + (t / 32 == 1 ? 4000 : 0) + 10000 * (t % 32 < 16 ? 2 * t + (t % 16 < 8 ? 8 : -8) : t));
}

__global__ void hand_over(const int* x, int* out, int rounds) {  // warp 0 fills, warps 1 and 2 read, by two named barriers
  FOLIO_SHARED(int, place, [32]);
  for (int i = 0; i < rounds; ++i) {
    if (warp_id() == 0) {
      if (i > 0) named_barrier_sync(2, 96);
      place[lane_id()] = x[i * 32 + lane_id()];
      named_barrier_arrive(1, 96);
    } else {
      named_barrier_sync(1, 96);
      out[(i * 2 + warp_id() - 1) * 32 + lane_id()] = place[31 - lane_id()] + warp_id();
      if (i + 1 < rounds) named_barrier_arrive(2, 96);
    }
  }
}

TEST(Barriers, NamedOnesHandOver) {
  std::vector<int> x(5 * 32);
  std::iota(x.begin(), x.end(), 0);
  const auto out = same_under_every_schedule([&] {
    const Buffer<int> in(x);
    Buffer<int> y(2 * 5 * 32);
    launch<hand_over>({1, 96, 0, nullptr}, in.data(), y.data(), 5);
    return y.read();
  });
  for (int i = 0; i < 320; ++i) EXPECT_EQ(out[size_t(i)], i / 64 * 32 + 31 - i % 32 + i / 32 % 2 + 1);
}

__global__ void sum_up(const float* x, float* out, int n) {
  float sum = 0, most = -1;
  for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) sum += x[i], most = max(most, x[i]);
  const float four = warp_sum<4>(float(threadIdx.x));
  const float total = block_sum(sum), top = block_max(most), total_again = block_sum(sum);
  if (threadIdx.x == blockDim.x - 1) {
    out[0] = total;
    out[1] = top;
    out[2] = four;
    out[3] = total_again == total;
  }
}

TEST(Sums, OverWarpsAndBlocks) {
  const auto x = waves(1000);
  for (unsigned threads : {32u, 96u, 256u, 1024u}) {
    const auto out = same_under_every_schedule([&] {
      const Buffer<float> in(x);
      Buffer<float> y(4);
      launch<sum_up>({1, threads, 0, nullptr}, in.data(), y.data(), 1000);
      return y.read();
    });
    EXPECT_NEAR(out[0], std::accumulate(x.begin(), x.end(), 0.0), 1e-4);
    EXPECT_EQ(out[1], *std::max_element(x.begin(), x.end()));
    EXPECT_EQ(out[2], float(4 * threads - 10));
    EXPECT_EQ(out[3], 1);
  }
}

// --- Between blocks.

__global__ void count_up(unsigned* u, int* i, float* f, unsigned long long* wide) {
  atomicAdd(u, 2u);
  atomicInc(u + 1, 4);
  atomicMax(i, int(threadIdx.x));
  atomicMin(i + 1, -int(threadIdx.x));
  atomicOr(u + 2, 1u << threadIdx.x % 32);
  atomicAdd(f, 0.5f);
  atomicAdd(wide, 1ull << 40);
  unsigned seen = load_acquire(u + 3);
  while (true) {
    const unsigned before = atomicCAS(u + 3, seen, seen + 3);
    if (before == seen) break;
    seen = before;
  }
}

TEST(Atomics, CountEverything) {
  same_under_every_schedule([] {
    Buffer<unsigned> u(std::vector<unsigned>(4, 0));
    Buffer<int> i(std::vector<int>(2, 0));
    Buffer<float> f(std::vector<float>(1, 0));
    Buffer<unsigned long long> wide(std::vector<unsigned long long>(1, 0));
    launch<count_up>({3, 64, 0, nullptr}, u.data(), i.data(), f.data(), wide.data());
    EXPECT_EQ(u.read(), (std::vector<unsigned>{384, 192 % 5, ~0u, 576}));
    EXPECT_EQ(i.read(), (std::vector<int>{63, -63}));
    EXPECT_EQ(f.read()[0], 96);
    EXPECT_EQ(wide.read()[0], 192ull << 40);
    return u.read();
  });
}

__global__ void sum_of_parts(const float* x, float* part, unsigned* ticket, float* out, int n) {
  float sum = 0;
  for (int i = int(blockIdx.x * blockDim.x + threadIdx.x); i < n; i += int(gridDim.x * blockDim.x)) sum += x[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) part[blockIdx.x] = sum;
  if (!block_is_last(ticket, gridDim.x)) return;
  if (threadIdx.x == 0) {
    float all = 0;
    for (unsigned i = 0; i < gridDim.x; ++i) all += part[i];  // in one order, whoever is last
    *out = all;
  }
}

TEST(Blocks, TheLastOneCombines) {
  const auto x = waves(5000);
  float first = 0;
  for (unsigned resident : {1u, 4u, 16u})
    for (bool backward : {false, true}) {
      const auto out = same_under_every_schedule(
          [&] {
            const Buffer<float> in(x);
            Buffer<float> part(16), y(1);
            Buffer<unsigned> ticket(std::vector<unsigned>(1, 0));
            for (int i = 0; i < 2; ++i)  // the ticket is ready again
              launch<sum_of_parts>({16, 64, 0, nullptr}, in.data(), part.data(), ticket.data(), y.data(), 5000);
            EXPECT_EQ(ticket.read()[0], 0u);
            return y.read();
          },
          Config{.resident_blocks = resident, .reverse_blocks = backward});
      EXPECT_NEAR(out[0], std::accumulate(x.begin(), x.end(), 0.0), 1e-3);
      if (first == 0) first = out[0];
      EXPECT_EQ(out[0], first);
    }
}

__global__ void reverse_all(const float* x, float* between, unsigned* count, float* out) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  between[i] = x[i] * 2;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(count, 1u);
    while (load_acquire(count) < gridDim.x) __nanosleep(20);
  }
  __syncthreads();
  out[i] = between[n - 1 - i];
}

TEST(Blocks, MeetWhenAllAreResident) {
  const auto x = waves(8 * 32);
  const auto run = [&] {
    const Buffer<float> in(x);
    Buffer<float> between(256), y(256);
    Buffer<unsigned> count(std::vector<unsigned>(1, 0));
    launch<reverse_all>({8, 32, 0, nullptr}, in.data(), between.data(), count.data(), y.data());
    return y.read();
  };
  const auto out = same_under_every_schedule(run, Config{.resident_blocks = 8});
  for (size_t i = 0; i < 256; ++i) EXPECT_EQ(out[i], 2 * x[255 - i]);
  const Use use(Config{.resident_blocks = 7});
  EXPECT_THROW(run(), Failure);
}

__global__ void wait_for_the_one_before(unsigned* flag, unsigned* out) {  // as look-back scans do, and without a pause in the loop
  if (threadIdx.x == 0) {
    unsigned sum = 0;
    if (blockIdx.x > 0)
      while ((sum = load_acquire(flag + blockIdx.x - 1)) == 0) {}
    store_release(flag + blockIdx.x, sum + blockIdx.x + 1);
    out[blockIdx.x] = sum;
  }
}

TEST(Blocks, WaitForTheOneBefore) {
  for (bool backward : {false, true}) {
    const auto out = same_under_every_schedule(
        [] {
          Buffer<unsigned> flag(std::vector<unsigned>(6, 0)), y(6);
          launch<wait_for_the_one_before>({6, 32, 0, nullptr}, flag.data(), y.data());
          return y.read();
        },
        Config{.resident_blocks = 6, .reverse_blocks = backward});
    EXPECT_EQ(out, (std::vector<unsigned>{0, 1, 3, 6, 10, 15}));
  }
}

// --- Memory.

__global__ void copy_vectors(const float* x, float* y, int n) {
  FOLIO_SHARED(float4, s, [64]);
  const int i = int(blockIdx.x * 64 + threadIdx.x);
  if (4 * i >= n) return;
  st_vec(&s[threadIdx.x], ld_stream<float4>(x + 4 * i));  // shared memory is not counted
  const auto v = ld_vec<float4>(&s[threadIdx.x]);
  st_vec(y + 4 * i, make_float2(v.x, v.y));
  st_vec(y + 4 * i + 2, make_float2(v.z, v.w));
}

TEST(Memory, VectorsAreCounted) {
  const auto x = waves(400);
  const auto out = same_under_every_schedule([&] {
    const Buffer<float> in(x);
    Buffer<float> y(400);
    stats() = {};
    launch<copy_vectors>({2, 64, 0, nullptr}, in.data(), y.data(), 400);
    const auto read = y.read();
    EXPECT_EQ(stats().loaded_bytes, 1600u);
    EXPECT_EQ(stats().stored_bytes, 1600u);
    EXPECT_EQ(stats().global_bytes(), 3200u);
    EXPECT_EQ(stats().blocks, 2u);
    return read;
  });
  EXPECT_EQ(out, x);
}

// Row sums, rows of 32 floats through two stages of cp.async; the last row is cut off after `n`.
__global__ void pipeline(const float* x, float* y, int rows, int n) {
  float* stage = Smem::here().take<float>(2 * 32);
  const int lane = lane_id();
  const auto fetch = [&](int row) {
    if (row < rows && lane < 8) {
      const int from = row * 32 + lane * 4;
      cp_async_part(stage + row % 2 * 32 + lane * 4, x + from, 4 * max(0, min(4, n - from)));
    }
    cp_async_commit();
  };
  fetch(0);
  for (int row = 0; row < rows; ++row) {
    fetch(row + 1);
    cp_async_wait<1>();
    __syncwarp();
    const float sum = warp_sum(stage[row % 2 * 32 + lane]);
    if (lane == 0) y[row] = sum;
    __syncwarp();
  }
}

TEST(Copies, FlowThroughAPipeline) {
  const auto x = waves(9 * 32);
  const int n = 9 * 32 - 11;
  const auto out = same_under_every_schedule([&] {
    const Buffer<float> in(x);
    Buffer<float> y(9);
    stats() = {};
    launch<pipeline>({1, 32, 256, nullptr}, in.data(), y.data(), 9, n);
    const auto read = y.read();
    EXPECT_EQ(stats().cp_async_bytes, uint64_t(4 * n));
    return read;
  });
  for (int row = 0; row < 9; ++row) {
    float sum = 0;
    for (int i = row * 32; i < std::min(n, row * 32 + 32); ++i) sum += x[size_t(i)];
    EXPECT_NEAR(out[size_t(row)], sum, 1e-4);
  }
}

__global__ void read_tiles(int pitch, uint32_t* out) {
  uint16_t* rows = Smem::here().take<uint16_t>(32 * 80);
  for (int i = lane_id(); i < 32 * pitch; i += 32) rows[i] = uint16_t(i);
  __syncwarp();
  uint32_t tile[4];
  ldmatrix(tile, rows + lane_id() * pitch);
  out[lane_id()] = tile[0] + tile[1] + tile[2] + tile[3];
}

TEST(Memory, BankConflictsOfTilesAreCounted) {
  Buffer<uint32_t> y(32);
  for (const auto& [pitch, waves] : {std::pair{64, 8u}, {32, 4u}, {72, 1u}, {40, 1u}, {8, 1u}}) {
    stats() = {};
    launch<read_tiles>({1, 32, 32 * 80 * 2, nullptr}, pitch, y.data());
    y.read();
    EXPECT_EQ(stats().ldmatrix_tiles, 4u);
    EXPECT_EQ(stats().ldmatrix_waves, 4 * waves) << pitch;
  }
}

// --- Hopper: C[M, N] = A[M, K] B[N, K]ᵀ in tiles of 64 x 64, one warp that loads through TMA and a warpgroup that multiplies.

struct Stages {
  static constexpr int count = 3, tile = 64 * 64;
  bf16 *a, *b;
  uint64_t *full, *empty;
  __host__ __device__ explicit Stages(Smem& shared) {
    a = shared.take<bf16>(count * tile, 1024);
    b = shared.take<bf16>(count * tile, 1024);
    full = shared.take<uint64_t>(count);
    empty = shared.take<uint64_t>(count);
  }
};

__global__ void __launch_bounds__(160) product(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,
                                               const __grid_constant__ TensorMap c, int steps) {
#if FOLIO_SM90
  Smem shared = Smem::here();
  const Stages s(shared);
  const int m = int(blockIdx.y) * 64, n = int(blockIdx.x) * 64;
  if (threadIdx.x == 0) {
    for (int i = 0; i < Stages::count; ++i) mbarrier_init(&s.full[i], 1), mbarrier_init(&s.empty[i], 128);
    mbarrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x >= 128) {
    if (threadIdx.x > 128) return;
    for (int i = 0; i < steps; ++i) {
      const int stage = i % Stages::count, turn = i / Stages::count;
      mbarrier_wait(&s.empty[stage], unsigned(turn + 1) % 2);
      mbarrier_expect(&s.full[stage], 2 * Stages::tile * sizeof(bf16));
      tma_load(s.a + stage * Stages::tile, a, &s.full[stage], {i * 64, m});
      tma_load(s.b + stage * Stages::tile, b, &s.full[stage], {i * 64, n});
    }
    return;
  }
  float d[32];
#pragma unroll
  for (float& v : d) v = 0;
  for (int i = 0; i < steps; ++i) {
    const int stage = i % Stages::count;
    mbarrier_wait(&s.full[stage], unsigned(i / Stages::count) % 2);
    wgmma_pin(d);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 64; k += 16)
      wgmma(d, wgmma_descriptor(s.a + stage * Stages::tile + k, 0, 1024, Swizzle::bytes128),
            wgmma_descriptor(s.b + stage * Stages::tile + k, 0, 1024, Swizzle::bytes128), true);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_pin(d);
    mbarrier_arrive(&s.empty[stage]);
  }
  // Out through shared memory and TMA, which cuts off what is past the edges.
  named_barrier_sync(1, 128);
  const int row = warp_id() * 16 + lane_id() / 4, column = lane_id() % 4 * 2;
#pragma unroll
  for (int i = 0; i < 32; i += 2) {
    const int r = row + i / 2 % 2 * 8, byte = r * 128 + (i / 4 * 8 + column) * 2;
    st_vec(reinterpret_cast<uint8_t*>(s.a) + (byte ^ (byte >> 7 & 7) << 4), pack_bf16(d[i], d[i + 1]));
  }
  fence_async_proxy();
  named_barrier_sync(1, 128);
  if (threadIdx.x == 0) {
    tma_store(c, s.a, {n, m});
    bulk_commit();
    bulk_wait_read<0>();
  }
#endif
}

TEST(Hopper, ProductThroughTmaAndWgmma) {
  constexpr int M = 100, N = 72, K = 328;
  std::vector<bf16> a(M * K), b(N * K);
  for (size_t i = 0; i < a.size(); ++i) a[i] = to_bf16(std::sin(float(i) * 0.61f));
  for (size_t i = 0; i < b.size(); ++i) b[i] = to_bf16(std::cos(float(i) * 0.23f));
  const auto out = same_under_every_schedule([&] {
    const Buffer<bf16> in_a(a), in_b(b);
    Buffer<bf16> y(M * N);
    const auto map = [](const bf16* x, int64_t rows, int64_t columns) {
      return tensor_map(x, {columns, rows}, {columns * 2}, {64, 64}, Swizzle::bytes128);
    };
    Smem shared;
    const Stages unused(shared);
    EXPECT_EQ(unused.a, nullptr);
    stats() = {};
    launch<product>({dim3(2, 2), 160, shared.bytes(), nullptr}, map(in_a.data(), M, K), map(in_b.data(), N, K), map(y.data(), M, N), 6);
    const auto read = y.read();
    EXPECT_EQ(stats().tma_bytes, uint64_t(4 * (6 * 2 + 1) * 64 * 64 * 2));
    EXPECT_EQ(stats().wgmma_flops, uint64_t(4 * 6 * 4) * 2 * 64 * 64 * 16);
    return read;
  });
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < N; ++n) {
      double sum = 0;
      for (int k = 0; k < K; ++k) sum += double(to_float(a[size_t(m * K + k)])) * to_float(b[size_t(n * K + k)]);
      ASSERT_NEAR(to_float(out[size_t(m * N + n)]), sum, 0.01 + std::fabs(sum) / 200) << m << ", " << n;
    }
}

TEST(Hopper, TensorMapsAreRefusedAsTheDriverDoes) {
  Buffer<bf16> x(4096);
  EXPECT_NO_THROW(tensor_map(x.data(), {64, 64}, {128}, {64, 8}, Swizzle::bytes128));
  EXPECT_THROW(tensor_map(x.data() + 1, {64, 32}, {128}, {64, 8}, Swizzle::bytes128), Error);
  EXPECT_THROW(tensor_map(x.data(), {63, 64}, {126}, {64, 8}, Swizzle::bytes128), Error);
  EXPECT_THROW(tensor_map(x.data(), {64, 64}, {128}, {32, 8}, Swizzle::bytes128), Error);
  EXPECT_THROW(tensor_map(x.data(), {64, 64}, {128}, {64, 257}, Swizzle::bytes128), Error);
  EXPECT_THROW(tensor_map(x.data(), {64, 64}, {}, {64, 8}, Swizzle::none), Error);
}

// A run is repeated exactly by its configuration, and another seed is another schedule.
TEST(Schedules, AreDeterministic) {
  const auto switches = [](uint64_t seed) {
    const Use use(Config{.order = sim::Order::random, .landing = sim::Landing::any_time, .seed = seed});
    Buffer<unsigned> u(std::vector<unsigned>(4, 0));
    Buffer<int> i(std::vector<int>(2, 0));
    Buffer<float> f(std::vector<float>(1, 0));
    Buffer<unsigned long long> wide(std::vector<unsigned long long>(1, 0));
    stats() = {};
    launch<count_up>({3, 64, 0, nullptr}, u.data(), i.data(), f.data(), wide.data());
    cudaDeviceSynchronize();
    return stats().switches;
  };
  EXPECT_EQ(switches(1), switches(1));
  EXPECT_NE(switches(1), switches(2));
}

}  // namespace
}  // namespace folio
