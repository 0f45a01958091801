// The epilogue that counts which items score higher than a query's target, and which the same.
#pragma once

#include "cuda/sm90/tiles.cuh"

namespace rl4rec {

struct Count {
  static constexpr bool kScales = true;

  struct State {
    float target[2];
    int above[2], tied[2];
  };

  __device__ __forceinline__ void begin(State& s, int row) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int own = row + 8 * h;
      s.target[h] = own < num_queries ? __ldg(targets + own) : masked();
      s.above[h] = s.tied[h] = 0;
    }
  }

  // Counted in float32, which is exact, and of which a multiprocessor adds twice as many at a time;
  // in two sums each, which do not wait for each other.
  static __device__ __forceinline__ void compare(State& s, const float (&d)[kScores]) {
    float above[2][2] = {}, tied[2][2] = {};
#pragma unroll
    for (int i = 0; i < kScores; ++i) {
      const int h = i / 2 % 2, e = i % 2;
      if (d[i] > s.target[h]) above[h][e] += 1.0f;
      if (d[i] == s.target[h]) tied[h][e] += 1.0f;
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      s.above[h] += static_cast<int>(above[h][0] + above[h][1]);
      s.tied[h] += static_cast<int>(tied[h][0] + tied[h][1]);
    }
  }

  static __device__ __forceinline__ void add_lanes(State& s) {
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int distance = 1; distance < 4; distance *= 2) {  // lanes that share a row
        s.above[h] += __shfl_xor_sync(kAllLanes, s.above[h], distance);
        s.tied[h] += __shfl_xor_sync(kAllLanes, s.tied[h], distance);
      }
  }

  __device__ __forceinline__ void tile(State& s, const float (&d)[kScores], int, int, Odd) const {
    compare(s, d);
  }

  __device__ __forceinline__ void end(State& s, int row, int) const {
    add_lanes(s);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int own = row + 8 * h;
      if (lane_of_thread() % 4 == 0 && own < num_queries) {
        atomicAdd(counts + own, static_cast<unsigned long long>(s.above[h]));
        atomicAdd(counts + num_queries + own, static_cast<unsigned long long>(s.tied[h]));
      }
    }
  }

  const float* targets;        // the scores of the targets [B]
  unsigned long long* counts;  // above and tied [2, B]
  int num_queries;
};

}  // namespace rl4rec
