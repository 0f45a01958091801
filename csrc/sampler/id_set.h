// A set of item ids, as bits.
#pragma once

#include <cstdint>
#include <vector>

namespace rl4rec {

// The caller removes the ids that it added, so that many users share one set without clearing it.
class IdSet {
 public:
  explicit IdSet(int64_t size) : words_((size + 63) / 64) {}

  bool has(int64_t id) const { return words_[id >> 6] >> (id & 63) & 1; }
  void add(int64_t id) { words_[id >> 6] |= uint64_t{1} << (id & 63); }
  void remove(int64_t id) { words_[id >> 6] &= ~(uint64_t{1} << (id & 63)); }

  // Calls fn(id) for every id in [begin, end) that is not in the set. It skips 64 that are in one
  // step.
  template <typename Fn>
  void for_each_missing(int64_t begin, int64_t end, Fn fn) const {
    for (int64_t base = begin & ~int64_t{63}; base < end; base += 64) {
      uint64_t missing = ~words_[base >> 6];
      if (base < begin) missing &= ~uint64_t{0} << (begin - base);
      if (end - base < 64) missing &= ~(~uint64_t{0} << (end - base));
      for (; missing; missing &= missing - 1) fn(base + __builtin_ctzll(missing));
    }
  }

 private:
  std::vector<uint64_t> words_;
};

}  // namespace rl4rec
