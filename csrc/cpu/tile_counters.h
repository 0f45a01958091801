// How the scores of a tile are counted, a few rows at a time. Only kernel files include it:
// everything here is in an anonymous namespace of the level that is compiled.
#pragma once

#include "cpu/levels.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace rl4rec {
namespace RL4REC_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int kMaskedLanes = 16;  // lanes of a vector that comparisons have masks for
#else
constexpr int kMaskedLanes = 2 * kMaxLanes;  // none
#endif

// A sum of products with scores is not finite if one of these is not.
#if defined(__AVX512F__)
template <int V>
bool are_finite(const __m512 (&sums)[V]) {
  __mmask16 bad = 0;
  for (int v = 0; v < V; ++v) {
    const __m512 part = _mm512_mul_ps(sums[v], _mm512_setzero_ps());  // 0 or NaN
    bad |= _mm512_cmp_ps_mask(part, part, _CMP_UNORD_Q);
  }
  return bad == 0;
}
#endif
template <int N>
bool are_finite(const float (&sums)[N]) {
  int32_t bad = 0;
  for (int i = 0; i < N; ++i) bad |= 0.0f * sums[i] != 0.0f;
  return bad == 0;
}

// What Count does, two rows at a time. The counts are added to `above` and `tied` at the end, and
// only if the scores are finite.
template <int kLanes, bool kMasked = (kLanes >= kMaskedLanes)>
class Counter {
 public:
  explicit Counter(const float* target) : target_(target) {}

  [[gnu::always_inline]] void add_two(const float* rows) {
    const float* next = rows + kLanes;
    for (int l = 0; l < kLanes; ++l) {
      more_[l] += (rows[l] > target_[l]) + (next[l] > target_[l]);
      same_[l] += (rows[l] == target_[l]) + (next[l] == target_[l]);
      products_[l] += rows[l] * next[l];
    }
  }
  [[gnu::always_inline]] void add_one(const float* row) {
    for (int l = 0; l < kLanes; ++l) {
      more_[l] += row[l] > target_[l];
      same_[l] += row[l] == target_[l];
      products_[l] += 0.0f * row[l];
    }
  }
  [[gnu::always_inline]] bool store(bool only_finite, int32_t* above, int32_t* tied) const {
    if (only_finite && !are_finite(products_)) return false;
    for (int l = 0; l < kLanes; ++l) {
      above[l] += more_[l];
      tied[l] += same_[l];
    }
    return true;
  }

 private:
  const float* target_;
  int32_t more_[kLanes] = {}, same_[kLanes] = {};
  float products_[kLanes] = {};
};

// What CountAndCollect does, one row at a time, whether scores are finite or not.
template <int kLanes, bool kMasked = (kLanes >= kMaskedLanes)>
class Collector {
 public:
  Collector(const float* low, const float* high, const int32_t* above, uint32_t* positions)
      : low_(low), high_(high), positions_(positions), next_(positions) {
    __builtin_memcpy(more_, above, sizeof(more_));
  }

  [[gnu::always_inline]] void add(int64_t r, const float* row) {
    int32_t any = 0;
    for (int l = 0; l < kLanes; ++l) {
      more_[l] += row[l] > high_[l];
      any += (row[l] >= low_[l]) & (row[l] <= high_[l]);
    }
    if (any == 0) return;
    for (int l = 0; l < kLanes; ++l) {
      *next_ = static_cast<uint32_t>(r * kLanes + l);
      next_ += (row[l] >= low_[l]) & (row[l] <= high_[l]);
    }
  }
  [[gnu::always_inline]] int64_t store(int32_t* above) const {
    __builtin_memcpy(above, more_, sizeof(more_));
    return next_ - positions_;
  }

 private:
  const float *low_, *high_;
  uint32_t *positions_, *next_;
  int32_t more_[kLanes];
};

#if defined(__AVX512F__)
template <int kLanes>
class Counter<kLanes, true> {
 public:
  [[gnu::always_inline]] explicit Counter(const float* target) {
    for (int v = 0; v < V; ++v) {
      more_[v] = same_[v] = _mm512_setzero_si512();
      products_[v] = _mm512_setzero_ps();
      target_[v] = _mm512_loadu_ps(target + 16 * v);
    }
  }

