// The best k of the scores that come by, for one query.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rl4rec {

// Scores that are added may be off by up to `bound`. Then more than k are kept: all that could be
// among the best k. Items are numbers below 2^31 that come in ascending order.
class Selection {
 public:
  struct Entry {
    float score;
    uint32_t item;
  };

  Selection(int64_t k, float bound);

  // Scores below this need not be added.
  float lowest() const { return lowest_; }

  void add(float score, int64_t item) { entries_[size_++] = {score, static_cast<uint32_t>(item)}; }
  bool full() const { return size_ == static_cast<int64_t>(entries_.size()); }

  // Makes room and raises `lowest`. `rescore(items, n, scores)` gives the exact scores of items.
  template <typename Rescore>
  void compact(const Rescore& rescore) {
    if (!drop_roughly()) drop();
    if (bound_ > 0.0f && size_ > 4 * k_ + 1024) {  // many are in doubt: it is settled now
      settle(0, kNoItem, rescore);
      drop();
    }
    make_room();
  }

  // Asks for the exact scores of the items below `end` in the places from `begin` on. Returns the
  // place behind them.
  template <typename Rescore>
  int64_t settle(int64_t begin, int64_t end, const Rescore& rescore) {
    std::vector<int64_t> places, items;
    for (; begin < size_ && item(begin) < end; ++begin) {
      if (exact(entries_[begin])) continue;
      places.push_back(begin);
      items.push_back(item(begin));
    }
    std::vector<float> scores(places.size());
    if (!places.empty()) rescore(items.data(), static_cast<int64_t>(items.size()), scores.data());
    for (std::size_t j = 0; j < places.size(); ++j)
      entries_[places[j]] = {scores[j], static_cast<uint32_t>(items[j]) | kExact};
    settled_ = settled_ || !places.empty();
    return begin;
  }

  // Leaves those that could be among the best k, and perhaps a few more. Returns whether that made
  // room: it does not where scores are all alike.
  bool drop_roughly();

  // Leaves the best k, or all if there are fewer, by descending score, then by ascending item.
  // Scores must be exact by now.
  void finish();

  int64_t size() const { return size_; }
  float score(int64_t i) const { return entries_[i].score; }
  int64_t item(int64_t i) const { return entries_[i].item & (kExact - 1); }

 private:
  static constexpr uint32_t kExact = uint32_t{1} << 31;  // flag of an item whose score was settled
  static constexpr int64_t kNoItem = int64_t{1} << 31;

  bool exact(const Entry& entry) const { return bound_ == 0.0f || entry.item >= kExact; }
  void drop();
  void make_room();

  int64_t k_, size_ = 0;
  float bound_, lowest_;
  bool settled_ = false;  // whether some entries are exact though the bound is not 0
  std::vector<Entry> entries_;
};

}  // namespace rl4rec
