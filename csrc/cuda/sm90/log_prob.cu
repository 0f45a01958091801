// Sums of exponentials over the catalog on Hopper, alone and with counts. Compiled for sm_90a only.
// rl4rec_kernels/ops/_hopper.py makes log_prob_catalog of them.
#include "cuda/sm90/score_tiles.cuh"
#include "cuda/sm90/sum.cuh"

namespace rl4rec {
namespace {

constexpr int64_t kMostRanges = 256;  // what is kept for a query does not grow with the table

// The largest score of each range of items, and the sum of 2 to the power of (score - largest) *
// scale, float32 [2, B, ranges]. A sum of infinite scores is how many there are. Rows that are not
// `valid` are left out, and so are the excluded pairs: `pairs`, int32, and where those of each tile
// begin in them, int64, see Excluded. Counts as those of `count_catalog` are added to `counts`.
Tensor sum_catalog(const Tensor& query, const Tensor& table, const OptionalTensor& target_scores,
                   const OptionalTensor& valid, const OptionalTensor& pairs,
                   const OptionalTensor& starts, double scale, OptionalTensor counts) {
  const Sides sides(query, table, std::nullopt, std::nullopt);
  const int64_t num_queries = sides.query.rows, tiles = sides.tiles();
  check(target_scores.has_value() == counts.has_value(), "target_scores go with counts");
  check(!counts || (is_vector(*target_scores, query, ScalarType::Float, num_queries) &&
                    is_vector(*counts, query, ScalarType::Long, 2 * num_queries)),
        "target_scores must be contiguous float32 [", num_queries, "] and counts int64 [",
        2 * num_queries, "] on ", kDeviceName);
  const int64_t tiles_a_range = (tiles + kMostRanges - 1) / kMostRanges;
  const int64_t ranges = tiles == 0 ? 0 : (tiles + tiles_a_range - 1) / tiles_a_range;
  const Tensor sums = torch::stable::new_empty(query, {2, num_queries, ranges}, ScalarType::Float);
  Sum sum = {};
  sum.excluded = sides.excluded(pairs, starts);
  sum.scale = static_cast<float>(scale);
  sum.largest_scores = sums.mutable_data_ptr<float>();
  sum.sums = sum.largest_scores + num_queries * ranges;
  sum.num_queries = static_cast<int>(num_queries), sum.ranges = static_cast<int>(ranges);
  Count count = {};
  if (counts) {
    count = {target_scores->const_data_ptr<float>(),
             static_cast<unsigned long long*>(counts->mutable_data_ptr()),
             static_cast<int>(num_queries)};
  }
  score_tiles(sides, valid, SumAndCount{sum, count}, tiles_a_range);
  return sums;
}

RL4REC_CUDA_OPERATOR(sum_catalog,
                     "(Tensor query, Tensor table, Tensor? target_scores, Tensor? valid, "
                     "Tensor? pairs, Tensor? starts, float scale, Tensor(a!)? counts) -> Tensor")

}  // namespace
}  // namespace rl4rec
