// score_candidates on the GPU. Defined in rl4rec_kernels/ops/reference.py.
#include "cuda/arguments.cuh"

namespace rl4rec {
namespace {

constexpr float kPadding = -std::numeric_limits<float>::infinity();

template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    score_kernel(const Queries queries, const Rows<T> table, const Candidates candidates,
                 float* scores) {
  if (candidates.has_bad_offsets()) {  // the blocks divide the scores evenly
    const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (at < candidates.count) scores[at] = kNan;
    return;
  }
  const Chunk chunk = find_chunk<false>(candidates, blockIdx.x);
  if (chunk.index >= chunk.count) return;
  const int64_t column = chunk.index * kChunkSize<false> + slot_of_thread();
  const bool exists = column < chunk.length;
  const int64_t id = exists ? candidates.id(chunk.ids + column) : -1;
  const bool is_item = candidates.in_table(id);

  stage_query<Rows<T>::kPack>(queries, chunk.row);
  __syncthreads();
  const float score = score_items(table, queries, chunk.row, is_item ? id : -1);
  if (!exists) return;
  if (!is_item && id != -1) atomicOr(candidates.bad, kBadId);
  scores[chunk.results + column] = is_item ? score : id == -1 ? kPadding : kNan;
}

Tensor score_candidates(const Tensor& query, const Tensor& table, const Tensor& ids,
                        const OptionalTensor& offsets, Tensor bad) {
  CandidateArguments arguments(query, table, ids, offsets, bad);
  const Candidates& candidates = arguments.candidates;
  const Tensor scores = torch::stable::new_empty(ids, ids.sizes(), ScalarType::Float);
  arguments.prepare(false);
  with_storage(arguments.table, [&](auto storage) {
    using T = decltype(storage);
    arguments.device.launch(score_kernel<T>, count_blocks<false>(candidates), kThreads,
                            arguments.shared_bytes(), arguments.queries,
                            arguments.table.as_rows<T>(), candidates,
                            scores.mutable_data_ptr<float>());
  });
  return scores;
}

RL4REC_CUDA_OPERATOR(score_candidates,
                     "(Tensor query, Tensor table, Tensor ids, Tensor? offsets, Tensor(a!) bad) "
                     "-> Tensor")

}  // namespace

}  // namespace rl4rec
