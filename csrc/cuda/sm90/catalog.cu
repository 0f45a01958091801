// The catalog on Hopper: scores of pairs, and counts and the best over all items. Compiled for
// sm_90a only. rl4rec_kernels/ops/_hopper.py makes rank_catalog of them; sums are in
// log_prob.cu. Scales are those of int8, of queries and items, and of float8, of items: float32
// [B], and as many as items are in all tiles.
#include "cuda/sm90/collect.cuh"
#include "cuda/sm90/count.cuh"
#include "cuda/sm90/pairs.cuh"
#include "cuda/sm90/score_tiles.cuh"

namespace rl4rec {
namespace {

// The scores of pairs of a query and an item, float32 [P]; -inf where the item is not in the table.
// Without `rows`, which must be in range, pair i has query i.
Tensor score_pairs(const Tensor& query, const Tensor& table, const OptionalTensor& rows,
                   const Tensor& items, const OptionalTensor& query_scale,
                   const OptionalTensor& table_scale) {
  const Sides sides(query, table, query_scale, table_scale);
  const int64_t count = rows ? items.numel() : sides.query.rows;
  check(is_vector(items, query, ScalarType::Long, count) &&
            (!rows || is_vector(*rows, query, ScalarType::Long, count)),
        "rows and items must be contiguous int64 [", count, "] on ", kDeviceName);
  const Tensor scores = torch::stable::new_empty(items, {count}, ScalarType::Float);
  const Pairs pairs{rows ? rows->const_data_ptr<int64_t>() : nullptr,
                    items.const_data_ptr<int64_t>(), count, scores.mutable_data_ptr<float>(),
                    sides.scales};
  sides.with_types<true>([&](auto types) {
    using Types = decltype(types);
    constexpr int kBytes = kPairBytes<Types>;
    sides.device.allow_shared(pair_kernel<Types>, kBytes);
    sides.device.launch(pair_kernel<Types>, (count + kProductRows - 1) / kProductRows, kWarpgroup,
                        kBytes, sides.query.as_rows<typename Types::Query>(),
                        sides.table.as_rows<typename Types::Item>(), pairs);
  });
  return scores;
}

// Counts of items that score above a query's target, and of those that score the same, int64
// [2, B]; the target is among the latter. Rows that are not `valid` are not counted.
Tensor count_catalog(const Tensor& query, const Tensor& table, const Tensor& target_scores,
                     const OptionalTensor& valid, const OptionalTensor& query_scale,
                     const OptionalTensor& table_scale) {
  const Sides sides(query, table, query_scale, table_scale);
  const int64_t num_queries = sides.query.rows;
  check(is_vector(target_scores, query, ScalarType::Float, num_queries),
        "target_scores must be contiguous float32 [", num_queries, "] on ", kDeviceName);
  const Tensor counts = torch::stable::new_zeros(query, {2, num_queries}, ScalarType::Long);
  score_tiles(sides, valid,
              Count{target_scores.const_data_ptr<float>(),
                    static_cast<unsigned long long*>(counts.mutable_data_ptr()),
                    static_cast<int>(num_queries)});
  return counts;
}

// Stores the keys of the items that reach their query's bound to `keys`, int64 [B, capacity], in
// any order, and adds their number to `found`, int32 [B]. Where that is more than there is room
// for, some of the best are kept, see Collect. Rows that are not `valid` are left out, and so are
// the excluded pairs, as in `sum_catalog`, and what scores NaN. Nothing is done if `needed`, int32
// [1], is 0.
void collect_catalog(const Tensor& query, const Tensor& table, const Tensor& bounds,
                     const OptionalTensor& valid, const OptionalTensor& pairs,
                     const OptionalTensor& starts, const OptionalTensor& needed, Tensor keys,
                     Tensor found, const OptionalTensor& query_scale,
                     const OptionalTensor& table_scale) {
  Sides sides(query, table, query_scale, table_scale);
  const int64_t num_queries = sides.query.rows;
  check(is_vector(bounds, query, ScalarType::Long, num_queries) &&
            is_vector(found, query, ScalarType::Int, num_queries) &&
            (!needed || is_vector(*needed, query, ScalarType::Int, 1)),
        "bounds must be contiguous int64 [", num_queries, "], found and needed int32 on ",
        kDeviceName);
  check(on_device(keys, query.get_device_index()) && keys.scalar_type() == ScalarType::Long &&
            keys.dim() == 2 && keys.size(0) == num_queries && keys.is_contiguous() &&
            keys.size(1) > 0 && keys.size(1) <= std::numeric_limits<int32_t>::max(),
        "keys must be contiguous int64 [", num_queries, ", capacity] on ", kDeviceName);
  if (needed) sides.needed = needed->const_data_ptr<int32_t>();
  score_tiles(sides, valid,
              Collect{sides.excluded(pairs, starts), bounds.const_data_ptr<int64_t>(),
                      static_cast<long long*>(keys.mutable_data_ptr()),
                      static_cast<int*>(found.mutable_data_ptr()), static_cast<int>(num_queries),
                      static_cast<int>(keys.size(1))});
}

RL4REC_CUDA_OPERATOR(score_pairs,
                     "(Tensor query, Tensor table, Tensor? rows, Tensor items, "
                     "Tensor? query_scale=None, Tensor? table_scale=None) -> Tensor")
RL4REC_CUDA_OPERATOR(count_catalog,
                     "(Tensor query, Tensor table, Tensor target_scores, Tensor? valid, "
                     "Tensor? query_scale=None, Tensor? table_scale=None) -> Tensor")
RL4REC_CUDA_OPERATOR(collect_catalog,
                     "(Tensor query, Tensor table, Tensor bounds, Tensor? valid, Tensor? pairs, "
                     "Tensor? starts, Tensor? needed, Tensor(a!) keys, "
                     "Tensor(b!) found, Tensor? query_scale=None, Tensor? table_scale=None) -> ()")

}  // namespace
}  // namespace rl4rec
