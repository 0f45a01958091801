// Scores of a few items against a panel of queries, compiled once for every level of CPU features.
//
// A panel holds as many queries as a vector register has lanes (or two registers), dimension by
// dimension: lane l of step s is query l's word s. A word is 32 bits: one float, two bfloat16 or
// four int8. Items keep their layout, one word after the other. So a word of an item, copied to all
// lanes, meets the same word of all queries: a score is one chain of additions in its lane, from
// the first dimension to the last. It depends on nothing but its query and its item.
#pragma once

#include <cstdint>

namespace rl4rec {

constexpr int64_t kMaxLanes = 32;     // of a panel, at any level
constexpr int64_t kMaxTileRows = 24;  // items of a tile, at any level

struct Tile {
  int64_t lanes, rows;

  // scores[r * lanes + l] = sum over words of panel[w * lanes + l] and items[r * stride + w], for
  // every r < rows. Null where the CPU has no such instructions.
  void (*score_float)(const float* panel, const float* items, int64_t stride, int64_t words,
                      float* scores);
  void (*score_bfloat16)(const uint32_t* panel, const uint32_t* items, int64_t stride,
                         int64_t words, float* scores);
  // The panel's bytes are signed, the items' unsigned. The sum is lowered by offset[l] and
  // multiplied with lane_scale[l] * item_scale[r].
  void (*score_int8)(const uint32_t* panel, const uint32_t* items, int64_t stride, int64_t words,
                     const int32_t* offset, const float* lane_scale, const float* item_scale,
                     float* scores);

  // above[l] and tied[l] grow by the scores of the first `num_rows` items above, and at, target[l].
  void (*count)(const float* scores, int64_t num_rows, const float* target, int32_t* above,
                int32_t* tied);

  // above[l] grows by the scores above high[l]. Those from low[l] to high[l] are listed: their
  // places r * lanes + l go to `places`, which has room for all and a vector more. Returns how
  // many.
  int64_t (*band)(const float* scores, int64_t num_rows, const float* low, const float* high,
                  int32_t* above, uint32_t* places);
};

// What a level offers: panels of two vectors, and of one for few queries.
struct Tiles {
  Tile wide, narrow;
  // The scores that score_float gives, of one query and n items, to the bit.
  void (*chain)(const float* query, const float* const* items, int64_t n, int64_t dim,
                float* scores);
};

}  // namespace rl4rec
