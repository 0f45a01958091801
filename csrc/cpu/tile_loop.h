// The loop of all kernels that score a tile. Only tile_kernels.cpp and dot_kernels.cpp include it:
// everything here is in an anonymous namespace of the level that is compiled.
#pragma once

#include "cpu/levels.h"
#include "cpu/vectors.h"

namespace rl4rec {
namespace RL4REC_LEVEL {
namespace {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kAccumulators = 24;  // of 32 registers
#else
constexpr int kAccumulators = 12;  // of 16 registers
#endif
constexpr int kWidth = kVectorBytes / 4;

using Floats [[gnu::vector_size(kVectorBytes)]] = float;
using Words [[gnu::vector_size(kVectorBytes)]] = int32_t;

// V vectors of queries against kAccumulators / V items. All loops over the sums are unrolled, so
// that they stay in registers. Three items share a base address: so few of these stay in registers
// too.
//
// Step::add(sum, panel, item) adds to `sum` the product of a vector of the panel and one word of an
// item, which is broadcast to all lanes.
template <typename Step, int V>
[[gnu::always_inline]] inline void accumulate(const typename Step::Word* panel,
                                              const typename Step::Word* items, int64_t stride,
                                              int64_t words,
                                              typename Step::Sum (&sums)[kAccumulators / V][V]) {
  constexpr int R = kAccumulators / V;
  const typename Step::Word* base[(R + 2) / 3];
#pragma GCC unroll 8
  for (int g = 0; g < (R + 2) / 3; ++g) base[g] = items + 3 * g * stride;
  const int64_t shift[3] = {0, stride, 2 * stride};
  for (int64_t w = 0; w < words; ++w) {
    Floats queries[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v)
      __builtin_memcpy(&queries[v], panel + (v * words + w) * kWidth, sizeof(Floats));
#pragma GCC unroll 24
    for (int r = 0; r < R; ++r) {
      const typename Step::Word item = base[r / 3][shift[r % 3] + w];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sums[r][v] = Step::add(sums[r][v], queries[v], item);
    }
  }
}

template <typename Step, int V>
void score(const uint32_t* panel, const void* items, int64_t stride, int64_t words,
           const Int8Scales&, float* scores) {
  using Word = typename Step::Word;
  Floats sums[kAccumulators / V][V] = {};
  accumulate<Step, V>(reinterpret_cast<const Word*>(panel), static_cast<const Word*>(items),
                      stride / 4, words, sums);
#pragma GCC unroll 24
  for (int r = 0; r < kAccumulators / V; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v)  // by vector: GCC 12 keeps an array that is copied whole in memory
      __builtin_memcpy(scores + (r * V + v) * kWidth, &sums[r][v], sizeof(Floats));
}

// Sets the kernels of an arithmetic, but for those that depend on the number of lanes only.
template <int V>
void set_score(TileKernels& tile, float cost, decltype(TileKernels::score) score) {
  tile.lanes = V * kWidth;
  tile.rows = kAccumulators / V;
  tile.vector_lanes = kWidth;
  tile.word_step = 1;
  tile.cost = cost;
  tile.score = score;
}

}  // namespace
}  // namespace RL4REC_LEVEL
}  // namespace rl4rec
