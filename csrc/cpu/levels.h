// Levels of CPU features, one of which is in use.
#pragma once

#include "cpu/product_kernels.h"
#include "cpu/row_kernels.h"
#include "cpu/softmax_kernels.h"
#include "cpu/tile_kernels.h"

namespace rl4rec {

struct Level {
  const char* name;
  RowKernels rows;
  // By Arithmetic, for panels of two vectors, and of one for few queries.
  TileKernels wide[kNumArithmetics], narrow[kNumArithmetics];
  LaneKernels lanes;
  SoftmaxKernels softmax;
  SplitKernels splits;
  ProductKernels products;  // null without AMX
  AllFinite all_finite;
  // The scores of one query and n items, with the bits that kFloat gives.
  void (*sequential_dot)(const float* query, const float* const* items, int64_t n, int64_t dim,
                         float* scores);
  // The same of n pairs.
  void (*sequential_dots)(const float* const* queries, const float* const* items, int64_t n,
                          int64_t dim, float* scores);
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
