// Scores of a few items against a panel of queries, compiled once per level of CPU features.
//
// A panel holds as many queries as one or two vector registers have lanes. It has the words of its
// first vector of queries, then those of the second: lane l of word w is word w of query l. A word
// is 32 bits: one float, two bfloat16 or four int8. Items keep their layout, one word after the
// other. Each word of an item is multiplied with the same word of all queries: a score is one
// sequence of additions in its lane, from the first dimension to the last. It depends on its query
// and its item only.
#pragma once

#include <cstdint>

namespace rl4rec {

constexpr int64_t kMaxLanes = 32;         // of a panel, at any level
constexpr int64_t kMaxTileRows = 64;      // items of a tile, at any level
constexpr int64_t kMaxTileScores = 1024;  // rows times lanes
// Positions that count_and_collect may write: those of a whole tile and one vector more.
constexpr int64_t kMaxPositions = kMaxTileScores + kMaxLanes;

// Up to so many queries are few. Their tiles have kFewRows items.
constexpr int64_t kMaxFewQueries = 8;
constexpr int64_t kFewRows = 16;

// How scores are computed. The values index the arrays of Level. kFloat16Pairs adds up in another
// order than kFloat, which decides: it only approximates. kSplit takes every float as the sum of
// two bfloat16, the words of the first ones before those of the second ones, and adds up three of
// the four products. kSplitInt8 does the same with a scale per row and two int8, the second ones
// worth 1/256 of the first ones. kThreeInt8 takes three int8, each worth 1/256 of the one before,
// and adds up the six products that are worth 2^-16 of the largest one or more. kFew, which has its
// own kernels in RowKernels, is for few queries: it takes rows of the table in place and adds up as
// dot_rows does.
enum Arithmetic : int {
  kFloat,
  kBFloat16Pairs,
  kFloat16Pairs,
  kInt8Quads,
  kSplit,
  kSplitInt8,
  kThreeInt8,
  kNumArithmetics,
  kFew
};

// What turns the sums of int8 products into scores: a sum less its lane's offset, times both
// scales. Those of kSplitInt8 are sums of 256 times the first parts' products and the mixed ones;
// the lane's scale accounts for the 256. So it does for the last parts of kThreeInt8.
struct Int8Scales {
  const int32_t* lane_offset;
  const float* lane_scale;
  const float* item_scale;
};

// Adds to above[l] and tied[l] how many scores of the first `num_rows` items are above target[l],
// and equal to it. With `only_finite` it returns false, and adds nothing, if one of the scores is
// not finite, perhaps also if one exceeds 1e19 in magnitude.
using Count = bool (*)(const float* scores, int64_t num_rows, const float* target, bool only_finite,
                       int32_t* above, int32_t* tied);
// Adds to above[l] how many scores are above high[l], and writes the positions r * lanes + l of
// those from low[l] to high[l] to `positions` [kMaxPositions]. Returns how many there are; with
// `only_finite` it returns -1, and adds nothing, as Count does.
using CountAndCollect = int64_t (*)(const float* scores, int64_t num_rows, const float* low,
                                    const float* high, bool only_finite, int32_t* above,
                                    uint32_t* positions);

// Scores of a whole tile, and what else Count and CountAndCollect are given.
struct Uncounted {
  const float *scores, *target;
  int32_t *above, *tied;
};
struct Uncollected {
  const float *scores, *low, *high;
  int32_t* above;
  uint32_t* positions;
};

struct Unsummed;  // see softmax_kernels.h

struct TileKernels {
  int64_t lanes, rows;
  int64_t vector_lanes;  // of the vectors that a panel is made of
  int64_t word_step;     // queries and items are padded with zeros to a multiple of so many words
  int32_t int8_offset;   // what the kernel needs added to the int8 values of items
  float cost;            // time per multiplication, in units of that of dot_rows

  // scores[r * lanes + l] for all items r < rows, which are `stride` bytes apart, and lanes l. Null
  // if the CPU has no instruction for it. `scales` is for int8 only.
  void (*score)(const uint32_t* panel, const void* items, int64_t stride, int64_t words,
                const Int8Scales& scales, float* scores);
  Count count;
  CountAndCollect count_and_collect;

  // The same as `score`, and meanwhile as `count` of other scores with `only_finite`, or as
  // `count_and_collect` without it. Null if there is nothing to gain from doing both at once.
  bool (*score_and_count)(const uint32_t* panel, const void* items, int64_t stride, int64_t words,
                          const Int8Scales& scales, float* scores, const Uncounted& others);
  int64_t (*score_and_collect)(const uint32_t* panel, const void* items, int64_t stride,
                               int64_t words, const Int8Scales& scales, float* scores,
                               const Uncollected& others);
  // The same as `score` of a whole tile, and meanwhile as SoftmaxLaneKernels::add_exponentials of
  // another one, all in one group. Null if there is nothing to gain, or nothing to add.
  int64_t (*score_and_add)(const uint32_t* panel, const void* items, int64_t stride, int64_t words,
                           const Int8Scales& scales, float* scores, const Unsummed& others);
};

// Kernels for panels of 1, 2, 4, 8, 16 and 32 lanes.
struct LaneKernels {
  Count count[6];
  CountAndCollect count_and_collect[6];
};

// Returns false if one of n scores is not finite, perhaps also if one exceeds 1e19 in magnitude.
using AllFinite = bool (*)(const float* scores, int64_t n);

}  // namespace rl4rec
