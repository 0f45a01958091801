// Decides by an int8 copy of the table which candidates score above a target.
#pragma once

#include "cpu/candidates.h"

namespace rl4rec {

// A copy by quantize_table. It is a quarter of the bytes of float32, and reading rows takes most of
// the time if they are not in a cache.
struct Int8Copy {
  Int8Copy(const Tensor& values, const Tensor& row_stats, const Embeddings& source);

  Embeddings items;
  Tensor row_stats_owner;
  const float* row_stats;  // of each row its scale, its norm, and the norm of its error
};

// Candidates of one query, whose scores are exact up to a bound.
class Screen {
 public:
  explicit Screen(const Int8Copy* copy) : copy_(copy) {}

  // Sets the query. Returns false if nothing can be decided: there is no copy, or no kernel for it,
  // or the query has no bound, because it is not finite, or huge.
  bool set_query(const Embeddings& queries, int64_t row);
  void add(int64_t id) {
    __builtin_prefetch(copy_->row_stats + 3 * id);  // decide() reads it when all are scored
    ids_[size_] = id;
    rows_[size_++] = copy_->items.row(id);
  }
  bool full() const { return size_ == kChunkSize; }

  // Of the items that were added since the last call, counts those that are certainly above
  // `target_score`, and calls undecided(id) for those that may or may not be. `next` is as in
  // Chunk::score.
  template <typename Fn>
  int64_t count_above(float target_score, const Candidates& candidates, int64_t next,
                      const Fn& undecided) {
    if (size_ == 0) return 0;
    const int64_t above = decide(target_score, candidates, next);
    for (int64_t i = 0; i < num_undecided_; ++i) undecided(ids_[i]);
    return above;
  }

 private:
  // Returns how many are above, and moves the ids of those that are undecided to the front.
  int64_t decide(float target_score, const Candidates& candidates, int64_t next);

  const Int8Copy* copy_;
  alignas(64) int16_t query_[kMaxInt8Dim];  // times scale_
  float scale_, slope_norm_, slope_error_, constant_;
  const void* rows_[kChunkSize + kPrefetchInt8Rows + 3];
  int64_t ids_[kChunkSize], size_ = 0;
  float scores_[kChunkSize];
  int64_t num_undecided_ = 0;  // the first of ids_
};

}  // namespace rl4rec
