// The epilogue that sums exponentials, for log_prob_catalog, and counts if it has targets' scores.
//
// Each thread has a running sum for each of its rows, relative to the largest score so far. The
// ranges of items are the same for every batch, and so is the order of all additions.
#pragma once

#include "cuda/sm90/count.cuh"
#include "cuda/sm90/excluded.cuh"

namespace rl4rec {

__device__ __forceinline__ float exp2_of(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

struct Sum {
  struct State {
    float largest[2], sum[2];
    float highest[2], lowest[2];  // how many scores are plus and minus infinity; NaN makes it NaN
  };

  __device__ __forceinline__ void begin(State& s, int) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      s.largest[h] = kMinusInfinity;
      s.sum[h] = s.highest[h] = s.lowest[h] = 0.0f;
    }
  }

  // Counts scores that are not finite, which have no exponential, and masks them.
  static __device__ __forceinline__ void set_aside(State& s, float (&d)[kScores]) {
    replace_scores(d, [&](int i, float score) {
      if (!is_open(score) || is_masked(score)) return score;
      const float high = score < 0.0f ? 0.0f : score > 0.0f ? 1.0f : kNan;
      const float low = score < 0.0f ? 1.0f : 0.0f;
      const bool second = i / 2 % 2;
      s.highest[0] += second ? 0.0f : high, s.lowest[0] += second ? 0.0f : low;
      s.highest[1] += second ? high : 0.0f, s.lowest[1] += second ? low : 0.0f;
      return masked();
    });
  }

  // How a sum relative to `largest` changes when that is replaced by a larger one.
  __device__ __forceinline__ float factor(float largest, float larger) const {
    return largest == larger ? 1.0f : exp2_of((largest - larger) * scale);
  }

  __device__ __forceinline__ void tile(State& s, float (&d)[kScores], int row, int first,
                                       Odd odd) const {
    odd.masked |= excluded.mask(d, row, first / kTileItems);
    if (odd.open) set_aside(s, d);
    if (odd.masked || odd.open) {
#pragma unroll
      for (int i = 0; i < kScores; ++i) d[i] = fmaxf(d[i], kMinusInfinity);  // NaN is left out
    }
    float largest[2][2], sum[2][2] = {};
#pragma unroll
    for (int i = 0; i < kScores; ++i) {
      float& own = largest[i / 2 % 2][i % 2];
      own = i < 4 ? d[i] : fmaxf(own, d[i]);
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float before = s.largest[h];
      s.largest[h] = fmaxf(before, fmaxf(largest[h][0], largest[h][1]));
      // Without scores so far, all exponentials are those of minus infinity.
      largest[h][0] = s.largest[h] == kMinusInfinity ? 0.0f : s.largest[h];
      s.sum[h] *= factor(before, s.largest[h]);
    }
#pragma unroll
    for (int i = 0; i < kScores; ++i) {
      const int h = i / 2 % 2;
      sum[h][i % 2] += exp2_of((d[i] - largest[h][0]) * scale);
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) s.sum[h] += sum[h][0] + sum[h][1];
  }

  __device__ __forceinline__ void end(State& s, int row, int range) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int distance = 1; distance < 4; distance *= 2) {  // lanes that share a row
        const float other = __shfl_xor_sync(kAllLanes, s.largest[h], distance);
        const float other_sum = __shfl_xor_sync(kAllLanes, s.sum[h], distance);
        const float larger = fmaxf(s.largest[h], other);
        s.sum[h] = s.sum[h] * factor(s.largest[h], larger) + other_sum * factor(other, larger);
        s.largest[h] = larger;
        s.highest[h] += __shfl_xor_sync(kAllLanes, s.highest[h], distance);
        s.lowest[h] += __shfl_xor_sync(kAllLanes, s.lowest[h], distance);
      }
      const int own = row + 8 * h;
      if (lane_of_thread() % 4 != 0 || own >= num_queries) continue;
      const bool is_infinite = s.highest[h] != 0.0f;
      const float sum = is_infinite                      ? s.highest[h]
                        : s.largest[h] == kMinusInfinity ? s.lowest[h]
                                                         : s.sum[h];
      const int64_t at = static_cast<int64_t>(own) * ranges + range;
      largest_scores[at] = is_infinite ? -kMinusInfinity : s.largest[h];
      sums[at] = sum;
    }
  }

  Excluded excluded;
  float scale;            // log2(e) / temperature
  float* largest_scores;  // of each range [B, ranges]
  float* sums;            // of 2 to the power of (score - largest) * scale [B, ranges]
  int num_queries, ranges;
};

// Both, or sums alone. Excluded items are counted.
struct SumAndCount {
  static constexpr bool kScales = false;

  struct State {
    Count::State count;
    Sum::State sum;
  };

  __device__ __forceinline__ void begin(State& s, int row) const {
    if (count.targets) count.begin(s.count, row);
    sum.begin(s.sum, row);
  }
  __device__ __forceinline__ void tile(State& s, float (&d)[kScores], int row, int first,
                                       Odd odd) const {
    if (count.targets) count.tile(s.count, d, row, first, odd);
    sum.tile(s.sum, d, row, first, odd);
  }
  __device__ __forceinline__ void end(State& s, int row, int range) const {
    if (count.targets) count.end(s.count, row, range);
    sum.end(s.sum, row, range);
  }

  Sum sum;
  Count count;  // without targets: none
};

}  // namespace rl4rec
