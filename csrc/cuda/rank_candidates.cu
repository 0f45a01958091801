// rank_candidates on the GPU. Defined in rl4rec_kernels/ops/reference.py.
#include "cuda/arguments.cuh"
#include "cuda/counts.cuh"

namespace rl4rec {
namespace {

template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    rank_kernel(const Queries queries, const Rows<T> table, const Candidates candidates,
                RowCounts* rows, int64_t* above, int64_t* tied, int64_t* total) {
  int64_t row;
  Counts counts;
  if (!count_candidates(queries, table, candidates, rows, row, counts) || threadIdx.x != 0) return;
  above[row] = counts.above;
  tied[row] = counts.tied;
  total[row] = counts.total;
}

std::tuple<Tensor, Tensor, Tensor> rank_candidates(const Tensor& query, const Tensor& table,
                                                   const Tensor& ids, const OptionalTensor& offsets,
                                                   Tensor bad) {
  CandidateArguments arguments(query, table, ids, offsets, bad);
  const Candidates& candidates = arguments.candidates;
  const auto new_column = [&] { return arguments.new_result({candidates.rows}, ScalarType::Long); };
  const Tensor above = new_column(), tied = new_column(), total = new_column();
  RowCounts* rows = arguments.prepare(true);
  with_storage(arguments.table, [&](auto storage) {
    using T = decltype(storage);
    arguments.device.launch(rank_kernel<T>, count_blocks<true>(candidates), kThreads,
                            arguments.shared_bytes(), arguments.queries,
                            arguments.table.as_rows<T>(), candidates, rows,
                            above.mutable_data_ptr<int64_t>(), tied.mutable_data_ptr<int64_t>(),
                            total.mutable_data_ptr<int64_t>());
  });
  return {above, tied, total};
}

RL4REC_CUDA_OPERATOR(rank_candidates,
                     "(Tensor query, Tensor table, Tensor ids, Tensor? offsets, Tensor(a!) bad) "
                     "-> (Tensor above, Tensor tied, Tensor total)")

}  // namespace

}  // namespace rl4rec
