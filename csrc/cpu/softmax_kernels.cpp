// The kernels of softmax_kernels.h, for one level of CPU features. As in row_kernels.cpp, no header
// with inline functions may be included.
#include "cpu/tile_loop.h"

namespace rl4rec {
namespace RL4REC_LEVEL {
namespace {

constexpr float kLowest = -3.402823466e38f;
// How far above its reference, as a power of two, a score may be: few are, so that references
// rarely change, and the rounding of a difference stays small.
constexpr float kSlack = 8.0f;

[[gnu::always_inline]] inline Floats broadcast(float value) { return Floats{} + value; }

// 2^x for x <= 127, within 2 units in the last place; 0 below 2^-126. A polynomial of degree 6 (as
// in Cephes' exp2f) for the fraction, in [-1/2, 1/2], and an integer, which is added to the
// exponent.
[[gnu::always_inline]] inline Floats exp2_of(Floats x) {
#if defined(__AVX512F__)
  const Floats whole = (Floats)_mm512_roundscale_ps((__m512)x, 8);  // the nearest
#else
  constexpr float kRounding = 0x1.8p23f;  // added and subtracted, it leaves a whole number
  const Floats shifted = x + kRounding, whole = shifted - kRounding;
#endif
  const Floats f = x - whole;
  Floats p = broadcast(1.535336188319500e-4f);
  p = p * f + 1.339887440266574e-3f;
  p = p * f + 9.618437357674640e-3f;
  p = p * f + 5.550332471162809e-2f;
  p = p * f + 2.402264791363012e-1f;
  p = p * f + 6.931472028550421e-1f;
  p = p * f + 1.0f;
#if defined(__AVX512F__)
  const __mmask16 is_normal = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
  return (Floats)_mm512_maskz_scalef_ps(is_normal, (__m512)p, (__m512)whole);  // NaN stays
#else
  using Bits [[gnu::vector_size(sizeof(Floats))]] = uint32_t;  // may overflow, if x is out of range
  const Floats result = (Floats)((Bits)p + ((Bits)shifted << 23));
  return x < -126.0f ? Floats{} : result;  // NaN stays
#endif
}

[[gnu::always_inline]] inline bool any(Words lanes) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)lanes, (__m512i)lanes) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_ps((__m256)lanes) != 0;
#else
  int32_t any = 0;
  for (int l = 0; l < kWidth; ++l) any |= lanes[l];
  return any != 0;
#endif
}

// A comparison of vectors, by lane, as bits.
[[gnu::always_inline]] inline uint32_t bits_of(Words lanes) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask((__m512i)lanes);
#elif defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)lanes));
#else
  uint32_t bits = 0;
  for (int l = 0; l < kWidth; ++l) bits |= static_cast<uint32_t>(lanes[l] != 0) << l;
  return bits;
#endif
}

// Writes the positions of the lanes that are set, from the first lane's on.
[[gnu::always_inline]] inline uint32_t* write_positions(uint32_t bits, int64_t first,
                                                        uint32_t* next) {
  for (; bits != 0; bits &= bits - 1) *next++ = static_cast<uint32_t>(first + __builtin_ctz(bits));
  return next;
}

[[gnu::always_inline]] inline Floats load(const float* from) {
  Floats values;
  __builtin_memcpy(&values, from, sizeof(values));
  return values;
}

[[gnu::always_inline]] inline void store(float* to, Floats values) {
  __builtin_memcpy(to, &values, sizeof(values));
}

// Gives lanes whose reference is too low the largest score of their group.
template <int kLanes>
[[gnu::noinline]] void raise(float* scores, int64_t num_rows, const float* largest, float scale,
                             float* reference, double* sum) {
  for (int l = 0; l < kLanes; ++l) {
    if (largest[l] > -kLowest) {
      if (reference[l] < largest[l]) sum[l] *= 0.0;  // NaN stays
      for (int64_t r = 0; r < num_rows; ++r)
        if (scores[r * kLanes + l] == largest[l]) {
          sum[l] += 1.0;
          scores[r * kLanes + l] = -largest[l];
        }
    } else if ((largest[l] - reference[l]) * scale > kSlack) {
      sum[l] *= __builtin_exp2((double{reference[l]} - largest[l]) * scale);
    } else {
      continue;
    }
    reference[l] = largest[l];
  }
}

