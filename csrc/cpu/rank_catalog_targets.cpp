// rank_catalog with several targets per query. Defined in rl4rec_kernels/ops/reference.py.
//
// A tile of scores is computed once and compared with one target of every query after the other.
#include <cmath>
#include <limits>

#include "cpu/exclusions.h"

namespace rl4rec {
namespace {

// The targets of a panel's queries, padded to as many layers as the query with the most has: target
// t of lane l is number t * lanes + l. What is counted for padding is not used.
struct Layers {
  Layers(const Candidates& targets, const float* target_scores, int64_t first, int64_t num_queries,
         int64_t lanes)
      : lanes(lanes) {
    for (int64_t l = 0; l < num_queries; ++l)
      size = std::max(size, targets.end(first + l) - targets.begin(first + l));
    scores.assign(size * lanes, std::numeric_limits<float>::infinity());
    above.resize(size * lanes);
    tied.resize(size * lanes);
    is_tiny.resize(size);
    for (int64_t l = 0; l < num_queries; ++l)
      for (int64_t i = targets.begin(first + l), t = 0; i < targets.end(first + l); ++i, ++t) {
        scores[t * lanes + l] = target_scores[i];
        is_tiny[t] = is_tiny[t] || rl4rec::is_tiny(target_scores[i]);
      }
  }

  // What the scores of every lane are compared with, if that is tiny for one; see ItemTile.
  const float* compared(int64_t t) const { return is_tiny[t] ? &scores[t * lanes] : nullptr; }
  const float* any_compared() const {
    const auto found = std::find(is_tiny.begin(), is_tiny.end(), 1);
    return found == is_tiny.end() ? nullptr : compared(found - is_tiny.begin());
  }

