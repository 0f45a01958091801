// rank_candidates, also by an int8 copy of the table, and reward_candidates. Defined in
// rl4rec_kernels/ops/reference.py.
#include <cmath>

#include "cpu/metrics_from_counts.h"
#include "cpu/screen.h"

namespace rl4rec {
namespace {

// A target and some of its competitors, which are scored in chunks. The target is the first row of
// the first chunk: it is scored by the same arithmetic.
class Competitors {
 public:
  Competitors(const CandidateArguments& arguments, const float* query, int64_t target)
      : arguments_(arguments), query_(query) {
    chunk_.add(arguments.items.row(target));
  }

  // `next` is as in Chunk::score.
  void add(int64_t id, int64_t next) {
    chunk_.add(arguments_.items.row(id));
    if (chunk_.full()) score(next);
  }
  // Scores and counts those that were added since the last call.
  void score(int64_t next) {
    if (chunk_.size == 0) return;
    chunk_.score(arguments_.items, query_, arguments_.candidates, next);
    if (first_ == 1) target_score_ = chunk_.scores[0];
    count(chunk_.scores + first_, chunk_.size - first_);
    chunk_.size = first_ = 0;
  }

  float target_score() const { return target_score_; }
  int64_t above() const { return above_; }
  int64_t tied() const { return tied_; }

 private:
  // Comparisons with NaN are false: a competitor that scores NaN is never above the target.
  void count(const float* scores, int64_t n) {
    int32_t higher = 0, same = 0;  // narrow, so that the loop is vectorized
    for (int64_t i = 0; i < n; ++i) {
      higher += scores[i] > target_score_;
      same += scores[i] == target_score_;
    }
    above_ += std::isnan(target_score_) ? n : higher;  // a target that scores NaN ranks last
    tied_ += same;
  }

  const CandidateArguments& arguments_;
  const float* query_;
  Chunk chunk_;
  int64_t first_ = 1;  // the first competitor in the chunk
  float target_score_ = 0;
  int64_t above_ = 0, tied_ = 0;
};

// `copy`, if there is one, decides about all competitors that are not close to the target.
Counts count_candidates(const CandidateArguments& arguments, const Int8Copy* copy = nullptr) {
  const Embeddings& items = arguments.items;
  const Candidates& candidates = arguments.candidates;
  Counts counts(candidates.rows);
  IdCheck id_check(candidates, items.rows, /*needs_target=*/true);
  for (int64_t row = 0; row < candidates.rows; ++row)
    check(candidates.begin(row) < candidates.end(row), "candidates: row ", row,
          " is empty, but its first id must be the target's");

  const auto count = [&](int64_t row, int64_t begin, int64_t end, const float* query) {
    const int64_t first = candidates.begin(row);
    const int64_t target = candidates.id(row, first);
    if (!id_check.is_item(row, first, target)) return;
    int64_t above = 0, total = begin == first;  // the target counts in the range that has it
    Competitors competitors(arguments, query, target);

    Screen screen(copy);
    const bool screens = screen.set_query(arguments.queries, row);
    const int64_t nothing = candidates.count;  // nothing comes next
    if (screens) competitors.score(nothing);
    const auto decide = [&](int64_t next) {
      above += screen.count_above(competitors.target_score(), candidates, next,
                                  [&](int64_t id) { competitors.add(id, nothing); });
    };
    for (int64_t i = std::max(begin, first + 1); i < end; ++i) {
      const int64_t id = candidates.id(row, i);
      if (!id_check.is_item(row, i, id) || id == target) continue;
      ++total;
      if (!screens) {
        competitors.add(id, i + 1);
        continue;
      }
      screen.add(id);
      if (screen.full()) decide(i + 1);
    }
    if (screens) decide(end);
    competitors.score(screens ? nothing : end);
    counts.add(row, above + competitors.above(), competitors.tied(), total);
  };
  for_each_range(candidates, arguments.queries, count);
  id_check.raise();
  return counts;
}

std::tuple<Tensor, Tensor, Tensor> rank_candidates(const Tensor& query, const Tensor& table,
                                                   const Tensor& ids,
                                                   const OptionalTensor& offsets) {
  return count_candidates({query, table, ids, offsets}).to_tensors();
}

// The same by an int8 copy of the table.
std::tuple<Tensor, Tensor, Tensor> rank_candidates_refined(const Tensor& query, const Tensor& table,
                                                           const Tensor& ids,
                                                           const OptionalTensor& offsets,
                                                           const Tensor& values,
                                                           const Tensor& row_stats) {
  const CandidateArguments arguments(query, table, ids, offsets);
  const Int8Copy copy(values, row_stats, arguments.items);
  return count_candidates(arguments, &copy).to_tensors();
}

Tensor reward_candidates(const Tensor& query, const Tensor& table, const Tensor& ids,
                         const OptionalTensor& offsets, const std::vector<int64_t>& kinds,
                         const std::vector<int64_t>& cutoffs, int64_t ties) {
  const Metrics metrics(kinds, cutoffs, ties);
  return metrics(count_candidates({query, table, ids, offsets}));
}

RL4REC_OPERATOR(rank_candidates,
                "(Tensor query, Tensor table, Tensor ids, Tensor? offsets) -> "
                "(Tensor above, Tensor tied, Tensor total)")
RL4REC_OPERATOR(rank_candidates_refined,
                "(Tensor query, Tensor table, Tensor ids, Tensor? offsets, Tensor values, "
                "Tensor row_stats) -> (Tensor above, Tensor tied, Tensor total)")
RL4REC_OPERATOR(reward_candidates,
                "(Tensor query, Tensor table, Tensor ids, Tensor? offsets, int[] kinds, "
                "int[] cutoffs, int ties) -> Tensor")

}  // namespace
}  // namespace rl4rec