template <int kLanes, bool kCollects>
int64_t add_groups(float* scores, int64_t num_rows, int64_t group, float scale, float* reference,
                   double* sum, const float* limit, uint32_t* positions) {
  constexpr int V = kLanes / kWidth;
  uint32_t* next = positions;
  for (int64_t first = 0; first < num_rows; first += group, scores += group * kLanes) {
    const int64_t rows = num_rows - first < group ? num_rows - first : group;
    Floats largest[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) largest[v] = broadcast(kLowest);
    for (int64_t r = 0; r < rows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const Floats score = load(scores + r * kLanes + v * kWidth);
        largest[v] = score > largest[v] ? score : largest[v];
        if constexpr (kCollects)
          next = write_positions(bits_of(score >= load(limit + v * kWidth)),
                                 (first + r) * kLanes + v * kWidth, next);
      }
    Words is_low = {};
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v)
      is_low |=
          ((largest[v] - load(reference + v * kWidth)) * scale > kSlack) | (largest[v] > -kLowest);
    float lanes[kLanes];
    if (any(is_low)) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) store(lanes + v * kWidth, largest[v]);
      raise<kLanes>(scores, rows, lanes, scale, reference, sum);
    }
    Floats more[V], from[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      more[v] = Floats{};
      from[v] = load(reference + v * kWidth);
    }
    for (int64_t r = 0; r < rows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v)
        more[v] += exp2_of((load(scores + r * kLanes + v * kWidth) - from[v]) * scale);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(lanes + v * kWidth, more[v]);
    for (int l = 0; l < kLanes; ++l) sum[l] += lanes[l];
  }
  return next - positions;
}

template <int kLanes>
int64_t add_exponentials(float* scores, int64_t num_rows, int64_t group, float scale,
                         float* reference, double* sum, const float* limit, uint32_t* positions) {
  const auto add = limit ? add_groups<kLanes, true> : add_groups<kLanes, false>;
  return add(scores, num_rows, group, scale, reference, sum, limit, positions);
}

template <int kLanes>
int64_t weigh(float* scores, int64_t num_rows, float scale, const float* reference,
              const float* factor, const float* limit, uint32_t* positions) {
  uint32_t* next = positions;
  for (int v = 0; v < kLanes; v += kWidth) {
    const Floats from = load(reference + v), times = load(factor + v), most = load(limit + v);
    for (int64_t r = 0; r < num_rows; ++r) {
      float* at = scores + r * kLanes + v;
      const Floats score = load(at);
      const Floats difference = score == from ? Floats{} : score - from;
      const Floats weight = times * exp2_of(difference * scale);
      store(at, weight);
      const Floats magnitude = (Floats)((Words)weight & 0x7fffffff);
      next = write_positions(bits_of(magnitude > most), r * kLanes + v, next);
    }
  }
  return next - positions;
}

void exp2(float* values, int64_t n) {
  for (int64_t i = 0; i < n; i += kWidth) store(values + i, exp2_of(load(values + i)));
}

template <int kLanes>
void set_lanes(SoftmaxLaneKernels& kernels) {
  if constexpr (kLanes >= kWidth) kernels = {add_exponentials<kLanes>, weigh<kLanes>};
}

}  // namespace

void set_softmax_kernels(Level&);
void set_softmax_kernels(Level& level) {
  level.softmax = {};
  set_lanes<4>(level.softmax.lanes[2]);
  set_lanes<8>(level.softmax.lanes[3]);
  set_lanes<16>(level.softmax.lanes[4]);
  set_lanes<32>(level.softmax.lanes[5]);
  level.softmax.exp2 = exp2;
}

}  // namespace RL4REC_LEVEL
}  // namespace rl4rec