  [[gnu::always_inline]] void add_two(const float* rows) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      const __m512 score = _mm512_loadu_ps(rows + 16 * v);
      const __m512 next = _mm512_loadu_ps(rows + kLanes + 16 * v);
      add(v, score);
      add(v, next);
      products_[v] = _mm512_fmadd_ps(score, next, products_[v]);
    }
  }
  [[gnu::always_inline]] void add_one(const float* row) {
    for (int v = 0; v < V; ++v) {
      const __m512 score = _mm512_loadu_ps(row + 16 * v);
      add(v, score);
      products_[v] = _mm512_fmadd_ps(score, _mm512_setzero_ps(), products_[v]);
    }
  }
  [[gnu::always_inline]] bool store(bool only_finite, int32_t* above, int32_t* tied) const {
    if (only_finite && !are_finite(products_)) return false;
    for (int v = 0; v < V; ++v) {
      const __m512i before = _mm512_loadu_si512(above + 16 * v);
      const __m512i others = _mm512_loadu_si512(tied + 16 * v);
      _mm512_storeu_si512(above + 16 * v, _mm512_add_epi32(before, more_[v]));
      _mm512_storeu_si512(tied + 16 * v, _mm512_add_epi32(others, same_[v]));
    }
    return true;
  }

 private:
  [[gnu::always_inline]] void add(int v, __m512 score) {
    const __m512i one = _mm512_set1_epi32(1);
    const __mmask16 higher = _mm512_cmp_ps_mask(score, target_[v], _CMP_GT_OQ);
    const __mmask16 equal = _mm512_cmp_ps_mask(score, target_[v], _CMP_EQ_OQ);
    more_[v] = _mm512_mask_add_epi32(more_[v], higher, more_[v], one);
    same_[v] = _mm512_mask_add_epi32(same_[v], equal, same_[v], one);
  }

  static constexpr int V = kLanes / 16;
  __m512i more_[V], same_[V];
  __m512 target_[V], products_[V];
};

template <int kLanes>
class Collector<kLanes, true> {
 public:
  [[gnu::always_inline]] Collector(const float* low, const float* high, const int32_t* above,
                                   uint32_t* positions)
      : positions_(positions), next_(positions) {
    for (int v = 0; v < V; ++v) {
      low_[v] = _mm512_loadu_ps(low + 16 * v);
      high_[v] = _mm512_loadu_ps(high + 16 * v);
      more_[v] = _mm512_loadu_si512(above + 16 * v);
    }
  }

  [[gnu::always_inline]] void add(int64_t r, const float* row) {
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      const __m512 score = _mm512_loadu_ps(row + 16 * v);
      const __mmask16 higher = _mm512_cmp_ps_mask(score, high_[v], _CMP_GT_OQ);
      const __mmask16 inside = _mm512_cmp_ps_mask(score, low_[v], _CMP_GE_OQ) & ~higher;
      more_[v] = _mm512_mask_add_epi32(more_[v], higher, more_[v], _mm512_set1_epi32(1));
      // No branch on `inside`: whether it is 0 is hard to predict.
      const int first = static_cast<int>(r * kLanes) + 16 * v;
      const __m512i position = _mm512_add_epi32(lane, _mm512_set1_epi32(first));
      _mm512_storeu_si512(next_, _mm512_maskz_compress_epi32(inside, position));
      next_ += __builtin_popcount(inside);
    }
  }
  [[gnu::always_inline]] int64_t store(int32_t* above) const {
    for (int v = 0; v < V; ++v) _mm512_storeu_si512(above + 16 * v, more_[v]);
    return next_ - positions_;
  }

 private:
  static constexpr int V = kLanes / 16;
  uint32_t *positions_, *next_;
  __m512 low_[V], high_[V];
  __m512i more_[V];
};

// The same for n scores in rows of less than a vector: it takes several rows at once.
template <int kLanes>
int64_t collect_few(const float* scores, int64_t n, const float* low, const float* high,
                    int32_t* above, uint32_t* positions) {
  constexpr int kWidth = 16;
  float lows[kWidth], highs[kWidth];
  for (int i = 0; i < kWidth; ++i) {
    lows[i] = low[i % kLanes];
    highs[i] = high[i % kLanes];
  }
  const __m512 least = _mm512_loadu_ps(lows), most = _mm512_loadu_ps(highs);
  __m512i more = _mm512_setzero_si512();
  __m512i position = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  uint32_t* next = positions;
  for (int64_t i = 0; i < n; i += kWidth) {
    const __mmask16 exists = static_cast<__mmask16>(n - i < kWidth ? (1 << (n - i)) - 1 : -1);
    const __m512 score = _mm512_maskz_loadu_ps(exists, scores + i);
    const __mmask16 higher = _mm512_mask_cmp_ps_mask(exists, score, most, _CMP_GT_OQ);
    const __mmask16 inside = _mm512_mask_cmp_ps_mask(exists, score, least, _CMP_GE_OQ) & ~higher;
    more = _mm512_mask_add_epi32(more, higher, more, _mm512_set1_epi32(1));
    _mm512_storeu_si512(next, _mm512_maskz_compress_epi32(inside, position));
    next += __builtin_popcount(inside);
    position = _mm512_add_epi32(position, _mm512_set1_epi32(kWidth));
  }
  int32_t counts[kWidth];
  _mm512_storeu_si512(counts, more);
  for (int i = 0; i < kWidth; ++i) above[i % kLanes] += counts[i];
  return next - positions;
}
#endif

}  // namespace
}  // namespace RL4REC_LEVEL
}  // namespace rl4rec
