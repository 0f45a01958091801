// Exponentials of scores, compiled once per level of CPU features.
#pragma once

#include <cstdint>

namespace rl4rec {

// Rows of scores [rows, lanes] of one tile, as TileKernels writes them, that are added to the sums
// of exponentials of their lanes. `scale` turns differences of scores into powers of two:
// log2(e) / temperature. Of scores from limit[l] on the positions r * lanes + l are written, unless
// `limit` is null.
struct Unsummed {
  float* scores;
  float scale;
  float* reference;
  double* sum;
  const float* limit;
  uint32_t* positions;
};

struct SoftmaxLaneKernels {
  // Adds 2^((score - reference[l]) * scale) of every score to sum[l], `group` rows at a time. A
  // lane's first reference is -FLT_MAX, its first sum 0. The reference is replaced by the largest
  // score of a group, and the sum scaled, whenever that is so much larger that exponentials could
  // overflow. If a score is infinite, so is the reference, and the sum counts such scores: those
  // are overwritten by -inf. -inf adds 0. NaN makes the sum NaN. Returns how many positions it
  // writes.
  int64_t (*add_exponentials)(const Unsummed& scores, int64_t num_rows, int64_t group);
  // Replaces every score by factor[l] * 2^((score - reference[l]) * scale); a score that is equal
  // to its reference by the factor, also if both are infinite. Writes the positions r * lanes + l
  // of those beyond limit[l] in magnitude, of each lane by row, and returns how many there are.
  int64_t (*weigh)(float* scores, int64_t num_rows, float scale, const float* reference,
                   const float* factor, const float* limit, uint32_t* positions);
};

struct SoftmaxKernels {
  SoftmaxLaneKernels lanes[6];  // for 1, 2, 4, 8, 16 and 32 lanes; null below those of a vector
  // Replaces n values by two to their power, n rounded up to a multiple of kStep.
  void (*exp2)(float* values, int64_t n);
};

}  // namespace rl4rec
