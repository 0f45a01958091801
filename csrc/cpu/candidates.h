// What the candidate operators share: their arguments, the check of ids, and the loop over all
// candidates.
#pragma once

#include <algorithm>
#include <atomic>
#include <limits>

#include "cpu/embeddings.h"
#include "cpu/parallel.h"
#include "cpu/tuning.h"

namespace rl4rec {

// Candidate ids, dense [rows, columns] or ragged (values [count], offsets [rows + 1]). Candidates
// are numbered 0 ... count - 1, row after row.
struct Candidates {
  // `name` is what errors call them.
  Candidates(const Tensor& ids, const OptionalTensor& offsets, int64_t rows,
             const char* name = "candidates");

  int64_t begin(int64_t row) const { return offsets ? offsets[row] : row * columns; }
  int64_t end(int64_t row) const { return begin(row + 1); }
  int64_t row_of(int64_t candidate) const;
  int64_t id(int64_t candidate) const { return id(offsets ? 0 : candidate / columns, candidate); }
  int64_t id(int64_t row, int64_t candidate) const {
    const int64_t at = offsets ? candidate : row * row_stride + (candidate - row * columns);
    return is_int64 ? static_cast<const int64_t*>(data)[at] : static_cast<const int32_t*>(data)[at];
  }

  const char* name;
  Tensor ids_owner;
  OptionalTensor offsets_owner;
  const void* data;
  const int64_t* offsets = nullptr;
  bool is_int64;
  int64_t rows, columns = 0, row_stride = 0, count;
};

// The arguments of all candidate operators. `ids` is [B, C], or the values of ragged rows that
// `offsets` [B + 1] delimits.
struct CandidateArguments {
  CandidateArguments(const Tensor& query, const Tensor& table, const Tensor& ids,
                     const OptionalTensor& offsets)
      : queries(query, "query"), items(table, "table"), candidates(ids, offsets, queries.rows) {
    check_same_dim(queries, items);
  }

  Embeddings queries, items;
  Candidates candidates;
};

// Finds the first candidate, over all threads, whose id is not a row of the table. The results of
// a call that has one are discarded.
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
  void raise() const;  // throws if a candidate was reported

 private:
  const Candidates& candidates_;
  int64_t table_rows_;
  bool needs_target_;
  std::atomic<int64_t> first_{std::numeric_limits<int64_t>::max()};
};

// Rows that are scored together against one query.
struct Chunk {
  const void* rows[kChunkSize + kPrefetchRows];
  float scores[kChunkSize];
  int64_t size = 0;

  void add(const void* row) { rows[size++] = row; }
  bool full() const { return size == kChunkSize; }

  // Fills `scores`. `next` is the candidate after the last one of this chunk: it and those after
  // it, of any query, are prefetched meanwhile.
  void score(const Embeddings& table, const float* query, const Candidates& candidates,
             int64_t next) {
    const bool prefetch = table.rows * table.row_bytes > kL2CacheBytes;
    for (int64_t i = 0; prefetch && i < kPrefetchRows; ++i) {
      const int64_t id = next + i < candidates.count ? candidates.id(next + i) : -1;
      rows[size + i] = 0 <= id && id < table.rows ? table.row(id) : rows[size - 1];
    }
    level().rows.dot_rows[table.storage](query, rows, size, table.dim, prefetch, scores);
    if (!level().all_finite(scores, size)) settle(table, query);
  }

 private:
  void settle(const Embeddings& table, const float* query);  // see settle.h
};

// Calls fn(row, begin, end, query) for ranges of candidates of one row each, from several threads.
// The threads share the candidates, not the rows, which may be of any length. `query` is the row of
// queries as float32.
template <typename Fn>
void for_each_range(const Candidates& candidates, const Embeddings& queries, const Fn& fn) {
  const int64_t grain = kMultiplicationsPerThread / std::max<int64_t>(1, queries.dim);
  parallel_for(0, candidates.count, std::max<int64_t>(1, grain), [&](int64_t begin, int64_t end) {
    std::vector<float> query(queries.padded_dim());
    for (int64_t row = candidates.row_of(begin); begin < end; ++row) {
      const int64_t stop = std::min(end, candidates.end(row));
      if (begin == stop) continue;
      queries.copy_row(row, query.data());
      fn(row, begin, stop, query.data());
      begin = stop;
    }
  });
}

// The counts of every row, see RankCounts in rl4rec_kernels/metrics.py.
struct Counts {
  explicit Counts(int64_t rows) : above(rows), tied(rows), total(rows) {}

  // Adds what one of several threads counted.
  void add(int64_t row, int64_t more_above, int64_t more_tied, int64_t more_total) {
    __atomic_fetch_add(&above[row], more_above, __ATOMIC_RELAXED);
    __atomic_fetch_add(&tied[row], more_tied, __ATOMIC_RELAXED);
    __atomic_fetch_add(&total[row], more_total, __ATOMIC_RELAXED);
  }
  // (above, tied, total), each int64 [rows].
  std::tuple<Tensor, Tensor, Tensor> to_tensors() const;

  std::vector<int64_t> above, tied, total;
};

}  // namespace rl4rec
