// The kernels of tile_kernels.h that multiply pairs of bfloat16 and quadruples of int8, by
// AVX-512's instructions for dot products. As in row_kernels.cpp, no header with inline functions
// may be included.
#include "cpu/tile_loop.h"

namespace rl4rec {
namespace RL4REC_LEVEL {
namespace {

#if defined(__AVX512BF16__)
struct BFloat16Pair {
  using Word = uint32_t;
  using Sum = Floats;
  static Sum add(Sum sum, Floats panel, uint32_t item) {
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)panel,
                                    (__m512bh)_mm512_set1_epi32(static_cast<int>(item)));
  }
};
#endif

struct Int8Quad {
  using Word = uint32_t;
  using Sum = Words;
  static Sum add(Sum sum, Floats panel, uint32_t item) {
    return (Sum)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(static_cast<int>(item)),
                                    (__m512i)panel);
  }
};

template <int V>
void score_int8(const uint32_t* panel, const void* items, int64_t stride, int64_t words,
                const Int8Scales& scales, float* scores) {
  Words sums[kAccumulators / V][V] = {};
  accumulate<Int8Quad, V>(panel, static_cast<const uint32_t*>(items), stride / 4, words, sums);
#pragma GCC unroll 2
  for (int v = 0; v < V; ++v) {
    const Words subtracted = (Words)_mm512_loadu_si512(scales.lane_offset + v * kWidth);
    const Floats scale = _mm512_loadu_ps(scales.lane_scale + v * kWidth);
#pragma GCC unroll 24
    for (int r = 0; r < kAccumulators / V; ++r) {
      const Floats sum = __builtin_convertvector(sums[r][v] - subtracted, Floats);
      const Floats score = sum * (scale * scales.item_scale[r]);
      __builtin_memcpy(scores + (r * V + v) * kWidth, &score, sizeof(score));
    }
  }
}

}  // namespace

void set_dot_kernels(Level&);
void set_dot_kernels(Level& level) {
#if defined(__AVX512BF16__)
  set_score<2>(level.wide[kBFloat16Pairs], 0.15f, score<BFloat16Pair, 2>);
  set_score<1>(level.narrow[kBFloat16Pairs], 0.15f, score<BFloat16Pair, 1>);
#endif
  set_score<2>(level.wide[kInt8Quads], 0.08f, score_int8<2>);
  set_score<1>(level.narrow[kInt8Quads], 0.08f, score_int8<1>);
  // The instruction takes the bytes of items unsigned.
  level.wide[kInt8Quads].int8_offset = level.narrow[kInt8Quads].int8_offset = 128;
}

}  // namespace RL4REC_LEVEL
}  // namespace rl4rec
