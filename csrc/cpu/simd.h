// The inner loops, compiled once for every level of CPU features (see simd.cpp).
#pragma once

#include <cstdint>

#include "cpu/tile.h"

namespace rl4rec {

// Storage types of embedding rows; the first values index the arrays of Simd.
enum Storage : int { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2, kInt8 = 3 };
constexpr int kNumStorages = 3;  // of floating point

// Scratch rows (queries, sums) are padded to a multiple of this, so only table rows need care at
// their end.
constexpr int64_t kStep = 32;

// dot_rows reads this many pointers past the rows it is given, if it is to fetch rows.
constexpr int64_t kLookahead = 12;

// What the L2 cache of a processor is taken to hold, in bytes: nothing in it has to be fetched.
constexpr int64_t kCacheBytes = 1 << 20;

struct Simd {
  const char* name;

  // out[i] = sum_j query[j] * rows[i][j] for i < n, accumulated in float32. A score depends on
  // nothing but its query and its row: not on n, nor on the place of the row. `fetch` says that
  // rows are in no cache: those that come soon are fetched meanwhile.
  void (*dot_rows[kNumStorages])(const float* query, const void* const* rows, int64_t n,
                                 int64_t dim, bool fetch, float* out);

  // sum[j] += scale[i] * rows[i][j] for i = 0, 1, ..., n - 1 in this order.
  void (*add_rows[kNumStorages])(float* sum, const float* scale, const void* const* rows, int64_t n,
                                 int64_t dim);

  // out[j] = row[j], and 0 from dim to the next multiple of kStep.
  void (*to_float[kNumStorages])(const void* row, int64_t dim, float* out);

  const Tiles* tiles;
};

namespace portable {
extern const Simd simd;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Simd simd;
}
namespace avx512 {
extern const Simd simd;
}
namespace avx512_bf16 {
extern const Simd simd;
}
#endif

// The level in use: the best one this CPU has, or the one that was forced.
const Simd& simd();

}  // namespace rl4rec
