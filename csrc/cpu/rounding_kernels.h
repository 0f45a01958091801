// Rounding of rows of embeddings, compiled once per level of CPU features.
#pragma once

#include "cpu/row_kernels.h"

namespace rl4rec {

// Of a row that is rounded: at least its norm, that of what rounding removes, and that of the
// second parts of kSplitInt8; for kThreeInt8, which bounds both by it, the largest value times the
// square root of how many there are. Infinite if the row is not finite, or cannot be rounded in
// this way.
struct RowNorms {
  float norm, error, rest;
};

struct RoundingKernels {
  // See Embeddings::to_bfloat16.
  void (*to_bfloat16[kNumFloatStorages])(const void* row, int64_t dim, uint32_t* first,
                                         uint32_t* second, float* norm, float* error);

  // See Embeddings::to_split_int8.
  void (*to_split_int8[kNumFloatStorages])(const void* row, int64_t dim, uint32_t* first,
                                           uint32_t* second, float* scale, RowNorms* norms);

  // The least and the most of the magnitudes of n bfloat16, as their bits; zeros count as 0xffff
  // and 0.
  void (*extremes)(const uint16_t* values, int64_t n, uint16_t* least, uint16_t* most);
};

}  // namespace rl4rec
