#include "cpu/reservoir.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>

namespace rl4rec {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Unsigned integers in the order of the floats; both zeros map to the same one.
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

}  // namespace

Reservoir::Reservoir(int64_t k)
    : k_(k),
      threshold_(-std::numeric_limits<float>::max()),  // -inf is never among the best
      entries_(k + std::max<int64_t>(k, 64)) {}

void Reservoir::make_room() {
  const int64_t room = std::max<int64_t>(k_ / 2, 32);
  if (size_ + room > static_cast<int64_t>(entries_.size())) entries_.resize(2 * size_ + room);
}

// Finds a score that at least k entries reach, and few more than k, in a histogram.
bool Reservoir::prune_by_histogram() {
  if (some_exact_ || size_ <= k_) return false;
  constexpr int kMaxBinBits = 9;
  const int bin_bits = size_ < 256 ? 7 : kMaxBinBits;
  uint32_t least = ~uint32_t{0}, most = 0;
  for (int64_t i = 0; i < size_; ++i) {
    const uint32_t key = to_key(entries_[i].score);
    least = std::min(least, key);
    most = std::max(most, key);
  }
  int shift = 0;
  while ((most - least) >> shift >> bin_bits) ++shift;
  int32_t counts[1 << kMaxBinBits];
  std::fill_n(counts, 1 << bin_bits, 0);
  for (int64_t i = 0; i < size_; ++i) ++counts[(to_key(entries_[i].score) - least) >> shift];
  uint32_t bin = (most - least) >> shift;
  for (int64_t reached = counts[bin]; reached < k_; reached += counts[bin]) --bin;

  // At least k scores reach it. An item may be better by up to `bound`, and each of the k worse.
  const float sure = from_key(least + (bin << shift));
  const float threshold = bound_ == 0.0f ? sure : std::nextafter(sure - 2 * bound_, -kInfinity);
  int64_t kept = 0;
  for (int64_t i = 0; i < size_; ++i) {
    const Entry entry = entries_[i];
    entries_[kept] = entry;
    kept += entry.score >= threshold;
  }
  const bool made_room = kept < size_ - k_ / 4;
  size_ = kept;
  threshold_ = std::max(threshold_, threshold);
  return made_room;
}

void Reservoir::prune() {
  if (size_ <= k_) return;
  // At least k items score `sure` or more, even in the worst case.
  std::vector<float> worst(size_);
  for (int64_t i = 0; i < size_; ++i)
    worst[i] = entries_[i].score - (is_exact(entries_[i]) ? 0.0f : bound_);
  std::nth_element(worst.begin(), worst.begin() + (k_ - 1), worst.end(), std::greater<float>());
  const float sure = worst[k_ - 1];

  // Of the exact scores that equal it, those of lower items come first, up to k in all.
  int64_t room = k_;
  for (int64_t i = 0; i < size_; ++i) room -= is_exact(entries_[i]) && entries_[i].score > sure;
  int64_t kept = 0;
  for (int64_t i = 0; i < size_; ++i) {
    const Entry entry = entries_[i];
    entries_[kept] = entry;
    if (!is_exact(entry)) {
      kept += entry.score + bound_ >= sure;
    } else if (entry.score == sure) {
      kept += room-- > 0;
    } else {
      kept += entry.score > sure;
    }
  }
  size_ = kept;
  threshold_ =
      bound_ == 0.0f ? std::nextafter(sure, kInfinity) : std::nextafter(sure - bound_, -kInfinity);
}

// If there are many a radix sort, byte by byte from the lowest, which keeps the order of items with
// equal scores.
void Reservoir::sort() {
  const auto key_of = [](const Entry& entry) { return ~to_key(entry.score); };
  if (k_ < 24 && k_ < size_) {
    const auto order_of = [&](const Entry& entry) {
      return uint64_t{key_of(entry)} << 32 | (entry.item & (kExact - 1));
    };
    std::partial_sort(entries_.begin(), entries_.begin() + k_, entries_.begin() + size_,
                      [&](const Entry& a, const Entry& b) { return order_of(a) < order_of(b); });
  } else if (size_ < 64) {
    std::stable_sort(entries_.begin(), entries_.begin() + size_,
                     [&](const Entry& a, const Entry& b) { return key_of(a) < key_of(b); });
  } else {
    int64_t starts[4][257] = {};
    for (int64_t i = 0; i < size_; ++i)
      for (int byte = 0; byte < 4; ++byte)
        ++starts[byte][(key_of(entries_[i]) >> (8 * byte) & 0xff) + 1];
    std::vector<Entry> sorted(entries_.size());
    for (int byte = 0; byte < 4; ++byte) {
      int64_t* start = starts[byte];
      std::partial_sum(start, start + 257, start);
      for (int64_t i = 0; i < size_; ++i)
        sorted[start[key_of(entries_[i]) >> (8 * byte) & 0xff]++] = entries_[i];
      entries_.swap(sorted);
    }
  }
  size_ = std::min(size_, k_);
}

}  // namespace rl4rec
