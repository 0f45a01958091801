// Rounding of rows of embeddings to what approximate scores are computed from, for one level of CPU
// features. As in row_kernels.cpp, no header with inline functions may be included.
#include "cpu/row_loop.h"

namespace rl4rec {
namespace RL4REC_LEVEL {
namespace {

// The nearest bfloat16, ties to even, as floats.
Floats nearest_bfloat16(Floats value) {
  const Words bits = (Words)value;
  return (Floats)((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000);
}

// Stores the upper halves of floats.
void store_two(Floats value, Floats next, uint16_t* to) {
#if defined(__AVX512F__)
  alignas(kVectorBytes) static constexpr uint16_t kUpper[2 * kWidth] = {
      1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
      33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  const __m512i halves =
      _mm512_permutex2var_epi16((__m512i)value, _mm512_load_si512(kUpper), (__m512i)next);
  _mm512_storeu_si512(to, halves);
#else
  const Halves halves = __builtin_convertvector((Words)value >> 16, Halves);
  const Halves others = __builtin_convertvector((Words)next >> 16, Halves);
  __builtin_memcpy(to, &halves, sizeof(halves));
  __builtin_memcpy(to + kWidth, &others, sizeof(others));
#endif
}

template <typename T>
void to_bfloat16(const void* row, int64_t dim, uint32_t* first, uint32_t* second, float* norm,
                 float* error) {
  const T* from = static_cast<const T*>(row);
  auto* firsts = reinterpret_cast<uint16_t*>(first);
  auto* seconds = reinterpret_cast<uint16_t*>(second);
  Sums norms, errors;
  for_each_step(from, dim, [&](const T* step, int64_t j) {
#pragma GCC unroll 4
    for (int p = 0; p < kParts; p += 2) {
      Floats near[2], rest[2];
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const Floats value = load(step + (p + i) * kWidth);
        near[i] = nearest_bfloat16(value);
        rest[i] = value - near[i];
        norms.parts[p + i] += near[i] * near[i];
        errors.parts[p + i] += rest[i] * rest[i];
      }
      store_two(near[0], near[1], firsts + j + p * kWidth);
      if (seconds)
        store_two(nearest_bfloat16(rest[0]), nearest_bfloat16(rest[1]), seconds + j + p * kWidth);
    }
  });
  *norm = length(norms, dim);
  *error = length(errors, dim);
  if (!(*norm < 1e18f && *error < 1e18f)) *norm = *error = __builtin_inff();
}

// Added to a float below 2^22 it rounds it to a whole number, ties to even, which is the lower half
// of the sum's bits.
constexpr float kShift = 0x1.8p23f;

// Stores whole numbers modulo 256, shifted.
void store_bytes(Floats shifted, int8_t* to) {
#if defined(__AVX512F__)
  const __m128i bytes = _mm512_cvtepi32_epi8((__m512i)shifted);
  __builtin_memcpy(to, &bytes, sizeof(bytes));
#else
  const Words bits = (Words)shifted;
  for (int i = 0; i < kWidth; ++i) to[i] = static_cast<int8_t>(bits[i]);
#endif
}

constexpr auto larger = [](const auto& a, const auto& b) { return a > b ? a : b; };

template <typename T>
float largest_magnitude(const T* row, int64_t dim) {
  Floats magnitudes[kParts] = {};
  for_each_step(row, dim, [&](const T* step, int64_t) {
#pragma GCC unroll 8
    for (int p = 0; p < kParts; ++p) {
      const Floats magnitude = (Floats)((Words)load(step + p * kWidth) & 0x7fffffff);
      magnitudes[p] = larger(magnitudes[p], magnitude);
    }
  });
  for (int p = 1; p < kParts; ++p) magnitudes[0] = larger(magnitudes[0], magnitudes[p]);
  return fold(magnitudes[0], larger);
}

template <typename T>
void to_split_int8(const void* row, int64_t dim, uint32_t* first, uint32_t* second, float* scale,
                   RowNorms* norms) {
  const T* from = static_cast<const T*>(row);
  auto* firsts = reinterpret_cast<int8_t*>(first);
  auto* seconds = reinterpret_cast<int8_t*>(second);
  const float largest = largest_magnitude(from, dim);
  *scale = largest == 0.0f ? 1.0f : largest / 127.0f;
  norms->norm = norms->error = norms->rest = __builtin_inff();
  // Beyond this, products of two scales might not be normal numbers.
  if (largest != 0.0f && !(0x1p-40f < largest && largest < 0x1p40f)) return;

  // A value is about `whole` times `unit`, which is 256 times its first part plus the second one,
  // from -128 to 127.
  const float unit = *scale * (1.0f / 256.0f), inverse = 1.0f / unit;
  Sums squares, errors, rests;
  for_each_step(from, dim, [&](const T* step, int64_t j) {
#pragma GCC unroll 8
    for (int p = 0; p < kParts; ++p) {
      const Floats value = load(step + p * kWidth);
      const Floats shifted = value * inverse + kShift, whole = shifted - kShift;
      const Floats error = value - unit * whole;
      const Floats shifted_first = (whole + 0.5f) * (1.0f / 256.0f) + kShift;  // no ties
      const Floats rest = whole - 256.0f * (shifted_first - kShift);
      squares.parts[p] += whole * whole;
      errors.parts[p] += error * error;
      rests.parts[p] += rest * rest;
      store_bytes(shifted_first, firsts + j + p * kWidth);
      store_bytes(shifted, seconds + j + p * kWidth);
    }
  });
  constexpr float kUp = 1.0f + 0x1p-22f;
  const float norm = unit * length(squares, dim) * kUp;
  const float error = (length(errors, dim) + 0x1p-22f * norm) * kUp;  // with its own rounding
  if (!(norm < 1e18f && error < 1e18f)) return;                       // NaN
  *norms = {norm, error, unit * length(rests, dim) * kUp};
}

void extremes(const uint16_t* values, int64_t n, uint16_t* least, uint16_t* most) {
  uint16_t low = 0xffff, high = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint16_t twice = static_cast<uint16_t>(values[i] << 1);  // without the sign
    const uint16_t below = static_cast<uint16_t>(twice - 1);       // the most for zeros
    low = below < low ? below : low;
    high = twice > high ? twice : high;
  }
  *least = low == 0xffff ? low : static_cast<uint16_t>((low + 1) >> 1);
  *most = high >> 1;
}

}  // namespace

void set_rounding_kernels(Level&);
void set_rounding_kernels(Level& level) {
  level.rounding = {
      {to_bfloat16<float>, to_bfloat16<Float16>, to_bfloat16<BFloat16>},
      {to_split_int8<float>, to_split_int8<Float16>, to_split_int8<BFloat16>},
      extremes,
  };
}

}  // namespace RL4REC_LEVEL
}  // namespace rl4rec
