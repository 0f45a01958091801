// Sums of exponentials of scores that are computed from parts of float32: as kThreeInt8, or, for
// gradients, from bfloat16 parts, three of the queries and two of the items.
//
// The log of a sum of e^(s / T) changes by the mean of ds / T, weighted by the probabilities p, if
// every score changes by ds. The rests that are left out of items, and the roundings of sums, are
// unrelated for different items (Higham & Mary, A new approach to probabilistic rounding error
// analysis, SIAM J. Sci. Comput. 2019). If they change a score by about e, the mean over the items
// with p below P is about sqrt(P) e / T. (Scores in float32 are no better for some hundred
// dimensions: they add up as many roundings.) Therefore:
//
// - Queries whose e / T is more than kMaxError are scored exactly, for all items. So are tables of
//   few items, of which many have large probabilities, and tables with few different items.
// - Items with a probability of at least P are scored exactly: at most 1 / P per query. P is chosen
//   for each query, within limits, so that sqrt(P) e / T is 2^-20.
//
// That leaves errors below 1e-6. Which pairs are exact depends on the pair, the table and the
// temperature only.
//
// With two bfloat16 parts of an item, what is left out of a value is below 2^-18 of it, and e is
// about 2^-19 max|q_j| |t|, as that of a sum of products with random signs.
//
// kThreeInt8 writes a row as whole numbers below 2^23 times a power of two u, at most 2^-22 of the
// row's largest value. Their digits to the base 256 are random but for the first one. So
// - rounding an item leaves out u / sqrt(12) of a value: u_t |q| / 3.4 of a score, and
// - the products of a second and a third digit, 256 u_q u_t * 74^2 each, and the smaller ones of
// two
//   third digits add up to sqrt(2 D) 2^20.4 u_q u_t at most.
// Together that is below e = 2^-22 max|q_j| sqrt(D) max|t_j|, which is no more than that of
// bfloat16 parts unless sqrt(D) max|t_j| exceeds 8 |t|. Then an eighth of it counts as the norm.
//
// What rounding a query leaves out, r with |r_j| <= u_q / 2, is the same for all items, and does
// not average out: the log of the sum lacks r.m / T, with m the mean item by probability. So r.m /
// T is added, with m the mean of a sample of the table. What remains is about u_q / sqrt(12) times
// the distance of the two means, over T; at most 2^-24 * 16 / 1.5, and mostly far below it.
#pragma once

#include "cpu/exclusions.h"

namespace rl4rec {

// The limits of P.
constexpr double kMinHeavyShare = 1.0 / 1024, kMaxHeavyShare = 1.0 / 64;

// Some tiles of items.
class TileStrip {
 public:
  TileStrip(const Catalog& catalog, int64_t max_tiles) {
    for (int64_t t = 0; t < max_tiles; ++t) tiles_.emplace_back(catalog);
  }

  // As ItemTile does.
  int64_t load(int64_t first, int64_t end) {
    for (size_ = 0; size_ < static_cast<int64_t>(tiles_.size()) && first < end; ++size_) {
      first = tiles_[size_].load(first, end);
      if (tiles_[size_].size() == 0) break;
    }
    return first;
  }

  int64_t size() const { return size_; }
  const ItemTile& operator[](int64_t t) const { return tiles_[t]; }

 private:
  std::vector<ItemTile> tiles_;
  int64_t size_ = 0;
};

// Which queries of a call are scored as kSplit.
class SplitScores {
 public:
  SplitScores(const Catalog& exact, const Embeddings& queries, double temperature);

  bool is_split(int64_t q) const { return double{norm_} * slopes_[q] <= kMaxError; }
  // The probability from which on items are scored exactly.
  double heavy(int64_t q) const {
    const double root = 0x1p-20 / (double{norm_} * slopes_[q]);
    return std::min(std::max(root * root, kMinHeavyShare), kMaxHeavyShare);
  }
  // Over all queries.
  bool any_split() const { return any_split_; }
  bool all_split() const { return all_split_; }
  // Whether this holds for these items, too. They are scored exactly otherwise.
  bool allows(const ItemTile& tile) const {
    return tile.norms().norm <= norm_ && tile.norms().rest <= kSpread * norm_;
  }
  bool allows(const TileStrip& strip) const {
    for (int64_t t = 0; t < strip.size(); ++t)
      if (!allows(strip[t])) return false;
    return true;
  }
  // What rounding a query to three int8 takes from the score of the mean of the items. The scores
  // of all items lack about as much, which would not average out.
  double rounding(int64_t q) const { return roundings_[q]; }
  RowNorms norms() const { return {norm_, 0.0f, kSpread * norm_}; }
  // Some rows, evenly spaced.
  const std::vector<int64_t>& sample() const { return sample_; }

