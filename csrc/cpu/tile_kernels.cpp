// The kernels of tile_kernels.h, for one level of CPU features. As in row_kernels.cpp, no header
// with inline functions may be included.
#include "cpu/tile_loop.h"

namespace rl4rec {
namespace RL4REC_LEVEL {
namespace {

struct FloatStep {
  using Word = float;
  using Sum = Floats;
  static Sum add(Sum sum, Floats panel, float item) { return sum + panel * item; }
};

template <int V>
void count(const float* scores, int64_t num_rows, const float* target, int32_t* above,
           int32_t* tied) {
  constexpr int kLanes = V * kWidth;
  int32_t more[kLanes], same[kLanes];  // copies, which no other pointer can alias
  __builtin_memcpy(more, above, sizeof(more));
  __builtin_memcpy(same, tied, sizeof(same));
  for (int64_t r = 0; r < num_rows; ++r)
    for (int l = 0; l < kLanes; ++l) {
      more[l] += scores[r * kLanes + l] > target[l];
      same[l] += scores[r * kLanes + l] == target[l];
    }
  __builtin_memcpy(above, more, sizeof(more));
  __builtin_memcpy(tied, same, sizeof(same));
}

template <int V>
int64_t count_and_collect(const float* scores, int64_t num_rows, const float* low,
                          const float* high, int32_t* above, uint32_t* positions) {
  constexpr int kLanes = V * kWidth;
  uint32_t* next = positions;
#if defined(__AVX512F__)
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  for (int v = 0; v < V; ++v) {
    const __m512 from = _mm512_loadu_ps(low + v * kWidth), to = _mm512_loadu_ps(high + v * kWidth);
    __m512i more = _mm512_loadu_si512(above + v * kWidth);
    for (int64_t r = 0; r < num_rows; ++r) {
      const __m512 score = _mm512_loadu_ps(scores + r * kLanes + v * kWidth);
      const __mmask16 higher = _mm512_cmp_ps_mask(score, to, _CMP_GT_OQ);
      const __mmask16 inside = _mm512_cmp_ps_mask(score, from, _CMP_GE_OQ) & ~higher;
      more = _mm512_mask_add_epi32(more, higher, more, _mm512_set1_epi32(1));
      // No branch on `inside`: whether it is 0 is hard to predict.
      const int first = static_cast<int>(r * kLanes) + v * kWidth;
      const __m512i position = _mm512_add_epi32(lane, _mm512_set1_epi32(first));
      _mm512_storeu_si512(next, _mm512_maskz_compress_epi32(inside, position));
      next += __builtin_popcount(inside);
    }
    _mm512_storeu_si512(above + v * kWidth, more);
  }
#else
  int32_t more[kLanes];
  __builtin_memcpy(more, above, sizeof(more));
  for (int64_t r = 0; r < num_rows; ++r) {
    const float* row = scores + r * kLanes;
    int32_t any = 0;
    for (int l = 0; l < kLanes; ++l) {
      more[l] += row[l] > high[l];
      any += (row[l] >= low[l]) & (row[l] <= high[l]);
    }
    if (any == 0) continue;
    for (int l = 0; l < kLanes; ++l) {
      *next = static_cast<uint32_t>(r * kLanes + l);
      next += (row[l] >= low[l]) & (row[l] <= high[l]);
    }
  }
  __builtin_memcpy(above, more, sizeof(more));
#endif
  return next - positions;
}

// As the compiler does it for vectors. In a loop of scalars it might vectorize the multiplications
// alone, so it is spelled out.
[[gnu::always_inline]] inline float multiply_add(float sum, float a, float b) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, sum);
#else
  return sum + a * b;
#endif
}

#if defined(__AVX512F__)
// sum += query[d] * item[d] for 16 items, one per lane, and 4 dimensions d. four[j] holds these
// dimensions of the items j, 4 + j, 8 + j and 12 + j; they are transposed, so that a vector holds
// one dimension.
[[gnu::always_inline]] inline void add_four(__m512& sum, const float* query, const __m512* four) {
  const __m512 a = _mm512_unpacklo_ps(four[0], four[1]), b = _mm512_unpackhi_ps(four[0], four[1]);
  const __m512 c = _mm512_unpacklo_ps(four[2], four[3]), e = _mm512_unpackhi_ps(four[2], four[3]);
  sum += query[0] * _mm512_shuffle_ps(a, c, 0x44);
  sum += query[1] * _mm512_shuffle_ps(a, c, 0xee);
  sum += query[2] * _mm512_shuffle_ps(b, e, 0x44);
  sum += query[3] * _mm512_shuffle_ps(b, e, 0xee);
}
#endif

void sequential_dot(const float* query, const float* const* items, int64_t n, int64_t dim,
                    float* scores) {
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i < n; i += 16) {
    const float *item[16], *ahead[16];  // `ahead`: the next 16, which are prefetched
    for (int64_t j = 0; j < 16; ++j) {
      item[j] = items[i + j < n ? i + j : i];
      ahead[j] = items[i + 16 + j < n ? i + 16 + j : i];
    }
    __m512 sum = _mm512_setzero_ps();
    int64_t d = 0;
    for (; d + 16 <= dim; d += 16) {
      __m512 quarters[4][4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const float *p = item[j] + d, *q = item[4 + j] + d, *r = item[8 + j] + d,
                    *s = item[12 + j] + d;
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
          __m512 four = _mm512_castps128_ps512(_mm_loadu_ps(p + 4 * k));
          four = _mm512_insertf32x4(four, _mm_loadu_ps(q + 4 * k), 1);
          four = _mm512_insertf32x4(four, _mm_loadu_ps(r + 4 * k), 2);
          quarters[k][j] = _mm512_insertf32x4(four, _mm_loadu_ps(s + 4 * k), 3);
        }
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) __builtin_prefetch(ahead[4 * j + k] + d);
      }
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) add_four(sum, query + d + 4 * k, quarters[k]);
    }
    float lanes[16];
    __builtin_memcpy(lanes, &sum, sizeof(lanes));
    for (int64_t j = 0; j < 16 && i + j < n; ++j) {
      float rest = lanes[j];
      for (int64_t k = d; k < dim; ++k) rest = multiply_add(rest, query[k], item[j][k]);
      scores[i + j] = rest;
    }
  }
#else
  for (; i < n; ++i) {
    float sum = 0.0f;
    for (int64_t d = 0; d < dim; ++d) sum = multiply_add(sum, query[d], items[i][d]);
    scores[i] = sum;
  }
#endif
}

template <int V>
constexpr TileKernels kTileKernels = {V * kWidth, kAccumulators / V, score<FloatStep, V>, nullptr,
                                      nullptr,    count<V>,          count_and_collect<V>};

}  // namespace

void set_tile_kernels(Level&);
void set_tile_kernels(Level& level) {
  level.wide = kTileKernels<2>;
  level.narrow = kTileKernels<1>;
  level.sequential_dot = sequential_dot;
}

}  // namespace RL4REC_LEVEL
}  // namespace rl4rec
