// Sums of exponentials of scores that are computed as kSplit, where that gives what float32 gives.
//
// The log of a sum of e^(s / T) changes by the mean of ds / T, weighted by the probabilities p, if
// every score changes by ds. Queries have three parts here: what is left out of a score comes from
// the rest of its item, below 2^-18 of it. These rests are unrelated for different items, as are
// the roundings of sums (Higham & Mary, A new approach to probabilistic rounding error analysis,
// SIAM J. Sci. Comput. 2019). So ds is about e = 2^-19 max|q_j| |t|, as that of a sum of products
// with random signs, and the mean over the items with p below P is about sqrt(P) e / T. (Scores in
// float32 are no better for some hundred dimensions: they add up as many roundings.) Therefore:
//
// - Queries whose e / T is more than kMaxError are scored exactly, for all items. So are tables of
//   few items, of which many have large probabilities, and tables with few different items.
// - Items with a probability of at least P are scored exactly: at most 1 / P per query. P is chosen
//   for each query, within limits, so that sqrt(P) e / T is 2^-20.
//
// That leaves errors below 1e-6. Which pairs are exact depends on the pair, the table and the
// temperature only.
#pragma once

#include "cpu/exclusions.h"

namespace rl4rec {

// The limits of P.
constexpr double kMinHeavyShare = 1.0 / 1024, kMaxHeavyShare = 1.0 / 64;

// Some tiles of items.
class TileStrip {
 public:
  TileStrip(const Catalog& catalog, int64_t max_tiles) : rows_(catalog.tile.rows) {
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
  void load_ids(const int64_t* ids, int64_t n) {
    size_ = 0;
    for (int64_t i = 0; i < n; i += rows_)
      tiles_[size_++].load_ids(ids + i, std::min(rows_, n - i));
  }

  int64_t size() const { return size_; }
  const ItemTile& operator[](int64_t t) const { return tiles_[t]; }

 private:
  const int64_t rows_;
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
  bool allows(const TileStrip& strip) const {
    for (int64_t t = 0; t < strip.size(); ++t)
      if (!(strip[t].norm() <= norm_)) return false;
    return true;
  }
  float norm() const { return norm_; }
  // Some rows, evenly spaced.
  const std::vector<int64_t>& sample() const { return sample_; }

  static constexpr int64_t kMinItems = 4096, kSample = 128;

 private:
  static constexpr double kMaxError = 16 * 0x1p-19;  // with kMinHeavyShare, sqrt(P) e / T is 2^-20

  std::vector<int64_t> sample_;
  float norm_ = 0.0f;           // above those of the sample, and of nearly all items
  std::vector<double> slopes_;  // per query
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
    score(strip, p, scores, [](int64_t) { return std::nullopt; }, [](int64_t, int64_t) {});
  }
  // The same, with the sums of the exponentials of others(t), for tile t, unless there are none;
  // found(t, n) is called with the number of positions. Vectors are idle while tiles are
  // multiplied.
  template <typename Others, typename Found>
  void score(const TileStrip& strip, int64_t p, float* scores, const Others& others,
             const Found& found) const {
    const auto& kernels = level().products;
    const int64_t half = split_.words / 2;
    const uint32_t* third = thirds_.get() + p * half * split_.tile.lanes;
    for (int64_t w = 0; w < half; w += kPartWords)
      for (int64_t t = 0; t < strip.size(); ++t) {
        const int64_t end = std::min(w + kPartWords, half);
        float* own = scores + t * kMaxTileScores;
        if (split_.tile.lanes == 16) {
          kernels.score_narrow(panels_.panel(p), third, strip[t].data(), strip[t].stride(),
                               split_.words, w, end, own);
          continue;
        }
        const std::optional<Unsummed> unsummed = w == 0 ? others(t) : std::nullopt;
        const int64_t n =
            kernels.score_wide(panels_.panel(p), third, strip[t].data(), strip[t].stride(),
                               split_.words, w, end, own, unsummed ? &*unsummed : nullptr);
        if (unsummed) found(t, n);
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