  static constexpr int64_t kMinItems = 4096, kSample = 128, kMaxDim = 1 << 15;

 private:
  static constexpr float kSpread = 8.0f;
  static constexpr double kMaxError = 16 * 0x1p-19;  // with kMinHeavyShare, sqrt(P) e / T is 2^-20

  std::vector<int64_t> sample_;
  float norm_ = 0.0f;                       // above those of the sample, and of nearly all items
  std::vector<double> slopes_, roundings_;  // per query
  bool any_split_ = false, all_split_ = false;
};

// Panels of queries in three parts, which leave nothing out. So what the scores of a query with
// different items have in common is exact.
class SplitPanels {
 public:
  SplitPanels(const Catalog& split, const Embeddings& queries)
      : split_(split), queries_(queries), panels_(split, queries) {}

  void pack(int64_t begin, int64_t end);
  int64_t size() const { return panels_.size(); }
  // scores[tile, row, lane] of a strip: a part of the panel at a time, which stays in the cache.
  void score(const TileStrip& strip, int64_t p, float* scores) const {
    const auto& kernels = level().products;
    const int64_t half = split_.words / 2;
    const uint32_t* third = thirds_.get() + p * half * split_.tile.lanes;
    for (int64_t w = 0; w < half; w += kPartWords)
      for (int64_t t = 0; t < strip.size(); ++t) {
        const int64_t end = std::min(w + kPartWords, half);
        float* own = scores + t * kMaxTileScores;
        const auto score = split_.tile.lanes == 16 ? kernels.score_narrow : kernels.score_wide;
        score(panels_.panel(p), third, strip[t].data(), strip[t].stride(), split_.words, w, end,
              own);
      }
  }

  static constexpr int64_t kTiles = 4;  // that are scored together

 private:
  static constexpr int64_t kPartWords = 192;

  const Catalog& split_;
  const Embeddings& queries_;
  Panels panels_;
  AlignedWords thirds_;  // [panel, vector, words, 16]
};

// Pairs of a query and an item that are scored exactly, 16 at a time.
template <typename Fn>
class ExactPairs {
 public:
  ExactPairs(const Embeddings& queries, const Embeddings& items, const Fn& fn)
      : queries_(queries), items_(items), fn_(fn) {}

  void add(int64_t query, int64_t item, float approximate) {
    numbers_[size_] = {query, item, approximate};
    rows_[0][size_] = row(queries_, query, 0);
    rows_[1][size_] = row(items_, item, 1);
    if (++size_ == kSize) flush();
  }
  // Calls fn(query, item, approximate, exact score) for each pair and removes them all.
  void flush() {
    if (size_ == 0) return;
    float scores[kSize];
    level().sequential_dots(rows_[0], rows_[1], size_, queries_.dim, scores);
    for (int64_t i = 0; i < size_; ++i)
      fn_(numbers_[i].query, numbers_[i].item, numbers_[i].approximate, scores[i]);
    size_ = 0;
  }

 private:
  static constexpr int64_t kSize = 16;
  struct Number {
    int64_t query, item;
    float approximate;
  };

  const float* row(const Embeddings& from, int64_t i, int side) {
    if (from.storage == kFloat32) return static_cast<const float*>(from.row(i));
    std::vector<float>& copies = copies_[side];
    copies.resize(kSize * from.padded_dim());
    float* copy = &copies[size_ * from.padded_dim()];
    from.copy_row(i, copy);
    return copy;
  }

  const Embeddings &queries_, &items_;
  Fn fn_;
  Number numbers_[kSize];
  const float* rows_[2][kSize];
  std::vector<float> copies_[2];
  int64_t size_ = 0;
};

}  // namespace rl4rec
