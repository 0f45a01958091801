// Levels of CPU features, one of which is in use.
#pragma once

#include "cpu/row_kernels.h"
#include "cpu/tile_kernels.h"

namespace rl4rec {

struct Level {
  const char* name;
  RowKernels rows;
  TileKernels wide, narrow;  // for panels of two vectors, and of one for few queries
  // The scores of one query and n items, with the bits that score_float gives.
  void (*sequential_dot)(const float* query, const float* const* items, int64_t n, int64_t dim,
                         float* scores);
};

// The level in use: the best one that this CPU supports, or the one that was asked for.
const Level& level();

}  // namespace rl4rec
