// How exponentials of scores are added up, a few rows at a time. Only kernel files include it:
// everything here is in an anonymous namespace of the level that is compiled.
#pragma once

#include "cpu/levels.h"
#include "cpu/vectors.h"

namespace rl4rec {
namespace RL4REC_LEVEL {
namespace {
namespace softmax {

constexpr int kWidth = kVectorBytes / sizeof(float);
using Floats [[gnu::vector_size(4 * kWidth)]] = float;
using Words [[gnu::vector_size(4 * kWidth)]] = int32_t;

constexpr float kLowest = -3.402823466e38f;
// How far above its reference, as a power of two, a score may be: few are, so that references
// rarely change, and the rounding of a difference stays small.
constexpr float kSlack = 8.0f;

[[gnu::always_inline]] inline Floats broadcast(float value) { return Floats{} + value; }

[[gnu::always_inline]] inline Floats load(const float* from) {
  Floats values;
  __builtin_memcpy(&values, from, sizeof(values));
  return values;
}

[[gnu::always_inline]] inline void store(float* to, Floats values) {
  __builtin_memcpy(to, &values, sizeof(values));
}

// Powers of two: 2^(x * scale) within 3 units in the last place, for x * scale <= 127; 0 if it is
// below 2^-125. A polynomial of degree 5 for the fraction, in [-1/2, 1/2], whose largest relative
// error is the least possible if it is exact at 0, and an integer, which is added to the exponent.
class Powers {
 public:
  [[gnu::always_inline]] explicit Powers(float scale)
      : scale_(broadcast(scale)), least_(broadcast(-125.0f / scale)) {}

  [[gnu::always_inline]] Floats operator()(Floats x) const {
    const Floats rounding = broadcast(0x1.8p23f);  // added and subtracted, it leaves a whole number
#if defined(__AVX512F__)
    const Floats shifted = (Floats)_mm512_fmadd_ps((__m512)x, (__m512)scale_, (__m512)rounding);
    const Floats whole = shifted - rounding;
    const Floats f = (Floats)_mm512_fmsub_ps((__m512)x, (__m512)scale_, (__m512)whole);
#else
    const Floats power = x * scale_, shifted = power + rounding, whole = shifted - rounding;
    const Floats f = power - whole;
#endif
    Floats p = broadcast(0x1.5bba14p-10f);
    p = p * f + 0x1.3cea88p-7f;
    p = p * f + 0x1.c6b752p-5f;
    p = p * f + 0x1.ebf9bcp-3f;
    p = p * f + 0x1.62e42ap-1f;
    p = p * f + 1.0f;
#if defined(__AVX512F__)
    const __mmask16 is_normal = _mm512_cmp_ps_mask((__m512)x, (__m512)least_, _CMP_NLT_UQ);
    return (Floats)_mm512_maskz_scalef_ps(is_normal, (__m512)p, (__m512)whole);  // NaN stays
#else
    using Bits [[gnu::vector_size(sizeof(Floats))]] = uint32_t;  // may overflow
    const Floats result = (Floats)((Bits)p + ((Bits)shifted << 23));
    return x < least_ ? Floats{} : result;  // NaN stays
#endif
  }

  [[gnu::always_inline]] Floats scaled(Floats x) const { return x * scale_; }

 private:
  const Floats scale_, least_;
};

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

// Writes the positions of scores from limit[l] on, the first row's from `first` on.
template <int kLanes>
[[gnu::noinline]] uint32_t* find_large(const float* scores, int64_t num_rows, const float* limit,
                                       int64_t first, uint32_t* next) {
  for (int64_t r = 0; r < num_rows; ++r)
    for (int v = 0; v < kLanes; v += kWidth)
      next = write_positions(bits_of(load(scores + r * kLanes + v) >= load(limit + v)),
                             first + r * kLanes + v, next);
  return next;
}

// Adds up the exponentials of a group of rows. They are computed with the references that there
// are, and once more in the rare case that one of these turns out to be too low.
template <int kLanes>
class Group {
 public:
  [[gnu::always_inline]] explicit Group(const Unsummed& to) : to_(to), powers_(to.scale) {
    begin();
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) largest_[v] = broadcast(kLowest);
  }

  [[gnu::always_inline]] void add(const float* row) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const Floats score = load(row + v * kWidth);
      largest_[v] = score > largest_[v] ? score : largest_[v];
      more_[v] += powers_(score - from_[v]);
    }
  }
  // The group ends with row first + num_rows. Returns where the next position is to be written.
  [[gnu::always_inline]] uint32_t* finish(int64_t first, int64_t num_rows, uint32_t* next) {
    float* scores = to_.scores + first * kLanes;
    if (to_.limit) {
      Words is_large = {};
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) is_large |= largest_[v] >= load(to_.limit + v * kWidth);
      if (any(is_large))
        next = find_large<kLanes>(scores, num_rows, to_.limit, first * kLanes, next);
    }
    Words is_wrong = {};
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v)
      is_wrong |= (powers_.scaled(largest_[v] - from_[v]) > kSlack) | (largest_[v] > -kLowest) |
                  (more_[v] != more_[v]);
    float lanes[kLanes];
    if (any(is_wrong)) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) store(lanes + v * kWidth, largest_[v]);
      raise<kLanes>(scores, num_rows, lanes, to_.scale, to_.reference, to_.sum);
      begin();
      for (int64_t r = 0; r < num_rows; ++r) add(scores + r * kLanes);
    }
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(lanes + v * kWidth, more_[v]);
    for (int l = 0; l < kLanes; ++l) to_.sum[l] += lanes[l];
    return next;
  }

 private:
  static constexpr int V = kLanes / kWidth;

  [[gnu::always_inline]] void begin() {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      more_[v] = Floats{};
      from_[v] = load(to_.reference + v * kWidth);
    }
  }

  const Unsummed to_;
  const Powers powers_;
  Floats from_[V], more_[V], largest_[V];
};

// Adds up the exponentials of a tile [32, kLanes], as one group, while the matrix instructions of
// AMX multiply others: step() is called after every few of them, `num_steps` times.
template <int kLanes>
class GroupMeanwhile {
 public:
  [[gnu::always_inline]] GroupMeanwhile(const Unsummed& to, int64_t num_steps)
      : to_(to), group_(to), rows_per_step_(num_steps > 0 ? (kRows - 1) / num_steps + 1 : kRows) {}

  [[gnu::always_inline]] void step() {
    for (const int64_t end = row_ + rows_per_step_; row_ < end && row_ < kRows; ++row_)
      group_.add(to_.scores + row_ * kLanes);
  }
  // Returns how many positions were written.
  [[gnu::always_inline]] int64_t finish() {
    while (row_ < kRows) step();
    return group_.finish(0, kRows, to_.positions) - to_.positions;
  }

 private:
  static constexpr int64_t kRows = 32;

  const Unsummed to_;
  Group<kLanes> group_;
  const int64_t rows_per_step_;
  int64_t row_ = 0;
};

}  // namespace softmax
}  // namespace
}  // namespace RL4REC_LEVEL
}  // namespace rl4rec
