// rank_candidates. The definition stands in rl4rec_kernels/ops/reference.py.
#include "cpu/rank_candidates.h"

#include "cpu/candidates.h"

namespace rl4rec {

std::tuple<Tensor, Tensor, Tensor> rank_candidates(const Tensor& query, const Tensor& table,
                                                   const Tensor& ids,
                                                   const std::optional<Tensor>& offsets) {
  const Embeddings queries(query, "query"), items(table, "table");
  check_same_dim(queries, items);
  return to_tensors(count_candidates(queries, items, Candidates(ids, offsets, queries.rows)),
                    query);
}

}  // namespace rl4rec
