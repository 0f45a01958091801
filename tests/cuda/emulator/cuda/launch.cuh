// Runs the kernels of csrc/cuda on the CPU, for tests: the include path finds this file instead of
// csrc/cuda/launch.cuh, and the .cu files are compiled as C++.
//
// Blocks run one after the other. The threads of a block are contexts that take turns in one thread
// of the process. They switch only at barriers and warp operations, in an order that can be set.
// Results that change with the order reveal a missing barrier. A barrier that not all threads reach
// aborts the process with a message.
#pragma once

#include <setjmp.h>
#include <torch/csrc/stable/tensor.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#include "check.h"

#define RL4REC_CUDA_LIBRARY rl4rec_cuda_emulated
#define RL4REC_CUDA_KEY CPU

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __shared__ static  // blocks run one after the other

struct uint4 {
  uint32_t x, y, z, w;
};
struct float4 {
  float x, y, z, w;
};
struct Index {
  unsigned x;
};

namespace emulator {

constexpr int kLanes = 32;
// With the first two, a warp runs as far as it can before the next one, from either end. With the
// last one, all threads take turns in a random order.
enum Order : int { kForward, kBackward, kRandom };

struct Thread {
  ucontext_t start;
  jmp_buf state;
  std::unique_ptr<char[]> stack;
  bool started, ended;
  int warp_operations;
};

// Threads that wait for each other: a warp, or the block.
struct Barrier {
  int size, arrived = 0;
  int64_t passed = 0;
};

struct Block {
  std::vector<Thread> threads;
  std::vector<Barrier> warps;
  Barrier all;
  int count[2];                   // of __syncthreads_count, used in turns
  uint64_t slots[2][32][kLanes];  // of warp operations, used in turns: [turn][warp][lane]
  std::vector<float4> shared;
  std::function<void()> kernel;
  ucontext_t caller;
  jmp_buf scheduler;
  int current;
  bool progress;  // whether a thread passed a barrier or ended since this was reset
};

inline Block block;
inline Order order = kForward;
inline std::mt19937 generator(0);
inline Index thread_index, block_index;

[[noreturn]] inline void fail(const char* message) {
  std::fprintf(stderr, "the emulated kernel failed: %s\n", message);
  std::abort();
}

inline Thread& me() { return block.threads[block.current]; }

inline void yield() {
  if (_setjmp(me().state) == 0) _longjmp(block.scheduler, 1);
}

inline void wait(Barrier& barrier) {
  const int64_t passed = barrier.passed;
  if (++barrier.arrived == barrier.size) {
    barrier.arrived = 0;
    ++barrier.passed;
    block.progress = true;
    return;
  }
  while (barrier.passed == passed) yield();
}

inline void run_thread() {
  block.kernel();
  me().ended = block.progress = true;
  _longjmp(block.scheduler, 1);
}

inline void resume(int index) {
  block.current = index;
  thread_index.x = static_cast<unsigned>(index);
  Thread& thread = me();
  if (_setjmp(block.scheduler) != 0) return;
  if (thread.started) _longjmp(thread.state, 1);
  thread.started = true;
  setcontext(&thread.start);
}

inline void prepare(int threads, int64_t shared_bytes) {
  constexpr size_t kStack = 64 << 10;
  block.threads.resize(threads);
  block.shared.assign(shared_bytes / sizeof(float4) + 1, float4{});
  block.warps.assign(threads / kLanes, Barrier{kLanes});
  block.all = Barrier{threads};
  for (Thread& thread : block.threads) {
    if (!thread.stack) thread.stack.reset(new char[kStack]);
    getcontext(&thread.start);
    thread.start.uc_stack.ss_sp = thread.stack.get();
    thread.start.uc_stack.ss_size = kStack;
    thread.start.uc_link = nullptr;
    makecontext(&thread.start, run_thread, 0);
    thread.started = thread.ended = false;
    thread.warp_operations = 0;
  }
  // Shared memory starts with any values. NaN reveals a read before the first write.
  std::memset(static_cast<void*>(block.shared.data()), 0xff, block.shared.size() * sizeof(float4));
}

inline void run_block() {
  std::vector<int> turns(block.threads.size());
  std::iota(turns.begin(), turns.end(), 0);
  if (order == kBackward) std::reverse(turns.begin(), turns.end());
  bool all_ended = false;
  while (!all_ended) {
    if (order == kRandom) std::shuffle(turns.begin(), turns.end(), generator);
    bool any_progress = false;
    all_ended = true;
    for (size_t first = 0; first < turns.size(); first += kLanes) {
      do {
        block.progress = false;
        for (size_t i = first; i < first + kLanes; ++i)
          if (!block.threads[turns[i]].ended) resume(turns[i]), all_ended = false;
        any_progress |= block.progress;
      } while (block.progress && order != kRandom);
    }
    if (!all_ended && !any_progress) fail("not all threads reached a barrier or a warp operation");
  }
}

// Warp operations: each thread publishes a value, then reads those of the others.
template <typename Value>
Value exchange(unsigned mask, Value value, int from) {
  static_assert(sizeof(Value) <= sizeof(uint64_t));
  if (mask != 0xffffffffu) fail("warp operations of a part of a warp are not emulated");
  auto& slots = block.slots[me().warp_operations++ % 2][block.current / kLanes];
  std::memcpy(&slots[block.current % kLanes], &value, sizeof(Value));
  wait(block.warps[block.current / kLanes]);
  std::memcpy(&value, &slots[from], sizeof(Value));
  return value;
}

}  // namespace emulator

