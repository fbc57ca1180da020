// Runs CUDA kernels on the host: threads of a block are fibers that give way to each other at barriers and warp collectives, in a random
// order, so that a missing barrier shows. Stands in the place of mosso/kernels/cuda/primitives.cuh, function by function.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__ static  // blocks run one after the other
#define __launch_bounds__(...)
#define DYNAMIC_SHARED(name) unsigned char *name = host::shared

struct Index { unsigned x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
static uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static float2 make_float2(float x, float y) { return {x, y}; }
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
template <class T> static T min(T a, T b) { return a < b ? a : b; }
template <class T> static T max(T a, T b) { return a < b ? b : a; }
static int __float_as_int(float f) { int i; memcpy(&i, &f, 4); return i; }
static float __int_as_float(int i) { float f; memcpy(&f, &i, 4); return f; }

namespace host {
struct Barrier { int arrived = 0, turn = 0; };
struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  bool done = false;
};
struct Warp {
  Barrier barrier;
  float values[32];
  const float *a[32], *b[32];
};
static std::vector<std::unique_ptr<Fiber>> fibers;
static std::vector<Warp> warps;
static Barrier block;
static ucontext_t scheduler;
static unsigned char *shared;
static std::function<void()> body;
static unsigned current;

[[noreturn]] static void fail(const char *what) {
  fprintf(stderr, "%s: block %u %u, thread %u\n", what, blockIdx.x, blockIdx.y, threadIdx.x);
  abort();
}
static void give_way() {
  unsigned me = current;
  swapcontext(&fibers[me]->context, &scheduler);
}
static void wait(Barrier &barrier, int count) {
  int turn = barrier.turn;
  if (++barrier.arrived == count) {
    barrier.arrived = 0, barrier.turn++;
  }
  while (barrier.turn == turn) give_way();
}
static void start() {
  body();
  fibers[current]->done = true;
  swapcontext(&fibers[current]->context, &scheduler);
}
static void run_block(unsigned threads, size_t shared_bytes, std::mt19937 &random) {
  std::vector<unsigned char> memory(shared_bytes + 16, 0xff);  // NaN
  shared = memory.data() + (16 - (uintptr_t)memory.data() % 16) % 16;
  block = Barrier(), warps.assign((threads + 31) / 32, Warp());
  fibers.resize(threads);
  for (auto &fiber : fibers) {
    if (!fiber) fiber = std::make_unique<Fiber>(), fiber->stack.resize(1 << 18);
    fiber->done = false;
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.data(), fiber->context.uc_stack.ss_size = fiber->stack.size();
    makecontext(&fiber->context, start, 0);
  }
  std::vector<unsigned> alive(threads);
  for (unsigned i = 0; i < threads; i++) alive[i] = i;
  for (long idle = 0; !alive.empty(); idle++) {
    if (idle > 10000000) fail("threads wait for each other");
    std::shuffle(alive.begin(), alive.end(), random);
    std::vector<unsigned> left;
    for (unsigned i : alive) {
      current = i, threadIdx = {i, 0, 0};
      swapcontext(&scheduler, &fibers[i]->context);
      if (!fibers[i]->done) left.push_back(i);
    }
    alive.swap(left);
  }
}
static void launch(unsigned grid_x, unsigned grid_y, unsigned threads, size_t shared_bytes, std::function<void()> kernel) {
  std::mt19937 random(1);
  gridDim = {grid_x, grid_y, 1}, blockDim = {threads, 1, 1}, body = std::move(kernel);
  for (unsigned y = 0; y < grid_y; y++)
    for (unsigned x = 0; x < grid_x; x++) blockIdx = {x, y, 0}, run_block(threads, shared_bytes, random);
}
}  // namespace host

static void __syncthreads() { host::wait(host::block, blockDim.x); }
static float __uint_as_float(unsigned i) { float f; memcpy(&f, &i, 4); return f; }
static unsigned __float_as_uint(float f) { unsigned i; memcpy(&i, &f, 4); return i; }
static void wait_for_warp() { host::wait(host::warps[threadIdx.x / 32].barrier, 32); }
static unsigned and_or(unsigned x, unsigned keep, unsigned set) { return (x & keep) | set; }
static float half_to_float(unsigned short bits) {
  _Float16 half;
  memcpy(&half, &bits, 2);
  return (float)half;
}

