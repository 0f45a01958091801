// The best k of the scores that are added, for one query.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace rl4rec {

// Added scores may differ from the exact ones by up to a bound. With a bound above 0 more than k
// are kept: all that could be among the best k. Items are numbers below 2^31, added in ascending
// order.
class Reservoir {
 public:
  struct Entry {
    float score;
    uint32_t item;
  };

  explicit Reservoir(int64_t k);

  // From now on, scores that are not exact may differ by up to `bound`.
  void raise_bound(float bound) {
    if (bound <= bound_) return;
    if (threshold_ > -std::numeric_limits<float>::max())
      threshold_ =
          std::nextafter(threshold_ - (bound - bound_), -std::numeric_limits<float>::infinity());
    bound_ = bound;
  }

  // Scores below this need not be added.
  float threshold() const { return threshold_; }

  void add(float score, int64_t item, bool is_exact) {
    const bool is_flagged = is_exact && bound_ > 0.0f;
    some_exact_ |= is_flagged;
    entries_[size_++] = {score, static_cast<uint32_t>(item) | (is_flagged ? kExact : 0)};
  }
  bool full() const { return size_ == static_cast<int64_t>(entries_.size()); }

  // Makes room and raises the threshold. `score(items, n, scores)` computes exact scores.
  template <typename Score>
  void compact(const Score& score) {
    if (!prune_by_histogram()) prune();
    if (bound_ > 0.0f && size_ > 4 * k_ + 1024) {  // many are undecided
      rescore(0, kEndOfItems, score);
      prune();
    }
    make_room();
  }

  // The same, if all scores are exact.
  void compact() {
    if (!prune_by_histogram()) prune();
    make_room();
  }

  // Replaces the scores of the entries from `begin` on whose items are below `end` by exact ones.
  // Returns the entry after them.
  template <typename Score>
  int64_t rescore(int64_t begin, int64_t end, const Score& score) {
    constexpr int64_t kAtOnce = 64;
    int64_t entries[kAtOnce], items[kAtOnce];
    float scores[kAtOnce];
    while (begin < size_ && item(begin) < end) {
      int64_t n = 0;
      for (; n < kAtOnce && begin < size_ && item(begin) < end; ++begin) {
        if (is_exact(entries_[begin])) continue;
        entries[n] = begin;
        items[n++] = item(begin);
      }
      if (n > 0) score(items, n, scores);
      for (int64_t j = 0; j < n; ++j)
        entries_[entries[j]] = {scores[j], static_cast<uint32_t>(items[j]) | kExact};
      some_exact_ = some_exact_ || n > 0;
    }
    return begin;
  }

  // Keeps those that could be among the best k, and perhaps a few more. Returns whether that made
  // room: it does not if many scores are equal.
  bool prune_by_histogram();

  // Keeps the best k, or all if there are fewer, by descending score, then by ascending item. All
  // scores must be exact.
  void sort();

  int64_t size() const { return size_; }
  float score(int64_t i) const { return entries_[i].score; }
  int64_t item(int64_t i) const { return entries_[i].item & (kExact - 1); }

 private:
  static constexpr uint32_t kExact = uint32_t{1} << 31;  // flag of an item that was rescored
  static constexpr int64_t kEndOfItems = int64_t{1} << 31;

  bool is_exact(const Entry& entry) const { return bound_ == 0.0f || entry.item >= kExact; }
  void prune();
  void make_room();

  int64_t k_, size_ = 0;
  float bound_ = 0.0f, threshold_;
  bool some_exact_ = false;  // whether there are exact entries although the bound is not 0
  std::vector<Entry> entries_;
};

}  // namespace rl4rec