#define threadIdx emulator::thread_index
#define blockIdx emulator::block_index

template <typename Value>
Value __shfl_sync(unsigned mask, Value value, int lane) {
  return emulator::exchange(mask, value, lane);
}
template <typename Value>
Value __shfl_xor_sync(unsigned mask, Value value, int distance) {
  return emulator::exchange(mask, value, emulator::block.current % emulator::kLanes ^ distance);
}
inline unsigned __ballot_sync(unsigned mask, bool predicate) {
  using namespace emulator;
  const int turn = me().warp_operations % 2;
  exchange<uint64_t>(mask, predicate, 0);
  unsigned votes = 0;
  for (int lane = 0; lane < kLanes; ++lane)
    votes |= static_cast<unsigned>(block.slots[turn][block.current / kLanes][lane]) << lane;
  return votes;
}
inline void __syncthreads() { emulator::wait(emulator::block.all); }
inline int __syncthreads_count(int predicate) {
  using namespace emulator;
  int& count = block.count[block.all.passed % 2];
  if (block.all.arrived == 0) count = 0;
  count += predicate != 0;
  __syncthreads();
  return count;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline void __threadfence() {}
template <typename Value>
Value __ldg(const Value* from) {
  return *from;
}
inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
template <typename Value>
Value atomicAdd(Value* to, Value value) {
  return std::exchange(*to, *to + value);
}
inline int atomicOr(int* to, int value) { return std::exchange(*to, *to | value); }
using std::max;
using std::min;

namespace rl4rec {

inline bool on_device(const torch::stable::Tensor& tensor, int32_t) { return tensor.is_cpu(); }
constexpr const char* kDeviceName = "the CPU";

// As in csrc/cuda/launch.cuh. Blocks run in the same order as threads.
class Device {
 public:
  explicit Device(const torch::stable::Tensor& tensor) {
    check(tensor.is_cpu(), "the tensors must be on the CPU");
  }

  template <typename... Parameters, typename... Arguments>
  void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes,
              const Arguments&... arguments) const {
    using namespace emulator;
    check(shared_bytes <= 48 << 10, "too much shared memory");
    check(threads % kLanes == 0, "blocks of a part of a warp are not emulated");
    block.kernel = [&] { kernel(arguments...); };
    std::vector<int64_t> turns(blocks);
    std::iota(turns.begin(), turns.end(), 0);
    if (order == kBackward) std::reverse(turns.begin(), turns.end());
    if (order == kRandom) std::shuffle(turns.begin(), turns.end(), generator);
    for (const int64_t turn : turns) {
      block_index.x = static_cast<unsigned>(turn);
      prepare(threads, shared_bytes);
      run_block();
    }
  }
};

inline float* dynamic_shared() { return reinterpret_cast<float*>(emulator::block.shared.data()); }

}  // namespace rl4rec
