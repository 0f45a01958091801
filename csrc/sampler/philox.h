// Philox4x32-10, a counter-based generator: the n-th number of a stream is a function of its key
// and n (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3, SC 2011).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace rl4rec {

using Block = std::array<uint32_t, 4>;

inline Block philox(Block counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

// The stream of one user. The key is the seed, the upper half of the counter is the user's id.
class Stream {
 public:
  Stream(uint64_t seed, uint64_t user)
      : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}, user_(user) {}

  // A uniform number below n: by multiplication, rejecting the few values that would be drawn too
  // often (Lemire, ACM TOMACS 2019).
  uint32_t below(uint32_t n) {
    uint64_t product = uint64_t{word()} * n;
    if (static_cast<uint32_t>(product) < n) {
      const uint32_t threshold = -n % n;
      while (static_cast<uint32_t>(product) < threshold) product = uint64_t{word()} * n;
    }
    return static_cast<uint32_t>(product >> 32);
  }

  // A number in [0, 1).
  double unit() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  // A number in (0, 1), never 0 or 1.
  double open_unit() { return (static_cast<double>(bits() >> 12) + 0.5) * 0x1p-52; }

 private:
  uint64_t bits() {
    const uint64_t low = word();
    return low | uint64_t{word()} << 32;
  }

  uint32_t word() {
    if (used_ == buffer_.size()) refill();
    return buffer_[used_++];
  }

  // Blocks are independent, so that the CPU computes several at once.
  void refill() {
    for (size_t i = 0; i < buffer_.size(); i += 4, ++count_) {
      const Block block =
          philox({static_cast<uint32_t>(count_), static_cast<uint32_t>(count_ >> 32),
                  static_cast<uint32_t>(user_), static_cast<uint32_t>(user_ >> 32)},
                 key_);
      for (size_t j = 0; j < 4; ++j) buffer_[i + j] = block[j];
    }
    used_ = 0;
  }

  std::array<uint32_t, 2> key_;
  uint64_t user_, count_ = 0;
  std::array<uint32_t, 16> buffer_;
  size_t used_ = 16;  // all: the first number fills the buffer
};

}  // namespace rl4rec
