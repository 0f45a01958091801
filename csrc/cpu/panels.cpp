// Panels of queries, and how rows are rounded.
#include <torch/headeronly/util/BFloat16.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/catalog.h"

namespace rl4rec {
namespace {

using FourWords [[gnu::vector_size(16)]] = uint32_t;

// Writes word w of row r to to[w * rows + r]. Both counts are multiples of 4.
void transpose(const uint32_t* from, int64_t rows, int64_t words, uint32_t* to) {
  for (int64_t w = 0; w + 4 <= words; w += 4)
    for (int64_t r = 0; r < rows; r += 4) {
      FourWords in[4], pairs[4];
      for (int i = 0; i < 4; ++i) __builtin_memcpy(&in[i], from + (r + i) * words + w, 16);
      for (int i = 0; i < 2; ++i) {
        pairs[i] = __builtin_shufflevector(in[2 * i], in[2 * i + 1], 0, 4, 1, 5);
        pairs[2 + i] = __builtin_shufflevector(in[2 * i], in[2 * i + 1], 2, 6, 3, 7);
      }
      for (int i = 0; i < 4; ++i) {
        const FourWords &a = pairs[i / 2 * 2], &b = pairs[i / 2 * 2 + 1];
        const FourWords out = i % 2 == 0 ? __builtin_shufflevector(a, b, 0, 1, 4, 5)
                                         : __builtin_shufflevector(a, b, 2, 3, 6, 7);
        __builtin_memcpy(to + (w + i) * rows + r, &out, 16);
      }
    }
  for (int64_t w = words / 4 * 4; w < words; ++w)
    for (int64_t r = 0; r < rows; ++r) to[w * rows + r] = from[r * words + w];
}

}  // namespace

float round_query(const Catalog& catalog, const float* query, int64_t dim, float* rounded) {
  if (catalog.query_storage == kBFloat16) {
    for (int64_t j = 0; j < dim; ++j) rounded[j] = torch::headeronly::BFloat16(query[j]);
    return 1.0f;
  }
  if (catalog.query_storage != kInt8) {
    if (rounded != query) std::copy(query, query + dim, rounded);
    return 1.0f;
  }
  // In lanes, so that the compiler uses vectors.
  constexpr int64_t kSums = 16;
  float magnitudes[kSums] = {}, zeros[kSums] = {};
  for (int64_t j = 0; j < dim; j += kSums)
    for (int64_t i = 0; i < std::min(kSums, dim - j); ++i) {
      magnitudes[i] = std::max(magnitudes[i], std::fabs(query[j + i]));
      zeros[i] += 0.0f * query[j + i];
    }
  if (std::any_of(zeros, zeros + kSums, [](float zero) { return zero != 0.0f; })) {
    // int8 has no NaN; a scale of NaN makes every score NaN
    std::fill(rounded, rounded + dim, 0.0f);
    return std::numeric_limits<float>::quiet_NaN();
  }
  const float largest = *std::max_element(magnitudes, magnitudes + kSums);
  constexpr float kLeast = std::numeric_limits<float>::denorm_min();
  const float scale = largest > 0.0f ? std::max(largest / 127.0f, kLeast) : 1.0f;
  constexpr float kShift = 0x1.8p23f;  // adding it rounds to whole numbers, ties to even
  for (int64_t j = 0; j < dim; ++j)
    rounded[j] = (std::min(std::max(query[j] / scale, -127.0f), 127.0f) + kShift) - kShift;
  return scale;
}

void Catalog::round_row(const Embeddings& rows, int64_t i, uint32_t* to, float* scale,
                        RowNorms* norms) const {
  *norms = {};
  uint32_t* second = to + words / 2;
  switch (arithmetic) {
    case kFloat16Pairs:  // rounded for the norms alone
      rows.to_bfloat16(i, to, nullptr, &norms->norm, &norms->error);
      *norms = {1.000001f * (norms->norm + norms->error), 0.0f, 0.0f};
      std::memcpy(to, rows.row(i), rows.dim * rows.value_bytes);
      return;
    case kSplitInt8: return rows.to_split_int8(i, to, second, scale, norms);
    case kThreeInt8: return rows.to_three_int8(i, to, words / 3, scale, norms);
    case kBFloat16Pairs: second = nullptr; [[fallthrough]];
    default: rows.to_bfloat16(i, to, second, &norms->norm, &norms->error);
  }
}

Panels::Panels(const Catalog& catalog, const Embeddings& queries)
    : catalog_(catalog), queries_(queries) {}

void Panels::pack(int64_t begin, int64_t end) {
  begin_ = begin;
  end_ = end;
  const int64_t lanes = catalog_.tile.lanes;
  words_ = make_words(size() * panel_words());
  rows_ = make_words(catalog_.tile.vector_lanes * catalog_.words);
  row_.reset(new float[queries_.padded_dim()]);
  offsets_.assign(size() * lanes, 0);
  scales_.assign(size() * lanes, 1.0f);
  extremes_.assign(size() * lanes, kNoValues);
  scale_ranges_.assign(size(), kNoValues);
  has_unusual_.assign(size(), 0);
  for (int64_t p = 0; p < size(); ++p) pack_panel(p);
}

void Panels::pack_panel(int64_t p) {
  const int64_t lanes = catalog_.tile.lanes, group = catalog_.tile.vector_lanes;
  const int64_t words = catalog_.words;
  const int64_t end = std::min((p + 1) * lanes, end_ - begin_);
  for (int64_t first = p * lanes; first < end; first += group) {
    const int64_t n = std::min(group, end - first);
    uint32_t* rows = group == 1 ? words_.get() + first * words : rows_.get();
    for (int64_t l = 0; l < n; ++l) {
      pack_query(first + l, rows + l * words);
      scale_ranges_[p].include(scales_[first + l]);
    }
    if (group == 1) continue;
    if (n < group) std::fill(rows + n * words, rows + group * words, 0);
    transpose(rows, group, words, words_.get() + first * words);
  }
}

// Writes the words of query begin_ + i.
void Panels::pack_query(int64_t i, uint32_t* words) {
  const int64_t dim = queries_.dim;
  if (catalog_.arithmetic == kFew && catalog_.items.storage == kInt8) {
    RowNorms norms;
    return queries_.to_int16(begin_ + i, reinterpret_cast<int16_t*>(words), &scales_[i], &norms);
  }
  if (catalog_.rounds) {
    RowNorms norms;
    catalog_.round_row(queries_, begin_ + i, words, &scales_[i], &norms);
    if (catalog_.arithmetic == kSplitInt8) scales_[i] /= 256.0f;
    if (catalog_.arithmetic == kThreeInt8) scales_[i] *= 65536.0f;
    return;
  }
  if (catalog_.arithmetic == kBFloat16Pairs) {
    auto* halves = reinterpret_cast<uint16_t*>(words);
    if (queries_.storage == kBFloat16) {
      std::copy_n(static_cast<const uint16_t*>(queries_.row(begin_ + i)), dim, halves);
    } else {
      float* row = row_.get();
      queries_.copy_row(begin_ + i, row);
      for (int64_t j = 0; j < dim; ++j) halves[j] = torch::headeronly::BFloat16(row[j]).x;
    }
    extremes_[i] = rl4rec::extremes(halves, dim);
    has_unusual_[i / catalog_.tile.lanes] |=
        extremes_[i].has_subnormal() || extremes_[i].has_large();
    return;
  }
  float* row = row_.get();
  queries_.copy_row(begin_ + i, row);
  scales_[i] = round_query(catalog_, row, dim, row);
  if (catalog_.arithmetic == kInt8Quads) {
    auto* bytes = reinterpret_cast<int8_t*>(words);
    int32_t sum = 0;
    for (int64_t j = 0; j < dim; ++j) sum += bytes[j] = static_cast<int8_t>(row[j]);
    offsets_[i] = catalog_.tile.int8_offset * sum;
  } else {
    std::copy_n(row, dim, reinterpret_cast<float*>(words));
  }
}

float Panels::copy_query(int64_t p, int64_t lane, float* row) const {
  queries_.copy_row(begin_ + p * catalog_.tile.lanes + lane, row);
  return round_query(catalog_, row, queries_.dim, row);
}

}  // namespace rl4rec
