// The epilogue that collects the items that reach a bound of their query, for topk_catalog.
#pragma once

#include "cuda/sm90/excluded.cuh"

namespace rl4rec {

// A key is a score and an item in one number that sorts as results do, see
// rl4rec_kernels/ops/triton/topk_catalog.py.
//
// Where there is no room left, the best key of each of many groups of items is kept, by a hash of
// the item: k of them are a close bound of the k best items.
struct Collect {
  static constexpr bool kScales = true;
  static constexpr int kGroups = 4;  // of the columns of a thread, whose maxima are known

  struct State {
    float bound[2];
    int item[2];  // the last one that reaches the bound with its score
  };

  // To integers that sort as floats do, and back.
  static __device__ __forceinline__ int ordered(int bits) {
    return bits < 0 ? bits ^ 0x7fffffff : bits;
  }

  static __device__ __forceinline__ unsigned hash(unsigned item) {
    item = (item ^ item >> 16) * 0x85ebca6bu;  // the last steps of MurmurHash3
    item = (item ^ item >> 13) * 0xc2b2ae35u;
    return item ^ item >> 16;
  }

  __device__ __forceinline__ void begin(State& s, int row) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const bool exists = row + 8 * h < num_queries;
      const int64_t key = exists ? __ldg(bounds + row + 8 * h) : 0;
      const int bits = ordered(static_cast<int>(key >> 32));
      s.bound[h] = exists ? __int_as_float(bits) : masked();
      s.item[h] = 0x7fffffff - static_cast<int>(key & 0x7fffffff);
    }
  }

  // Calls fn(h, score, item) for what reaches the bounds. Most groups of columns are left out.
  template <typename Fn>
  static __device__ __forceinline__ void visit(const State& s, const float (&d)[kScores],
                                               const float (&best)[kGroups][2], int first,
                                               const Fn& fn) {
    constexpr int kColumns = kScores / 4 / kGroups;
#pragma unroll
    for (int g = 0; g < kGroups; ++g)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        if (!(best[g][h] >= s.bound[h])) continue;
#pragma unroll
        for (int i = 0; i < 2 * kColumns; ++i) {
          const int j = g * kColumns + i / 2, item = first + 8 * j + i % 2;
          const float score = d[4 * j + 2 * h + i % 2];
          if (score > s.bound[h] || (score == s.bound[h] && item <= s.item[h])) fn(h, score, item);
        }
      }
  }

  // The places of all keys of a tile are fetched at once: that takes longer than to compare.
  __device__ __forceinline__ void tile(State& s, float (&d)[kScores], int row, int first,
                                       Odd) const {
    excluded.mask(d, row, first / kTileItems);
    float best[kGroups][2];
    bool any = false;
#pragma unroll
    for (int g = 0; g < kGroups; ++g)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        constexpr int kColumns = kScores / 4 / kGroups;
        best[g][h] = d[4 * g * kColumns + 2 * h];
#pragma unroll
        for (int i = 1; i < 2 * kColumns; ++i)  // NaN is left out
          best[g][h] = fmaxf(best[g][h], d[4 * (g * kColumns + i / 2) + 2 * h + i % 2]);
        any |= best[g][h] >= s.bound[h];
      }
    if (!any) return;
    int count[2] = {}, place[2] = {};
    visit(s, d, best, first, [&](int h, float, int) { ++count[h]; });
#pragma unroll
    for (int h = 0; h < 2; ++h)
      if (count[h] > 0) place[h] = atomicAdd(found + row + 8 * h, count[h]);
    visit(s, d, best, first, [&](int h, float score, int item) {
      int slot = place[h]++;
      if (slot >= capacity) slot = static_cast<int>(hash(item) % capacity);
      const int bits = ordered(__float_as_int(score + 0.0f));  // -0 becomes 0
      atomicMax(keys + static_cast<int64_t>(row + 8 * h) * capacity + slot,
                static_cast<long long>(bits) << 32 | (0x7fffffff - item));
    });
  }

  __device__ __forceinline__ void end(State&, int, int) const {}

  Excluded excluded;
  const int64_t* bounds;  // keys [B]
  long long* keys;        // [B, capacity]
  int* found;             // of each query [B], more than capacity if there was no room
  int num_queries, capacity;
};

}  // namespace rl4rec
