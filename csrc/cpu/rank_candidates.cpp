// rank_candidates and reward_candidates. Defined in rl4rec_kernels/ops/reference.py.
#include <cmath>

#include "cpu/candidates.h"
#include "cpu/metrics_from_counts.h"

namespace rl4rec {
namespace {

// Counts of some competitors of one target.
struct Tally {
  int64_t above = 0, tied = 0, total = 0;

  // Comparisons with NaN are false: a competitor that scores NaN is never above the target.
  void add(const float* scores, int64_t n, float target_score) {
    int32_t higher = 0, same = 0;  // narrow, so that the loop is vectorized
    for (int64_t i = 0; i < n; ++i) {
      higher += scores[i] > target_score;
      same += scores[i] == target_score;
    }
    above += std::isnan(target_score) ? n : higher;  // a target that scores NaN ranks last
    tied += same;
    total += n;
  }
};

Counts count_candidates(const CandidateArguments& arguments) {
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
    Tally tally;
    if (begin == first) tally.total = 1;  // the target, counted in the range that has it

    // The target is scored as the first row of the first chunk, by the same arithmetic.
    Chunk chunk;
    chunk.add(items.row(target));
    int64_t competitors = 1;  // their first index in the chunk
    float target_score = 0;
    const auto flush = [&](int64_t next) {
      if (chunk.size == 0) return;
      chunk.score(items, query, candidates, next);
      if (competitors == 1) target_score = chunk.scores[0];
      tally.add(chunk.scores + competitors, chunk.size - competitors, target_score);
      chunk.size = competitors = 0;
    };
    for (int64_t i = std::max(begin, first + 1); i < end; ++i) {
      const int64_t id = candidates.id(row, i);
      if (!id_check.is_item(row, i, id) || id == target) continue;
      chunk.add(items.row(id));
      if (chunk.full()) flush(i + 1);
    }
    flush(end);
    counts.add(row, tally.above, tally.tied, tally.total);
  };
  for_each_range(candidates, arguments.queries, count);
  id_check.raise();
  return counts;
}

std::tuple<Tensor, Tensor, Tensor> rank_candidates(const Tensor& query, const Tensor& table,
                                                   const Tensor& ids,
                                                   const OptionalTensor& offsets) {
  return count_candidates({query, table, ids, offsets}).to_tensors(query);
}

Tensor reward_candidates(const Tensor& query, const Tensor& table, const Tensor& ids,
                         const OptionalTensor& offsets, const std::vector<int64_t>& kinds,
                         const std::vector<int64_t>& cutoffs, int64_t ties) {
  const Metrics metrics(kinds, cutoffs, ties);
  return metrics(count_candidates({query, table, ids, offsets}), query);
}

RL4REC_OPERATOR(rank_candidates,
                "(Tensor query, Tensor table, Tensor ids, Tensor? offsets) -> "
                "(Tensor above, Tensor tied, Tensor total)")
RL4REC_OPERATOR(reward_candidates,
                "(Tensor query, Tensor table, Tensor ids, Tensor? offsets, int[] kinds, "
                "int[] cutoffs, int ties) -> Tensor")

}  // namespace
}  // namespace rl4rec
