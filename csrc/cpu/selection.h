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
  void start(int64_t k, float bound);

  // Scores below this need not be added.
  float lowest() const { return lowest_; }

  void add(float score, int64_t item) {
    scores_[size_] = score;
    items_[size_++] = static_cast<uint32_t>(item);
  }
  bool full() const { return size_ == capacity_; }

  // Makes room and raises `lowest`. `rescore(items, n, scores)` gives the exact scores of items.
  template <typename Rescore>
  void compact(const Rescore& rescore) {
    drop();
    if (size_ > most_kept_) {  // so many are in doubt that it is settled now
      settle(rescore);
      drop();
    }
  }

  // Leaves the best k, or all if there are fewer, by descending score, then by ascending item.
  template <typename Rescore>
  void finish(const Rescore& rescore) {
    drop();
    settle(rescore);
    drop();
    sort();
  }

  int64_t size() const { return size_; }
  float score(int64_t i) const { return scores_[i]; }
  int64_t item(int64_t i) const { return items_[i] & kItem; }

 private:
  static constexpr uint32_t kExact = uint32_t{1} << 31, kItem = kExact - 1;  // of `items_`

  bool exact(int64_t i) const { return bound_ == 0.0f || (items_[i] & kExact); }
  void drop();
  void sort();

  template <typename Rescore>
  void settle(const Rescore& rescore) {
    if (bound_ == 0.0f) return;
    std::vector<int64_t> places, items;
    for (int64_t i = 0; i < size_; ++i)
      if (!exact(i)) {
        places.push_back(i);
        items.push_back(items_[i]);
      }
    std::vector<float> scores(places.size());
    rescore(items.data(), static_cast<int64_t>(items.size()), scores.data());
    for (std::size_t j = 0; j < places.size(); ++j) {
      scores_[places[j]] = scores[j];
      items_[places[j]] |= kExact;
    }
  }

  int64_t k_ = 0, size_ = 0, capacity_ = 0, most_kept_ = 0;
  float bound_ = 0.0f, lowest_ = 0.0f;
  std::vector<float> scores_;
  std::vector<uint32_t> items_, keys_;
};

}  // namespace rl4rec
