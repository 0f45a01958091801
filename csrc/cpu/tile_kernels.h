// Scores of a few items against a panel of queries, compiled once per level of CPU features.
//
// A panel holds as many queries as one or two vector registers have lanes, dimension by dimension:
// lane l of step w is word w of query l. A word is 32 bits: one float, two bfloat16 or four int8.
// Items keep their layout, one word after the other. Each word of an item is broadcast to all lanes
// and multiplied with the same word of all queries: a score is one sequence of additions in its
// lane, from the first dimension to the last. It depends on its query and its item only.
#pragma once

#include <cstdint>

namespace rl4rec {

constexpr int64_t kMaxLanes = 32;     // of a panel, at any level
constexpr int64_t kMaxTileRows = 24;  // items of a tile, at any level
// Positions that count_and_collect may write: those of a whole tile and one vector more.
constexpr int64_t kMaxPositions = (kMaxTileRows + 1) * kMaxLanes;

struct TileKernels {
  int64_t lanes, rows;

  // scores[r * lanes + l] = sum over words w of panel[w * lanes + l] * items[r * stride + w], for
  // all r < rows. The last two are null if the CPU has no instruction for them.
  void (*score_float)(const float* panel, const float* items, int64_t stride, int64_t words,
                      float* scores);
  void (*score_bfloat16)(const uint32_t* panel, const uint32_t* items, int64_t stride,
                         int64_t words, float* scores);
  // The panel's bytes are signed, those of items unsigned. offset[l] is subtracted from a sum,
  // which is then multiplied with lane_scale[l] * item_scale[r].
  void (*score_int8)(const uint32_t* panel, const uint32_t* items, int64_t stride, int64_t words,
                     const int32_t* offset, const float* lane_scale, const float* item_scale,
                     float* scores);

  // Adds to above[l] and tied[l] how many scores of the first `num_rows` items are above target[l],
  // and equal to it.
  void (*count)(const float* scores, int64_t num_rows, const float* target, int32_t* above,
                int32_t* tied);

  // Adds to above[l] how many scores are above high[l], and writes the positions r * lanes + l of
  // those from low[l] to high[l] to `positions` [kMaxPositions]. Returns how many there are.
  int64_t (*count_and_collect)(const float* scores, int64_t num_rows, const float* low,
                               const float* high, int32_t* above, uint32_t* positions);
};

}  // namespace rl4rec
