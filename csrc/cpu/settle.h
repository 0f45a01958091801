// Scores that float32 arithmetic leaves open.
//
// A score is the dot product rounded to float32: infinite beyond its range, and NaN only if an
// input is NaN or infinities cancel. A sum in float32 gives that up to its rounding, but for
// products and partial sums that overflow, whatever the sum is, and for subnormal numbers, which
// some instructions take for zero. Such pairs are scored again in float64, in which products of
// float32 neither overflow nor vanish. Whether they are depends on the pair alone.
#pragma once

#include <cstdint>
#include <limits>

namespace rl4rec {

// The magnitudes of a row's values that are not zero: the least and the most. Infinite and 0 if
// there are none.
struct Extremes {
  float least, most;

  bool has_subnormal() const { return least < std::numeric_limits<float>::min(); }
  bool has_large() const { return most >= 0x1p16f; }
  void include(float value) {
    least = value < least ? value : least;
    most = value > most ? value : most;
  }
};

constexpr Extremes kNoValues{std::numeric_limits<float>::infinity(), 0.0f};

// What the dot products of bfloat16 flush, with 2^16 for `large`: of an input less than 2^-126
// times 2^16 unless the other one is large, and 2^-126 of each product and sum. These are less than
// D 2^-109 in all. Rounding a sum that is not tiny may change it by D 2^-24 2^-80, so what was
// flushed decides nothing then. If the least products are not below 2^-100, all products and sums
// are multiples of 2^-114 and nothing is flushed.
constexpr float kTiny = 0x1p-80f;

inline bool is_tiny(float score) { return -kTiny < score && score < kTiny; }

inline bool needs_float64(const Extremes& query, const Extremes& item) {
  return (query.has_subnormal() && item.has_large()) || (query.has_large() && item.has_subnormal());
}

inline bool may_be_flushed(const Extremes& query, const Extremes& item) {
  return query.least * item.least < 0x1p-100f;
}

inline bool is_finite(float score) {
  constexpr float kMax = std::numeric_limits<float>::max();
  return -kMax <= score && score <= kMax;
}

// Neither infinite nor subnormal, nor 0 or NaN: of the product of two scales.
inline bool is_normal(float scale) {
  return std::numeric_limits<float>::min() <= scale && is_finite(scale);
}

// The product of `scale` and the dot product, added up in float64.
float float64_score(const float* query, const float* item, int64_t dim, double scale = 1.0);

}  // namespace rl4rec
