// topk_catalog. Defined in rl4rec_kernels/ops/reference.py.
#include <limits>

#include "cpu/catalog.h"
#include "cpu/refine.h"
#include "cpu/reservoir.h"
#include "cpu/tuning.h"

namespace rl4rec {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The best items of all queries: rows of k, best first, filled up with -inf and -1.
struct Best {
  void store(int64_t query, const Reservoir& reservoir, int64_t first_id) const {
    for (int64_t i = 0; i < k; ++i) {
      const bool exists = i < reservoir.size();
      scores[query * k + i] = exists ? reservoir.score(i) : -kInfinity;
      ids[query * k + i] = exists ? first_id + reservoir.item(i) : -1;
    }
  }

  int64_t k;
  float* scores;
  int64_t* ids;
};

// The items of a call, and what is wanted of them.
struct Search {
  // Stores the best items of a block for each of its queries.
  void run(const Block& block, const Panels& panels, const Best& best) const;
  // Replaces the scores of the block's undecided items by exact ones.
  void rescore(const Block& block, std::vector<Reservoir>& reservoirs) const;
  // Computes exact scores of items, for query i of the block.
  auto exact_scores(const Block& block, int64_t i) const {
    return [this, query = block.first_query + i, first = block.begin](const int64_t* items,
                                                                      int64_t n, float* scores) {
      refinement->score(query, first, items, n, scores);
    };
  }

