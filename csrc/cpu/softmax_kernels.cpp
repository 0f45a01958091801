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
  const Floats result = (Floats)((Words)p + ((Words)shifted << 23));
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

template <int kLanes>
void add_exponentials(float* scores, int64_t num_rows, int64_t group, float scale, float* reference,
                      double* sum) {
  constexpr int V = kLanes / kWidth;
  for (; num_rows > 0; num_rows -= group, scores += group * kLanes) {
    const int64_t rows = num_rows < group ? num_rows : group;
    Floats largest[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) largest[v] = broadcast(kLowest);
    for (int64_t r = 0; r < rows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const Floats score = load(scores + r * kLanes + v * kWidth);
        largest[v] = score > largest[v] ? score : largest[v];
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
}

template <int kLanes>
void weigh(float* scores, int64_t num_rows, float scale, const float* reference,
           const float* factor) {
  constexpr int V = kLanes / kWidth;
  for (int v = 0; v < V; ++v) {
    const Floats from = load(reference + v * kWidth), times = load(factor + v * kWidth);
    for (int64_t r = 0; r < num_rows; ++r) {
      float* at = scores + r * kLanes + v * kWidth;
      const Floats score = load(at);
      const Floats difference = score == from ? Floats{} : score - from;
      store(at, times * exp2_of(difference * scale));
    }
  }
}

void exp2(float* values, int64_t n) {
  for (int64_t i = 0; i < n; i += kWidth) store(values + i, exp2_of(load(values + i)));
}

// The nearest bfloat16, ties to even, in the upper halves of words.
[[gnu::always_inline]] inline Words nearest_bfloat16(Floats value) {
  const Words bits = (Words)value;
  const Words near = bits + 0x7fff + ((bits >> 16) & 1);
  return (value == value ? near : bits | 0x400000) & (int32_t)0xffff0000;  // NaN stays
}

struct Parts {
  Words first, second;
};
[[gnu::always_inline]] inline Parts split(const float* from) {
  const Floats value = load(from);
  const Words first = nearest_bfloat16(value);
  const Floats rest = value - (Floats)first;
  return {first, nearest_bfloat16(rest - rest == 0.0f ? rest : Floats{})};
}

[[gnu::always_inline]] inline void store_halves(uint16_t* to, Words upper) {
#if defined(__AVX512F__)
  _mm256_storeu_si256((__m256i*)to, _mm512_cvtepi32_epi16((__m512i)(upper >> 16)));
#else
  using Halves [[gnu::vector_size(kVectorBytes / 2)]] = int16_t;
  const Halves halves = __builtin_convertvector(upper >> 16, Halves);
  __builtin_memcpy(to, &halves, sizeof(halves));
#endif
}

void split_values(const float* values, int64_t n, uint16_t* first, uint16_t* second) {
  for (int64_t i = 0; i < n; i += kWidth) {
    const Parts parts = split(values + i);
    store_halves(first + i, parts.first);
    store_halves(second + i, parts.second);
  }
}

void split_pairs(const float* even, const float* odd, int64_t n, uint32_t* first, uint32_t* second,
                 int64_t vector_stride) {
  const auto join = [](Words low, Words high) { return ((low >> 16) & 0xffff) | high; };
  for (int64_t i = 0; i < n; i += kProductVector)
    for (int64_t l = 0; l < kProductVector; l += kWidth) {
      const Parts low = split(even + i + l), high = split(odd + i + l);
      const int64_t to = i / kProductVector * vector_stride + l;
      const Words words[2] = {join(low.first, high.first), join(low.second, high.second)};
      __builtin_memcpy(first + to, &words[0], sizeof(Words));
      __builtin_memcpy(second + to, &words[1], sizeof(Words));
    }
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
  level.splits = {split_values, split_pairs};
}

}  // namespace RL4REC_LEVEL
}  // namespace rl4rec
