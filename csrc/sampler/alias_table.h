// Weighted draws in constant time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "sampler/philox.h"

namespace rl4rec {

// Draws an index with probability in proportion to its weight (Walker, ACM TOMS 1977). All columns
// have the same probability, which an item shares with another one, its alias.
class AliasTable {
 public:
  // The weights of the ids first ... end - 1 are finite, not negative, and at least one is
  // positive.
  AliasTable(const double* weights, int64_t first, int64_t end)
      : first_(first), columns_(end - first) {
    const int64_t n = end - first;
    const double* heaviest = std::max_element(weights + first, weights + end);
    // Divided by the largest one, so that a sum of huge weights does not overflow.
    double sum = 0.0;
    for (int64_t i = 0; i < n; ++i) sum += weights[first + i] / *heaviest;
    for (int64_t i = 0; i < n; ++i)
      columns_[i] = {weights[first + i] / *heaviest / sum * static_cast<double>(n), i};

    // A heavy item fills up the column of each light one. Two cursors run through the table. A
    // heavy item that becomes light before the cursor of the light ones comes next.
    const auto skip = [&](int64_t i, bool light) {
      while (i < n && (columns_[i].keep < 1.0) != light) ++i;
      return i;
    };
    int64_t cursor = skip(0, true), light = cursor, heavy = skip(0, false);
    while (light < n && heavy < n) {
      columns_[light].alias = heavy;
      columns_[heavy].keep -= 1.0 - columns_[light].keep;
      int64_t next = n;
      if (columns_[heavy].keep < 1.0) {
        if (heavy < cursor) next = heavy;
        heavy = skip(heavy + 1, false);
      }
      light = next < n ? next : (cursor = skip(cursor + 1, true));
    }
    // What is left has probability 1 up to rounding. An item of weight 0 is among it through
    // rounding only, and is never drawn.
    for (int64_t i = 0; i < n; ++i) {
      Column& column = columns_[i];
      if (column.alias != i) continue;
      column.keep = weights[first + i] > 0.0 ? 1.0 : 0.0;
      column.alias = heaviest - weights - first;
    }
  }

  int64_t draw(Stream& stream) const {
    const int64_t i = stream.below(static_cast<uint32_t>(columns_.size()));
    const Column& column = columns_[i];
    return first_ + (stream.unit() < column.keep ? i : column.alias);
  }

 private:
  struct Column {  // one struct: a draw from a large table reads memory once
    double keep;
    int64_t alias;
  };

  int64_t first_;
  std::vector<Column> columns_;
};

}  // namespace rl4rec
