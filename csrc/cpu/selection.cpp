#include "cpu/selection.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

namespace rl4rec {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Unsigned numbers in the order of the floats; both zeros are one.
uint32_t to_key(float value) {
  value += 0.0f;
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000);
}

float from_key(uint32_t key) {
  const uint32_t bits = key ^ (key & 0x80000000 ? 0x80000000 : 0xffffffff);
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// The k-th largest of n keys, byte by byte: only keys that agree in the higher bytes are looked at
// again. Reorders the keys.
uint32_t kth_largest(uint32_t* keys, int64_t n, int64_t k) {
  uint32_t found = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    int64_t counts[256] = {};
    for (int64_t i = 0; i < n; ++i) ++counts[keys[i] >> shift & 0xff];
    uint32_t byte = 255;
    for (; counts[byte] < k; --byte) k -= counts[byte];
    found |= byte << shift;
    int64_t left = 0;
    for (int64_t i = 0; i < n; ++i) {
      keys[left] = keys[i];
      left += (keys[i] >> shift & 0xff) == byte;
    }
    n = left;
  }
  return found;
}

}  // namespace

void Selection::start(int64_t k, float bound) {
  k_ = k;
  bound_ = bound;
  size_ = 0;
  lowest_ = -std::numeric_limits<float>::max();  // -inf is never among the best
  most_kept_ = bound > 0.0f ? 2 * k + 1024 : k;
  capacity_ = most_kept_ + std::max<int64_t>(k, 128);
  scores_.resize(capacity_);
  items_.resize(capacity_);
}

void Selection::drop() {
  if (size_ <= k_) return;
  // k items score at least `sure`, each in the worst case for it.
  keys_.resize(size_);
  for (int64_t i = 0; i < size_; ++i) keys_[i] = to_key(scores_[i] - (exact(i) ? 0.0f : bound_));
  const float sure = from_key(kth_largest(keys_.data(), size_, k_));

  // Of exact scores that equal it, the lower items come first; there is room for as many as are
  // not surely above.
  int64_t room = k_;
  for (int64_t i = 0; i < size_; ++i) room -= exact(i) && scores_[i] > sure;
  int64_t kept = 0;
  for (int64_t i = 0; i < size_; ++i) {
    const float score = scores_[i];
    const uint32_t item = items_[i];
    scores_[kept] = score;
    items_[kept] = item;
    if (!exact(i)) {
      kept += score + bound_ >= sure;
    } else if (score == sure) {
      kept += room-- > 0;
    } else {
      kept += score > sure;
    }
  }
  size_ = kept;
  lowest_ = bound_ == 0.0f ? std::nextafter(sure, kInfinity) : sure - bound_;
}

// By byte from the lowest (radix sort), which keeps the order of items within equal scores.
void Selection::sort() {
  std::vector<std::pair<uint32_t, uint32_t>> entries(size_), sorted(size_);
  for (int64_t i = 0; i < size_; ++i) entries[i] = {~to_key(scores_[i]), items_[i]};
  if (size_ < 64) {
    std::stable_sort(entries.begin(), entries.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
  } else {
    for (int shift = 0; shift < 32; shift += 8) {
      int64_t starts[257] = {};
      for (const auto& entry : entries) ++starts[(entry.first >> shift & 0xff) + 1];
      std::partial_sum(starts, starts + 257, starts);
      for (const auto& entry : entries) sorted[starts[entry.first >> shift & 0xff]++] = entry;
      entries.swap(sorted);
    }
  }
  for (int64_t i = 0; i < size_; ++i) {
    scores_[i] = from_key(~entries[i].first);
    items_[i] = entries[i].second;
  }
}

}  // namespace rl4rec
