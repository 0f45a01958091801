// The epilogue that counts for several targets of a query, one after the other.
#pragma once

#include "cuda/sm90/count.cuh"
#include "cuda/sm90/excluded.cuh"

namespace rl4rec {

struct CountTargets {
  static constexpr bool kScales = true;

  struct State {
    int first[2], number[2];  // targets of the rows
    int most;                 // of all rows of the warp
  };

  __device__ __forceinline__ void begin(State& s, int row) const {
    s.most = 0;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int own = row + 8 * h;
      const bool exists = own < num_queries;
      s.first[h] = exists ? static_cast<int>(__ldg(offsets + own)) : 0;
      s.number[h] = exists ? static_cast<int>(__ldg(offsets + own + 1)) - s.first[h] : 0;
      s.most = max(s.most, s.number[h]);
    }
    s.most = __reduce_max_sync(kAllLanes, s.most);
  }

  __device__ __forceinline__ void tile(const State& s, float (&d)[kScores], int row, int first,
                                       Odd) const {
    excluded.mask(d, row, first / kTileItems);
#pragma unroll 1
    for (int t = 0; t < s.most; ++t) {
      Count::State own = {};
#pragma unroll
      for (int h = 0; h < 2; ++h)
        own.target[h] = t < s.number[h] ? __ldg(scores + s.first[h] + t) : masked();
      Count::compare(own, d);
      Count::add_lanes(own);
      if (lane_of_thread() % 4 != 0) continue;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        unsigned long long* found = counts + s.first[h] + t;
        if (own.above[h]) atomicAdd(found, static_cast<unsigned long long>(own.above[h]));
        if (own.tied[h])
          atomicAdd(found + num_targets, static_cast<unsigned long long>(own.tied[h]));
      }
    }
  }

  __device__ __forceinline__ void end(const State&, int, int) const {}

  Excluded excluded;
  const int64_t* offsets;      // where the targets of each query begin [B + 1]
  const float* scores;         // of the targets [T]
  unsigned long long* counts;  // above and tied [2, T]
  int num_queries, num_targets;
};

}  // namespace rl4rec
