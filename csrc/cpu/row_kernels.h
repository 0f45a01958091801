// Loops over rows of embeddings, compiled once per level of CPU features.
#pragma once

#include <cstdint>

namespace rl4rec {

// How rows are stored. The floating-point types index the arrays of RowKernels.
enum Storage : int { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2, kInt8 = 3 };
constexpr int kNumFloatStorages = 3;

// Scratch rows (queries, sums) are padded to a multiple of this, so that only rows of the table
// need care at their end.
constexpr int64_t kStep = 32;

struct RowKernels {
  // out[i] = sum_j query[j] * rows[i][j] for i < n, accumulated in float32. A score depends on its
  // query and its row only, not on n or i. `prefetch`: rows are not in a cache; the
  // kPrefetchRows rows after each are prefetched.
  void (*dot_rows[kNumFloatStorages])(const float* query, const void* const* rows, int64_t n,
                                      int64_t dim, bool prefetch, float* out);

  // sum[j] += scale[i] * rows[i][j] for i = 0, 1, ..., n - 1 in this order.
  void (*add_rows[kNumFloatStorages])(float* sum, const float* scale, const void* const* rows,
                                      int64_t n, int64_t dim);

  // out[j] = row[j], and 0 from dim to the next multiple of kStep.
  void (*to_float[kNumFloatStorages])(const void* row, int64_t dim, float* out);

  // scores[i * lanes + l] of n rows, `stride` bytes apart, and `lanes` queries of padded rows, with
  // the bits of dot_rows. `norm` becomes at least the norm of the longest row and at most the
  // square root of n times as much; infinite if a row is not finite, or huge. For 1, 2, 4 and 8
  // lanes.
  void (*score_few[4][kNumFloatStorages])(const float* queries, const void* rows, int64_t stride,
                                          int64_t n, int64_t dim, float* scores, float* norm);
};

}  // namespace rl4rec