  const Catalog& catalog;
  const Exclusions& exclusions;
  const std::optional<Refinement>& refinement;
};

void Search::run(const Block& block, const Panels& panels, const Best& best) const {
  const TileKernels& tile = catalog.tile;
  const int64_t lanes = tile.lanes, num_panels = panels.size();
  const int64_t first_panel = block.first_query / lanes;
  float norm = 0.0f, error = 0.0f;
  for (int64_t id = block.begin; refinement && id < block.end; ++id) {
    norm = std::max(norm, catalog.norm(id));
    error = std::max(error, catalog.error(id));
  }
  std::vector<Reservoir> reservoirs;
  // Lanes without a query find nothing, and nothing is above infinity.
  std::vector<float> low(num_panels * lanes, kInfinity), high(lanes, kInfinity);
  std::vector<int32_t> above(lanes);
  for (int64_t i = 0; i < block.num_queries; ++i) {
    const int64_t query = block.first_query + i;
    reservoirs.emplace_back(best.k,
                            refinement ? refinement->bound_of_any(query, norm, error) : 0.0f);
    low[i] = reservoirs[i].threshold();
  }
  auto entries = exclusions.seek(first_panel, num_panels, block.begin);

  ItemTile items(catalog);
  float scores[kMaxTileRows * kMaxLanes];
  uint32_t positions[kMaxPositions];
  int64_t begin = block.begin;
  while ((begin = items.load(begin, block.end)), items.size() > 0) {
    for (int64_t p = 0; p < num_panels; ++p) {
      items.score(panels, p, scores);
      prefetch_part(catalog, begin, p, num_panels);
      exclusions.apply(entries[p], first_panel + p, items, -kInfinity, scores);
      const int64_t n = tile.count_and_collect(scores, items.size(), &low[p * lanes], high.data(),
                                               above.data(), positions);
      for (int64_t j = 0; j < n; ++j) {
        const int64_t i = p * lanes + (positions[j] & (lanes - 1));
        const int64_t row = positions[j] / static_cast<uint32_t>(lanes);
        reservoirs[i].add(scores[positions[j]], items.ids()[row] - block.begin);
        if (!reservoirs[i].full()) continue;
        reservoirs[i].compact(exact_scores(block, i));
        low[i] = reservoirs[i].threshold();
      }
    }
  }
  for (Reservoir& reservoir : reservoirs) reservoir.prune_by_histogram();
  if (refinement) rescore(block, reservoirs);
  for (int64_t i = 0; i < block.num_queries; ++i) {
    reservoirs[i].sort();
    best.store(block.first_query + i, reservoirs[i], block.begin);
  }
}

// Strip by strip of the source, so that what the queries share of it is read once.
void Search::rescore(const Block& block, std::vector<Reservoir>& reservoirs) const {
  const int64_t num_items = block.end - block.begin;
  int64_t undecided = 1;
  for (const Reservoir& reservoir : reservoirs) undecided += reservoir.size();
  const int64_t rows = std::max(kStripBytes / (4 * catalog.items.dim + 1) + 1,
                                num_items * block.num_queries * kStripItemsPerQuery / undecided);
  std::vector<int64_t> next(block.num_queries);
  for (int64_t end = rows; end < num_items + rows; end += rows)
    for (int64_t i = 0; i < block.num_queries; ++i)
      next[i] = reservoirs[i].rescore(next[i], end, exact_scores(block, i));
}

// Merges the best items of all ranges for one query. Of equal scores, those of earlier ranges come
// first.
void merge(const std::vector<Best>& ranges, int64_t query, const Best& result) {
  const int64_t k = result.k;
  std::vector<int64_t> next(ranges.size(), query * k);
  for (int64_t i = query * k; i < (query + 1) * k; ++i) {
    size_t from = 0;
    for (size_t r = 1; r < ranges.size(); ++r)
      if (ranges[r].scores[next[r]] > ranges[from].scores[next[from]]) from = r;
    result.scores[i] = ranges[from].scores[next[from]];
    result.ids[i] = ranges[from].ids[next[from]++];
  }
}

// The best k items of every query: scores float32 [B, k] and ids int64 [B, k], filled up with -inf
// and -1. The other arguments are as in rank_catalog.
std::tuple<Tensor, Tensor> topk_catalog(const Tensor& query, const Tensor& table, int64_t k,
                                        const OptionalTensor& exclude,
                                        const OptionalTensor& exclude_offsets,
                                        const OptionalTensor& valid,
                                        const OptionalTensor& row_stats,
                                        const OptionalTensor& source) {
  // With many items to rescore it is faster to score all. The result is the same.
  if (source && kMinRowsPerRefined * k > source->size(0))
    return topk_catalog(query, *source, k, exclude, exclude_offsets, valid, {}, {});
  const Embeddings queries(query, "query");
  const Catalog catalog(table, row_stats, valid, queries);
  check(1 <= k && k <= catalog.items.rows, "k must be from 1 to ", catalog.items.rows,
        " (the rows of the table), got ", k);
  const Exclusions exclusions(catalog, queries.rows, nullptr, exclude, exclude_offsets);
  std::optional<Refinement> refinement;
  if (source) refinement.emplace(catalog, queries, *source);

  const Tensor scores = torch::stable::new_empty(query, {queries.rows, k}, ScalarType::Float);
  const Tensor ids = torch::stable::new_empty(query, {queries.rows, k}, ScalarType::Long);
  const Best result{k, scores.mutable_data_ptr<float>(), ids.mutable_data_ptr<int64_t>()};

  // A reservoir takes up to about 36 k bytes.
  const int64_t max_panels = std::max<int64_t>(1, kReservoirBytes / (36 * k * catalog.tile.lanes));
  const Partition partition = Partition::by_queries(
      catalog, queries.rows, std::min(max_panels, Partition::panels_at_once(catalog)));
  std::vector<Best> ranges{result};
  std::vector<float> range_scores;
  std::vector<int64_t> range_ids;
  if (partition.num_ranges > 1) {
    const int64_t size = queries.rows * k;
    range_scores.resize(partition.num_ranges * size);
    range_ids.resize(partition.num_ranges * size);
    ranges.clear();
    for (int64_t r = 0; r < partition.num_ranges; ++r)
      ranges.push_back({k, range_scores.data() + r * size, range_ids.data() + r * size});
  }
  const Search search{catalog, exclusions, refinement};
  for_each_block(catalog, queries, partition, [&](const Block& block, const Panels& panels) {
    search.run(block, panels, ranges[block.range]);
  });
  if (partition.num_ranges > 1)
    for (int64_t q = 0; q < queries.rows; ++q) merge(ranges, q, result);
  return {scores, ids};
}

RL4REC_OPERATOR(topk_catalog,
                "(Tensor query, Tensor table, int k, Tensor? exclude, Tensor? exclude_offsets, "
                "Tensor? valid, Tensor? row_stats, Tensor? source) -> (Tensor scores, Tensor ids)")

}  // namespace
}  // namespace rl4rec
