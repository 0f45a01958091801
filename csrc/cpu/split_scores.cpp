#include "cpu/split_scores.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/tuning.h"

namespace rl4rec {
namespace {

constexpr float kNormMargin = 1.5f;

// The nearest whole number, for magnitudes below 2^23.
float nearest(float value) {
  const float half = std::copysign(0x1p23f, value);
  return (value + half) - half;
}
// Values beyond these are scored exactly: what is flushed to zero, and overflow, need no thought.
constexpr float kLeast = 1e-12f, kMost = 1e12f;

}  // namespace

SplitScores::SplitScores(const Catalog& exact, const Embeddings& queries, double temperature)
    : slopes_(queries.rows, std::numeric_limits<double>::infinity()), roundings_(queries.rows) {
  const Embeddings& items = exact.items;
  if (!level().wide[kSplit].score || exact.arithmetic != kFloat || items.storage == kInt8) return;
  if (items.rows < kMinItems || items.dim == 0 || items.dim > kMaxDim) return;
  std::vector<int64_t> valid;
  for (int64_t i = 0; i < items.rows && exact.valid; ++i)
    if (exact.valid[i]) valid.push_back(i);
  const auto num_valid = exact.valid ? static_cast<int64_t>(valid.size()) : items.rows;
  if (num_valid < kMinItems) return;
  std::vector<std::pair<float, float>> kinds;
  const int64_t part_words = items.padded_dim() / 4;
  std::vector<uint32_t> words(items.padded_dim());
  std::vector<float> row(items.padded_dim()), mean(items.padded_dim());
  for (int64_t i = 0; i < kSample; ++i) {
    const int64_t at = (2 * i + 1) * num_valid / (2 * kSample);
    sample_.push_back(exact.valid ? valid[at] : at);
    float norm, error;
    items.to_bfloat16(sample_.back(), words.data(), nullptr, &norm, &error);
    kinds.emplace_back(norm, error);
    RowNorms norms;
    float scale;
    items.to_three_int8(sample_.back(), words.data(), part_words, &scale, &norms);
    norm_ = std::max(norm_, kNormMargin * std::max(norm, norms.rest / kSpread));
    items.copy_row(sample_.back(), row.data());
    for (int64_t j = 0; j < items.dim; ++j) mean[j] += row[j] / kSample;
  }
  if (!(kLeast < norm_ && norm_ < kMost)) return;
  // Errors of equal items are equal: then they do not average out.
  std::sort(kinds.begin(), kinds.end());
  if (std::unique(kinds.begin(), kinds.end()) - kinds.begin() < kSample * 3 / 4) return;
  parallel_for(0, queries.rows, kQueriesPerThread, [&](int64_t begin, int64_t end) {
    const int64_t part_words = queries.padded_dim() / 4;
    std::vector<uint32_t> words(queries.padded_dim());
    std::vector<float> row(queries.padded_dim());
    for (int64_t q = begin; q < end; ++q) {
      RowNorms norms;
      float scale;
      queries.to_three_int8(q, words.data(), part_words, &scale, &norms);
      const double largest = norms.rest / std::sqrt(static_cast<double>(queries.dim));
      if (!(kLeast < largest && largest < kMost)) continue;
      slopes_[q] = 0x1p-19 * largest / temperature;
      queries.copy_row(q, row.data());
      const float inverse = 1.0f / scale;  // a power of two
      for (float& value : row) value -= scale * nearest(value * inverse);
      roundings_[q] = float64_score(row.data(), mean.data(), queries.dim);
    }
  });
  int64_t num_split = 0;
  for (int64_t q = 0; q < queries.rows; ++q) num_split += is_split(q);
  any_split_ = num_split > 0;
  all_split_ = num_split == queries.rows;
}

void SplitPanels::pack(int64_t begin, int64_t end) {
  panels_.pack(begin, end);
  const int64_t lanes = split_.tile.lanes, words = split_.words / 2, dim = queries_.dim;
  thirds_ = make_words(panels_.size() * words * lanes);
  std::vector<float> row(queries_.padded_dim());
  std::vector<uint16_t> first(row.size()), second(row.size()), third(row.size());
  const auto part = [](uint16_t bits) {
    const uint32_t word = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &word, sizeof(value));
    return value;
  };
  for (int64_t i = 0; i < end - begin; ++i) {
    queries_.copy_row(begin + i, row.data());
    level().splits.split(row.data(), queries_.padded_dim(), first.data(), second.data());
    for (size_t d = 0; d < row.size(); ++d) row[d] = row[d] - part(first[d]) - part(second[d]);
    level().splits.split(row.data(), queries_.padded_dim(), third.data(), second.data());
    const auto* from = reinterpret_cast<const char*>(third.data());
    uint32_t* to = thirds_.get() + i / 16 * 16 * words + i % 16;
    for (int64_t w = 0; w < (dim + 1) / 2; ++w) std::memcpy(to + 16 * w, from + 4 * w, 4);
  }
}

}  // namespace rl4rec
