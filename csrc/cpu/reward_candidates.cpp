// reward_candidates. The definition stands in rl4rec_kernels/ops/reference.py.
#include "cpu/reward_candidates.h"

#include "cpu/candidates.h"
#include "cpu/metrics.h"

namespace rl4rec {

Tensor reward_candidates(const Tensor& query, const Tensor& table, const Tensor& ids,
                         const std::optional<Tensor>& offsets, const std::vector<int64_t>& kinds,
                         const std::vector<int64_t>& cutoffs, int64_t ties) {
  const Embeddings queries(query, "query"), items(table, "table");
  check_same_dim(queries, items);
  const Metrics metrics(kinds, cutoffs, ties);
  const Counts counts = count_candidates(queries, items, Candidates(ids, offsets, queries.rows));
  return metrics(counts, queries.rows, query);
}

}  // namespace rl4rec