// Tensor cores add like this: terms are cut off below the largest by two bits more than float32 has, and so is the sum (Fasi, Higham,
// Mikaitis and Pranesh, Numerical behavior of NVIDIA tensor cores, 2021), four products at a time.
static float add_truncated(const double (&terms)[5]) {
  int largest = -1000;
  for (double term : terms) {
    if (std::isnan(term) || std::isinf(term)) return NAN;
    if (term != 0) largest = max(largest, std::ilogb(term));
  }
  if (largest == -1000) return 0;
  double quantum = std::ldexp(1.0, largest - 25), sum = 0;
  for (double term : terms) sum += std::trunc(term / quantum) * quantum;
  float rounded = (float)sum;
  return std::fabs((double)rounded) > std::fabs(sum) ? std::nextafterf(rounded, 0.0f) : rounded;
}
static double leading_bits(float x) { return __uint_as_float(__float_as_uint(x) & 0xffffe000u); }

// Element (row, k) of the first operand: number (row >= 8) + 2 (k >= 4) of lane 4 (row % 8) + k % 4.
// Element (k, column) of the second: number k >= 4 of lane 4 column + k % 4.
// Number v of a lane in the result: row lane / 4 + 8 (v / 2), column 2 (lane % 4) + v % 2.
static void multiply_add(float (&d)[4], const float *a, const float *b, unsigned depth) {
  host::Warp &warp = host::warps[threadIdx.x / 32];
  unsigned lane = threadIdx.x % 32;
  warp.a[lane] = a, warp.b[lane] = b;
  host::wait(warp.barrier, 32);
  for (int v = 0; v < 4; v++) {
    unsigned row = lane / 4 + 8 * (v / 2), column = 2 * (lane % 4) + v % 2;
    for (unsigned half = 0; half < depth / 4; half++) {
      double terms[5];
      for (unsigned k = 0; k < 4; k++)
        terms[k] = leading_bits(warp.a[4 * (row % 8) + k][(row >= 8) + 2 * half]) * leading_bits(warp.b[4 * column + k][half]);
      terms[4] = d[v], d[v] = add_truncated(terms);
    }
  }
  host::wait(warp.barrier, 32);
}
static void multiply_add(float (&d)[4], const float (&a)[4], float b0, float b1) {
  const float b[2] = {b0, b1};
  multiply_add(d, a, b, 8);
}
static void multiply_add(float (&d)[4], float a0, float a1, float b) {
  const float a[2] = {a0, a1};
  multiply_add(d, a, &b, 4);
}
static float exchange(float value, int mask) {
  host::Warp &warp = host::warps[threadIdx.x / 32];
  warp.values[threadIdx.x % 32] = value;
  host::wait(warp.barrier, 32);
  float other = warp.values[(threadIdx.x % 32) ^ mask];
  host::wait(warp.barrier, 32);
  return other;
}
// Starts a kernel from the addresses of its arguments, as the driver does.
template <class... Arguments, size_t... I>
static void launch_on_host(void (*kernel)(Arguments...), unsigned grid_x, unsigned grid_y, unsigned threads, size_t shared_bytes,
                           void **addresses, std::index_sequence<I...>) {
  host::launch(grid_x, grid_y, threads, shared_bytes, [=] { kernel(*reinterpret_cast<Arguments *>(addresses[I])...); });
}
#define ON_HOST(kernel)                                                                                                                  \
  extern "C" void host_##kernel(unsigned grid_x, unsigned grid_y, unsigned threads, size_t shared_bytes, void **addresses) {             \
    launch_on_host(kernel, grid_x, grid_y, threads, shared_bytes, addresses, arguments_of(kernel));                                      \
  }
template <class... Arguments> static std::index_sequence_for<Arguments...> arguments_of(void (*)(Arguments...)) { return {}; }
