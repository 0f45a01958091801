// Levels of CPU features, one of which is in use.
#pragma once

#include "cpu/product_kernels.h"
#include "cpu/rounding_kernels.h"
#include "cpu/row_kernels.h"
#include "cpu/softmax_kernels.h"
#include "cpu/tile_kernels.h"

namespace rl4rec {

// The most dimensions of dot_int8_rows, so that sums fit into int32.
constexpr int64_t kMaxInt8Dim = 4096;

struct Level {
  const char* name;
  RowKernels rows;
  RoundingKernels rounding;
  // By Arithmetic, for panels of two vectors, and of one for few queries.
  TileKernels wide[kNumArithmetics], narrow[kNumArithmetics];
  LaneKernels lanes;
  SoftmaxKernels softmax;
  SplitKernels splits;      // null without AMX
  ProductKernels products;  // null without AMX
  AllFinite all_finite;
  // The scores of one query and n items, with the bits that kFloat gives.
  void (*sequential_dot)(const float* query, const float* const* items, int64_t n, int64_t dim,
                         float* scores);
  // The same of n pairs.
  void (*sequential_dots)(const float* const* queries, const float* const* items, int64_t n,
                          int64_t dim, float* scores);
  // About the dot products of a query, padded with zeros to whole steps, and rows of int8, for up
  // to kMaxInt8Dim dimensions. The kPrefetchInt8Rows rows after each are prefetched. `n` is rounded
  // up to a multiple of 4. Null without AVX2.
  void (*dot_int8_rows)(const int16_t* query, const void* const* rows, int64_t n, int64_t dim,
                        float* out);
  // The same sums for n rows that are `stride` bytes apart and few queries, [lanes, padded dim]:
  // out[i * lanes + l], for 1, 2, 4 and 8 lanes.
  void (*score_few_int8[4])(const int16_t* queries, const void* rows, int64_t stride, int64_t n,
                            int64_t dim, float* out);
  // What a thread calls before and after it scores tiles, or null.
  void (*enter)();
  void (*leave)();
};

// The level in use: the best one that this CPU supports, or the one that was asked for.
const Level& level();

// A thread that scores tiles has one of these.
class TileSession {
 public:
  TileSession() : level_(level()) {
    if (level_.enter) level_.enter();
  }
  TileSession(const TileSession&) = delete;
  ~TileSession() {
    if (level_.leave) level_.leave();
  }

 private:
  const Level& level_;
};

}  // namespace rl4rec
