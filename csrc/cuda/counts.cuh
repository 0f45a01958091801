// The rank counts of a row: each block counts a chunk, the last one of a row to arrive has them
// all.
#pragma once

#include "cuda/candidates.cuh"

namespace rl4rec {

struct Counts {
  int64_t above = -1, tied = -1, total = -1;  // all -1: the row's arguments are bad
};

// Counts this block's chunk. True in the block that has its row's final counts, in all threads.
template <typename T>
__device__ __forceinline__ bool count_candidates(const Queries& queries, const Rows<T>& table,
                                                 const Candidates& candidates, RowCounts* rows,
                                                 int64_t& row, Counts& counts) {
  row = blockIdx.x;
  if (candidates.lost()) return row < candidates.rows;
  const Chunk chunk = find_chunk<true>(candidates, blockIdx.x);
  row = chunk.row;
  if (chunk.index >= chunk.count) return false;

  // Slot 0 is the target; an empty row has none, as if it started with padding.
  const int slot = slot_of_thread();
  const int64_t column = slot == 0 ? 0 : chunk.index * kLength<true> + slot;
  const int64_t target = chunk.length > 0 ? candidates.id(chunk.ids) : -1;
  int64_t id = column < chunk.length ? candidates.id(chunk.ids + column) : -1;
  const bool bad = !candidates.in_table(id) && (id != -1 || slot == 0);
  const bool competes = candidates.in_table(id) && slot > 0 && id != target;
  if (bad || (slot > 0 && !competes)) id = -1;  // is not read

  const float* query = stage_query(queries, chunk.row);
  __syncthreads();
  const float score = score_items(table, query, id);
  __shared__ float target_score;
  if (slot == 0) target_score = score;
  __syncthreads();

  // Comparisons with NaN are false: a NaN competitor is never above, a NaN target ranks last.
  const bool lost = target_score != target_score;
  const int above = __syncthreads_count(competes && (lost || score > target_score));
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
    __threadfence();  // the counts are there before the arrival is
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
