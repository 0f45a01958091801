// What the candidate operators share: checked views of their arguments, the walk over all
// candidates, and the counts of a row.
#pragma once

#include <algorithm>
#include <atomic>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "cpu/embeddings.h"
#include "cpu/parallel.h"

namespace rl4rec {

// Candidate ids, dense [rows, columns] or ragged (values [count], offsets [rows + 1]). Candidates
// are numbered 0 ... count - 1, row after row.
struct Candidates {
  // `name` is what errors call them.
  Candidates(const Tensor& ids, const std::optional<Tensor>& offsets, int64_t rows,
             const char* name = "candidates");

  int64_t begin(int64_t row) const { return offsets ? offsets[row] : row * columns; }
  int64_t end(int64_t row) const { return begin(row + 1); }
  int64_t row_of(int64_t candidate) const;
  int64_t id(int64_t candidate) const { return id(offsets ? 0 : candidate / columns, candidate); }
  int64_t id(int64_t row, int64_t candidate) const {
    const int64_t at = offsets ? candidate : row * row_stride + (candidate - row * columns);
    return wide ? static_cast<const int64_t*>(data)[at] : static_cast<const int32_t*>(data)[at];
  }

  const char* name;
  Tensor ids_owner;
  std::optional<Tensor> offsets_owner;
  const void* data;
  const int64_t* offsets = nullptr;
  bool wide;
  int64_t rows, columns = 0, row_stride = 0, count;
};

// Remembers the first candidate whose id is no row of the table, over all threads. The results of
// a call that met one are thrown away.
class IdCheck {
 public:
  IdCheck(const Candidates& candidates, int64_t table_rows, bool needs_target)
      : candidates_(candidates), table_rows_(table_rows), needs_target_(needs_target) {}

  // Whether the candidate is an item (true) or padding (false).
  bool is_item(int64_t row, int64_t candidate, int64_t id) {
    if (static_cast<uint64_t>(id) < static_cast<uint64_t>(table_rows_)) return true;
    if (id != -1 || (needs_target_ && candidate == candidates_.begin(row))) report(candidate);
    return false;
  }
  void report(int64_t candidate);
  void raise() const;  // throws if anything was reported

 private:
  const Candidates& candidates_;
  int64_t table_rows_;
  bool needs_target_;
  std::atomic<int64_t> first_{std::numeric_limits<int64_t>::max()};
};

// How many candidates one piece of work holds at most: their row pointers and scores stay in L1.
constexpr int64_t kChunk = 512;

// Rows that are scored together against one query.
struct Chunk {
  const void* rows[kChunk + kLookahead];
  float scores[kChunk];
  int64_t size = 0;

  void add(const void* row) { rows[size++] = row; }
  bool full() const { return size == kChunk; }

  // Fills `scores`. `next` is the candidate after this chunk's last one: it and those behind it,
  // of whatever query, are fetched from memory meanwhile.
  void score(const Embeddings& table, const float* query, const Candidates& candidates,
             int64_t next) {
    const bool fetch = table.rows * table.row_bytes > kCacheBytes;
    for (int64_t i = 0; fetch && i < kLookahead; ++i) {
      const int64_t id = next + i < candidates.count ? candidates.id(next + i) : -1;
      rows[size + i] = 0 <= id && id < table.rows ? table.row(id) : rows[size - 1];
    }
    simd().dot_rows[table.storage](query, rows, size, table.dim, fetch, scores);
  }
};

// Calls visit(row, begin, end, query) for every stretch of candidates of one row, from several
// threads: the work is shared out by candidates, not rows, so that rows may be of any length.
// `query` is the row of queries as float32.
template <typename Visit>
void for_each_stretch(const Candidates& candidates, const Embeddings& queries, const Visit& visit) {
  constexpr int64_t kWorthAThread = 1 << 15;  // multiplications; a thread costs some microseconds
  const int64_t grain = std::max<int64_t>(1, kWorthAThread / std::max<int64_t>(1, queries.dim));
  parallel_for(0, candidates.count, grain, [&](int64_t begin, int64_t end) {
    std::vector<float> query(queries.padded_dim());
    for (int64_t row = candidates.row_of(begin); begin < end; ++row) {
      const int64_t stop = std::min(end, candidates.end(row));
      if (begin == stop) continue;
      queries.copy_row(row, query.data());
      visit(row, begin, stop, query.data());
      begin = stop;
    }
  });
}

// The counts of every row, see RankCounts in rl4rec_kernels/metrics.py.
struct Counts {
  std::vector<std::atomic<int64_t>> above, tied, total;
};
Counts count_candidates(const Embeddings& queries, const Embeddings& items,
                        const Candidates& candidates);

// (above, tied, total), each int64 [rows] on the device of `like`.
std::tuple<Tensor, Tensor, Tensor> to_tensors(const Counts& counts, const Tensor& like);

}  // namespace rl4rec
