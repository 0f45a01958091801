// The rank counts of a row: each block counts one chunk, and the block of a row that finishes last
// has the counts of all.
#pragma once

#include "cuda/candidates.cuh"

namespace rl4rec {

struct Counts {
  int64_t above = -1, tied = -1, total = -1;  // all -1 if the row has a bad id or offset
};

// Counts this block's chunk. Returns true, in all threads, if the block has its row's final counts.
template <typename T>
__device__ __forceinline__ bool count_candidates(const Queries& queries, const Rows<T>& table,
                                                 const Candidates& candidates, RowCounts* rows,
                                                 int64_t& row, Counts& counts) {
  row = blockIdx.x;
  if (candidates.has_bad_offsets()) return row < candidates.rows;
  const Chunk chunk = find_chunk<true>(candidates, blockIdx.x);
  row = chunk.row;
  if (chunk.index >= chunk.count) return false;

  // Slot 0 is the target. An empty row has none, as if it started with padding.
  const int slot = slot_of_thread();
  const int64_t column = slot == 0 ? 0 : chunk.index * kChunkSize<true> + slot;
  const int64_t target = chunk.length > 0 ? candidates.id(chunk.ids) : -1;
  int64_t id = column < chunk.length ? candidates.id(chunk.ids + column) : -1;
  const bool bad = !candidates.in_table(id) && (id != -1 || slot == 0);
  const bool competes = candidates.in_table(id) && slot > 0 && id != target;
  if (bad || (slot > 0 && !competes)) id = -1;  // not scored

  stage_query<Rows<T>::kPack>(queries, chunk.row);
  __syncthreads();
  const float score = score_items(table, queries, chunk.row, id);
  __shared__ float target_score;
  if (slot == 0) target_score = score;
  __syncthreads();

  // Comparisons with NaN are false: a competitor that scores NaN is never above the target. A
  // target that scores NaN ranks last.
  const bool is_nan = target_score != target_score;
  const int above = __syncthreads_count(competes && (is_nan || score > target_score));
  const int tied = __syncthreads_count(competes && score == target_score);
  const int total = __syncthreads_count(competes) + (chunk.index == 0);
  const int num_bad = __syncthreads_count(bad);
  if (num_bad > 0 && threadIdx.x == 0) atomicOr(candidates.bad, kBadId);

  if (chunk.count == 1) {
    if (num_bad == 0) counts = {above, tied, total};
    return true;
  }
  __shared__ RowCounts sums;
  if (threadIdx.x == 0) {
    RowCounts& all = rows[chunk.row];
    atomicAdd(&all.above, static_cast<unsigned long long>(above));
    atomicAdd(&all.tied, static_cast<unsigned long long>(tied));
    atomicAdd(&all.total, static_cast<unsigned long long>(total));
    atomicAdd(&all.bad, static_cast<unsigned long long>(num_bad));
    __threadfence();  // other blocks see the counts before the arrival
    sums.arrived = atomicAdd(&all.arrived, 1ULL) + 1;
    __threadfence();
    sums.above = atomicAdd(&all.above, 0ULL);
    sums.tied = atomicAdd(&all.tied, 0ULL);
    sums.total = atomicAdd(&all.total, 0ULL);
    sums.bad = atomicAdd(&all.bad, 0ULL);
  }
  __syncthreads();
  if (sums.bad == 0)
    counts = {static_cast<int64_t>(sums.above), static_cast<int64_t>(sums.tied),
              static_cast<int64_t>(sums.total)};
  return static_cast<int64_t>(sums.arrived) == chunk.count;
}

}  // namespace rl4rec
