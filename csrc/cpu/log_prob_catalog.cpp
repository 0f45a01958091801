// log_prob_catalog. Defined in rl4rec_kernels/ops/reference.py; its gradients are in
// log_prob_catalog_grad.cpp.
#include <cfloat>

#include "cpu/exclusions.h"
#include "cpu/softmax.h"
#include "cpu/tuning.h"

namespace rl4rec {
namespace {

// Sums are taken over blocks of so many items, or a multiple for large tables, from the first item
// on, and then over the blocks in their order. So they do not depend on the batch or the threads.
// Every tile size divides it.
constexpr int64_t kBlockRows = 768;
constexpr int64_t kMaxBlocks = 64;  // what is kept per query does not grow with the table

int64_t block_rows(int64_t num_items) {
  const int64_t step = kBlockRows * kMaxBlocks;
  return kBlockRows * std::max<int64_t>(1, (num_items + step - 1) / step);
}

struct Partial {
  float reference = -FLT_MAX;
  double sum = 0.0;
};

// Sums the exponentials of a block of items for the queries of a panel after another.
// `partials` [B, num_blocks].
void sum_range(const Catalog& catalog, const Exclusions& exclusions, const Panels& panels,
               const Block& range, float scale, int64_t num_blocks, Partial* partials) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const int64_t num_panels = panels.size(), lanes = catalog.tile.lanes;
  const auto add = level().softmax.lanes[__builtin_ctzll(lanes)].add_exponentials;
  const int64_t group = level().wide[catalog.arithmetic].rows;  // the same for few queries
  const int64_t rows = block_rows(catalog.items.rows);
  auto entries = exclusions.seek(range.first_query, lanes, num_panels, range.begin);
  std::vector<float> references(num_panels * lanes);
  std::vector<double> sums(num_panels * lanes);

  ItemTile items(catalog);
  float scores[kMaxTileScores];
  for (int64_t first = range.begin; first < range.end; first += rows) {
    std::fill(references.begin(), references.end(), -FLT_MAX);
    std::fill(sums.begin(), sums.end(), 0.0);
    const int64_t end = std::min(first + rows, range.end);
    int64_t begin = first;
    while ((begin = items.load(begin, end)), items.size() > 0) {
      for (int64_t p = 0; p < num_panels; ++p) {
        items.score(panels, p, scores);
        prefetch_part(catalog, begin, p, num_panels);
        exclusions.apply(entries[p], range.first_query + p * lanes, lanes, items, -kInfinity,
                         scores);
        add(scores, items.size(), group, scale, &references[p * lanes], &sums[p * lanes]);
      }
    }
    for (int64_t i = 0; i < range.num_queries; ++i)
      partials[(range.first_query + i) * num_blocks + first / rows] = {references[i], sums[i]};
  }
}

// Log-probabilities [B] of the targets in the softmax of all scores / temperature, and the
// normalizer float64 [B, 2]: the largest score, and the log of the sum of e^((score - largest) /
// temperature).
std::tuple<Tensor, Tensor> log_prob_catalog(const Tensor& query, const Tensor& table,
                                            const Tensor& target_ids, const OptionalTensor& exclude,
                                            const OptionalTensor& exclude_offsets,
                                            const OptionalTensor& valid, double temperature) {
  const Embeddings queries(query, "query");
  const Catalog catalog(table, std::nullopt, valid, queries);
  const std::vector<int64_t> targets = read_targets(target_ids, catalog, queries.rows, false);
  const Exclusions exclusions(catalog, queries.rows, targets.data(), exclude, exclude_offsets);
  const std::vector<float> target_scores = score_targets(catalog, queries, targets.data());
  const int64_t num_items = catalog.items.rows, rows = block_rows(num_items);
  const int64_t num_blocks = (num_items + rows - 1) / rows;
  std::vector<Partial> partials(queries.rows * num_blocks);

  Partition ranges = Partition::by_items(catalog, queries.rows, Partition::panels_at_once(catalog));
  ranges.range_rows = (ranges.range_rows + rows - 1) / rows * rows;
  ranges.num_ranges = (num_items + ranges.range_rows - 1) / ranges.range_rows;
  const float scale = static_cast<float>(kLog2E / temperature);
  for_each_block(catalog, queries, ranges, [&](const Block& range, const Panels& panels) {
    sum_range(catalog, exclusions, panels, range, scale, num_blocks, partials.data());
  });

  int64_t num_valid = num_items;
  if (catalog.valid) num_valid = std::count(catalog.valid, catalog.valid + num_valid, true);
  const Tensor result = torch::stable::new_empty(query, {queries.rows}, ScalarType::Float);
  const Tensor normalizer = torch::stable::new_empty(query, {queries.rows, 2}, ScalarType::Double);
  float* log_probs = result.mutable_data_ptr<float>();
  double* normalizers = normalizer.mutable_data_ptr<double>();
  parallel_for(0, queries.rows, kQueriesPerThread, [&](int64_t begin, int64_t end) {
    for (int64_t q = begin; q < end; ++q) {
      LogSum sum(temperature);
      for (int64_t b = 0; b < num_blocks; ++b)
        sum.add(partials[q * num_blocks + b].reference, partials[q * num_blocks + b].sum);
      sum.add(target_scores[q], 1.0);
      if (sum.reference == -std::numeric_limits<double>::infinity())  // as all scores are
        sum.sum *= static_cast<double>(1 + num_valid - exclusions.count(q));
      log_probs[q] = static_cast<float>(sum.log_prob(target_scores[q]));
      normalizers[2 * q] = sum.reference;
      normalizers[2 * q + 1] = std::log(sum.sum);
    }
  });
  return {result, normalizer};
}

RL4REC_OPERATOR(log_prob_catalog,
                "(Tensor query, Tensor table, Tensor targets, Tensor? exclude, "
                "Tensor? exclude_offsets, Tensor? valid, float temperature) -> "
                "(Tensor log_probs, Tensor normalizer)")

}  // namespace
}  // namespace rl4rec
