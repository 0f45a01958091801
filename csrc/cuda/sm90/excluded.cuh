// Excluded pairs, which an epilogue masks.
#pragma once

#include "cuda/sm90/tiles.cuh"

namespace rl4rec {

// Pairs of a query and an item that do not compete, by the tile that they are in.
struct Excluded {
  // Masks those that the warp has in a tile, and returns whether there are any.
  __device__ __forceinline__ bool mask(float (&d)[kScores], int row, int tile) const {
    if (!pairs) return false;
    const int64_t cell = static_cast<int64_t>(row / kBlockQueries) * tiles + tile;
    const int64_t end = __ldg(starts + cell + 1);
    const int lane = lane_of_thread();
    uint32_t bits[kScores / 32] = {};
    bool any = false;
#pragma unroll 1
    for (int64_t at = __ldg(starts + cell); at < end; at += kLanes) {
      // A pair is the query's number in its block << 8 | the item's in its tile.
      const int loaded = at + lane < end ? __ldg(pairs + at + lane) : -1;
      unsigned own = __ballot_sync(kAllLanes, loaded >> 12 == row % kBlockQueries / 16);
      any |= own != 0;
#pragma unroll 1
      for (; own != 0; own &= own - 1) {
        const int pair = __shfl_sync(kAllLanes, loaded, __popc((own - 1) & ~own));
        const int query = pair >> 8 & 15, item = pair & 255;
        if (query % 8 != lane / 4 || item / 2 % 4 != lane % 4) continue;
        const int i = item / 8 * 4 + query / 8 * 2 + item % 2;
#pragma unroll
        for (int k = 0; k < kScores / 32; ++k) bits[k] |= (i / 32 == k ? 1u : 0u) << i % 32;
      }
    }
    if (!any) return false;
#pragma unroll
    for (int i = 0; i < kScores; ++i)
      if (bits[i / 32] >> i % 32 & 1) d[i] = masked();
    return true;
  }

  const int* pairs;       // null if there are none
  const int64_t* starts;  // where those of each tile begin, for each block of queries
  int tiles;
};

}  // namespace rl4rec
