// rank_candidates. The definition stands in rl4rec_kernels/ops/reference.py.
#include "cpu/rank_candidates.h"

#include "cpu/candidates.h"

namespace rl4rec {

std::tuple<Tensor, Tensor, Tensor> rank_candidates(const Tensor& query, const Tensor& table,
                                                   const Tensor& ids,
                                                   const std::optional<Tensor>& offsets) {
  const Embeddings queries(query, "query"), items(table, "table");
  check_same_dim(queries, items);
  const Counts counts = count_candidates(queries, items, Candidates(ids, offsets, queries.rows));
  const auto to_tensor = [&](const std::vector<std::atomic<int64_t>>& column) {
    const Tensor result = torch::stable::new_empty(ids, {queries.rows}, ScalarType::Long);
    std::copy(column.begin(), column.end(), static_cast<int64_t*>(result.mutable_data_ptr()));
    return result;
  };
  return {to_tensor(counts.above), to_tensor(counts.tied), to_tensor(counts.total)};
}

}  // namespace rl4rec