  int64_t lanes, size = 0;
  std::vector<float> scores;
  std::vector<int32_t> above, tied;
  std::vector<char> is_tiny;
};

// Adds to `counts` what the targets of a block's queries find among its items.
void count_block(const Catalog& catalog, const Exclusions& exclusions, const Panels& panels,
                 const Block& block, const Candidates& targets, const float* target_scores,
                 Counts& counts) {
  const TileKernels& tile = catalog.tile;
  const int64_t num_panels = panels.size(), lanes = tile.lanes;
  auto entries = exclusions.seek(block.first_query, lanes, num_panels, block.begin);
  std::vector<Layers> all_layers;
  for (int64_t p = 0; p < num_panels; ++p)
    all_layers.emplace_back(targets, target_scores, block.first_query + p * lanes,
                            panels.num_queries(p), lanes);

  ItemTile items(catalog);
  float scores[kMaxTileScores];
  int64_t begin = block.begin;
  while ((begin = items.load(begin, block.end)), items.size() > 0) {
    for (int64_t p = 0; p < num_panels; ++p) {
      Layers& layers = all_layers[p];
      const auto count = [&](int64_t t, bool only_finite) {
        return tile.count(scores, items.size(), &layers.scores[t * lanes], only_finite,
                          &layers.above[t * lanes], &layers.tied[t * lanes]);
      };
      if (layers.size == 0) continue;
      items.multiply(panels, p, scores);
      prefetch_part(catalog, begin, p, num_panels);
      if (!items.is_settled(panels, p, layers.any_compared()) || !count(0, /*only_finite=*/true)) {
        for (int64_t t = 0; t < layers.size; ++t)
          items.settle(panels, p, layers.compared(t), scores);
        count(0, /*only_finite=*/false);
      }
      for (int64_t t = 1; t < layers.size; ++t) count(t, /*only_finite=*/false);
      exclusions.for_each(entries[p], block.first_query + p * lanes, lanes, items,
                          [&](int64_t row, int64_t lane) {
                            const float score = scores[row * lanes + lane];
                            for (int64_t i = lane; i < layers.size * lanes; i += lanes) {
                              layers.above[i] -= score > layers.scores[i];
                              layers.tied[i] -= score == layers.scores[i];
                            }
                          });
    }
  }
  for (int64_t i = 0; i < block.num_queries; ++i) {
    const int64_t q = block.first_query + i, first = targets.begin(q);
    const Layers& layers = all_layers[i / lanes];
    for (int64_t t = 0; t < targets.end(q) - first; ++t)
      counts.add(first + t, layers.above[t * lanes + i % lanes], layers.tied[t * lanes + i % lanes],
                 0);
  }
}

std::vector<int64_t> read_targets(const Candidates& targets, const Catalog& catalog) {
  std::vector<int64_t> result, own;
  result.reserve(targets.count);
  for (int64_t q = 0; q < targets.rows; ++q) {
    own.clear();
    for (int64_t i = targets.begin(q); i < targets.end(q); ++i) {
      own.push_back(targets.id(q, i));
      check_target(catalog, own.back(), q);
    }
    result.insert(result.end(), own.begin(), own.end());
    std::sort(own.begin(), own.end());
    const auto repeated = std::adjacent_find(own.begin(), own.end());
    check(repeated == own.end(), "targets: query ", q, " has ",
          repeated == own.end() ? 0 : *repeated, " more than once; give each target once");
  }
  return result;
}

// The counts of all targets, [number of targets] each: the other targets of a query are among the
// competitors of each. The targets of query q are targets[target_offsets[q]] and so on. With
// `source` the table is a quantized copy of it, and counts are those of the source.
std::tuple<Tensor, Tensor, Tensor> rank_catalog_targets(
    const Tensor& query, const Tensor& table, const Tensor& target_ids,
    const Tensor& target_offsets, const OptionalTensor& exclude,
    const OptionalTensor& exclude_offsets, const OptionalTensor& valid,
    const OptionalTensor& row_stats, const OptionalTensor& source) {
  const Embeddings queries(query, "query");
  const Catalog catalog(source ? *source : table, source ? std::nullopt : row_stats, valid,
                        queries);
  const Candidates targets(target_ids, target_offsets, queries.rows, "targets");
  const std::vector<int64_t> ids = read_targets(targets, catalog);
  Exclusions exclusions(catalog, queries.rows, nullptr, exclude, exclude_offsets);
  exclusions.keep(targets);
  const std::vector<float> scores = score_targets(catalog, queries, ids.data(), targets.offsets);

  Counts counts(targets.count);
  const Partition partition =
      Partition::by_items(catalog, queries.rows, Partition::panels_at_once(catalog));
  for_each_block(catalog, queries, partition, [&](const Block& block, const Panels& panels) {
    count_block(catalog, exclusions, panels, block, targets, scores.data(), counts);
  });

  int64_t num_valid = catalog.items.rows;
  if (catalog.valid) num_valid = std::count(catalog.valid, catalog.valid + num_valid, true);
  for (int64_t q = 0; q < queries.rows; ++q) {
    const int64_t begin = targets.begin(q), end = targets.end(q);
    const int64_t total = num_valid - exclusions.count(q);
    const int64_t num_nan = std::count_if(scores.begin() + begin, scores.begin() + end,
                                          [](float score) { return std::isnan(score); });
    for (int64_t i = begin; i < end; ++i) {
      counts.total[i] = total;
      const bool is_nan = std::isnan(scores[i]);  // ranks last, with the others that are
      if (is_nan) counts.above[i] = total - num_nan;
      counts.tied[i] = is_nan ? num_nan - 1 : counts.tied[i] - 1;  // not with itself
    }
  }
  return counts.to_tensors();
}

RL4REC_OPERATOR(rank_catalog_targets,
                "(Tensor query, Tensor table, Tensor targets, Tensor target_offsets, "
                "Tensor? exclude, Tensor? exclude_offsets, Tensor? valid, Tensor? row_stats, "
                "Tensor? source) "
                "-> (Tensor above, Tensor tied, Tensor total)")

}  // namespace
}  // namespace rl4rec
