// topk_catalog. Defined in rl4rec_kernels/ops/reference.py.
#include <limits>

#include "cpu/exclusions.h"
#include "cpu/new_tensor.h"
#include "cpu/refine.h"
#include "cpu/reservoir.h"
#include "cpu/strips.h"
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

// Collects the best items of a block for each of its queries.
class Collector {
 public:
  Collector(int64_t k, const Block& block)
      // Lanes without a query find nothing, and nothing is above infinity.
      : block_(block),
        low_((block.num_queries + kMaxLanes - 1) / kMaxLanes * kMaxLanes, kInfinity),
        high_(kMaxLanes, kInfinity),
        above_(kMaxLanes),
        reservoirs(block.num_queries, Reservoir(k)) {
    update_thresholds();
  }

  void update_thresholds() {
    for (size_t i = 0; i < reservoirs.size(); ++i) low_[i] = reservoirs[i].threshold();
  }

  // Finds those scores of a tile and panel p that may be among the best. With `only_finite` it
  // returns false if not all scores are finite.
  bool collect(const TileKernels& tile, const ItemTile& items, int64_t p, const float* scores,
               bool only_finite) {
    num_found_ = tile.count_and_collect(scores, items.size(), &low_[p * tile.lanes], high_.data(),
                                        only_finite, above_.data(), positions_);
    return num_found_ >= 0;
  }

  // Adds what was found. `compact(i)` makes room in the reservoir of query i.
  template <typename Compact>
  void add(const TileKernels& tile, const ItemTile& items, int64_t p, const float* scores,
           bool are_exact, const Compact& compact) {
    const int64_t first = p * tile.lanes;
    for (int64_t j = 0; j < num_found_; ++j) {
      const int64_t i = first + (positions_[j] & (tile.lanes - 1));
      const int64_t row = positions_[j] / static_cast<uint32_t>(tile.lanes);
      reservoirs[i].add(scores[positions_[j]], items.ids()[row] - block_.begin, are_exact);
      if (!reservoirs[i].full()) continue;
      compact(i);
      low_[i] = reservoirs[i].threshold();
    }
  }

  // All scores must be exact.
  void store(const Best& best) {
    for (int64_t i = 0; i < block_.num_queries; ++i) {
      reservoirs[i].sort();
      best.store(block_.first_query + i, reservoirs[i], block_.begin);
    }
  }

 private:
  const Block block_;
  std::vector<float> low_, high_;
  std::vector<int32_t> above_;
  int64_t num_found_ = 0;
  uint32_t positions_[kMaxPositions];

 public:
  std::vector<Reservoir> reservoirs;
};

// Stores the best items of a block, by exact scores. Tiny ones are so for lanes that `compared` has
// a 0 for, see ItemTile::score; it is null for none.
void search_block(const Catalog& catalog, const Exclusions& exclusions, const Block& block,
                  const Panels& panels, const float* compared, const Best& best) {
  const TileKernels& tile = catalog.tile;
  const int64_t lanes = tile.lanes, num_panels = panels.size();
  Collector collector(best.k, block);
  const auto compact = [&](int64_t i) { collector.reservoirs[i].compact(); };
  auto entries = exclusions.seek(block.first_query, lanes, num_panels, block.begin);
  ItemTile items(catalog);
  float scores[kMaxTileScores];
  int64_t begin = block.begin;
  while ((begin = items.load(begin, block.end)), items.size() > 0) {
    for (int64_t p = 0; p < num_panels; ++p) {
      const float* own = compared ? compared + p * lanes : nullptr;
      items.multiply(panels, p, scores);
      prefetch_part(catalog, begin, p, num_panels);
      if (exclusions.reaches(entries[p], block.first_query + p * lanes, items) ||
          !items.is_settled(panels, p, own) ||
          !collector.collect(tile, items, p, scores, /*only_finite=*/true)) {
        items.settle(panels, p, own, scores);
        exclusions.apply(entries[p], block.first_query + p * lanes, lanes, items, -kInfinity,
                         scores);
        collector.collect(tile, items, p, scores, /*only_finite=*/false);
      }
      collector.add(tile, items, p, scores, /*are_exact=*/true, compact);
    }
  }
  collector.store(best);
  if (compared || catalog.arithmetic != kBFloat16Pairs) return;
  // If tiny scores are among the best, which is rare, it takes a second search to order them.
  std::vector<float> ones(num_panels * lanes, 1.0f);
  bool any = false;
  for (int64_t i = 0; i < block.num_queries; ++i) {
    const float* found = best.scores + (block.first_query + i) * best.k;
    if (!std::any_of(found, found + best.k, is_tiny)) continue;
    ones[i] = 0.0f;
    any = true;
  }
  if (any) search_block(catalog, exclusions, block, panels, ones.data(), best);
}

// The same, by way of approximate scores.
void search_block(const Refinement& refinement, const Exclusions& exclusions, const Block& block,
                  const Best& best) {
  Collector collector(best.k, block);
  std::vector<Reservoir>& reservoirs = collector.reservoirs;
  int64_t num_rescored = 0;
  const auto exact_scores = [&](int64_t i) {
    return [&, query = block.first_query + i](const int64_t* items, int64_t n, float* scores) {
      refinement.score(query, block.begin, items, n, scores);
      num_rescored += n;
    };
  };
  const auto compact = [&](int64_t i) { reservoirs[i].compact(exact_scores(i)); };
  float scores[kMaxTileScores];
  Strips strips(refinement, block);
  for (int64_t begin = block.begin; begin < block.end; begin += kStripRows) {
    const int64_t end = std::min(begin + kStripRows, block.end);
    const Strip& strip = strips.load(begin, end);
    const int64_t lanes = strip.catalog->tile.lanes;
    for (int64_t i = 0; i < block.num_queries && strip.approximation; ++i)
      reservoirs[i].raise_bound(
          strip.approximation->bound_of_any(block.first_query + i, strip.norms));
    collector.update_thresholds();
    auto entries = exclusions.seek(block.first_query, lanes, strip.panels->size(), begin);
    num_rescored = 0;
    strips.for_each_tile([&](const ItemTile& items, int64_t p) {
      items.score(*strip.panels, p, scores);
      exclusions.apply(entries[p], block.first_query + p * lanes, lanes, items, -kInfinity, scores);
      collector.collect(strip.catalog->tile, items, p, scores, /*only_finite=*/false);
      collector.add(strip.catalog->tile, items, p, scores, !strip.approximation, compact);
    });
    strips.learn(end - begin, {num_rescored, num_rescored});
  }

  // Strip by strip of the source, so that what the queries share of it is read once.
  const int64_t num_items = block.end - block.begin;
  int64_t undecided = 1;
  for (Reservoir& reservoir : reservoirs) {
    reservoir.prune_by_histogram();
    undecided += reservoir.size();
  }
  const int64_t rows = std::max(kStripBytes / (4 * refinement.exact().items.dim + 1) + 1,
                                num_items * block.num_queries * kStripItemsPerQuery / undecided);
  std::vector<int64_t> next(block.num_queries);
  for (int64_t end = rows; end < num_items + rows; end += rows)
    for (int64_t i = 0; i < block.num_queries; ++i)
      next[i] = reservoirs[i].rescore(next[i], end, exact_scores(i));
  collector.store(best);
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
  const Embeddings queries(query, "query");
  const Catalog catalog(table, row_stats, valid, queries);
  check(1 <= k && k <= catalog.items.rows, "k must be from 1 to ", catalog.items.rows,
        " (the rows of the table), got ", k);
  const Exclusions exclusions(catalog, queries.rows, nullptr, exclude, exclude_offsets);
  std::optional<Catalog> source_catalog;
  if (source) source_catalog.emplace(*source, std::nullopt, valid, queries);
  const Catalog& exact = source ? *source_catalog : catalog;
  const auto refinement = Refinement::find(exact, queries, source ? &catalog : nullptr, k);

  const Tensor scores = new_tensor(aoti_torch_dtype_float32(), queries.rows, k);
  const Tensor ids = new_tensor(aoti_torch_dtype_int64(), queries.rows, k);
  const Best result{k, scores.mutable_data_ptr<float>(), ids.mutable_data_ptr<int64_t>()};

  // A reservoir takes up to about 36 k bytes.
  int64_t max_panels = std::max<int64_t>(1, kReservoirBytes / (36 * k * exact.tile.lanes));
  if (!refinement) max_panels = std::min(max_panels, Partition::panels_at_once(exact));
  const Partition partition = Partition::by_queries(exact, queries.rows, max_panels);
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
  if (refinement) {
    for_each_block(partition, [&](const Block& block) {
      search_block(*refinement, exclusions, block, ranges[block.range]);
    });
  } else {
    for_each_block(exact, queries, partition, [&](const Block& block, const Panels& panels) {
      search_block(exact, exclusions, block, panels, nullptr, ranges[block.range]);
    });
  }
  if (partition.num_ranges > 1)
    for (int64_t q = 0; q < queries.rows; ++q) merge(ranges, q, result);
  return {scores, ids};
}

RL4REC_OPERATOR(topk_catalog,
                "(Tensor query, Tensor table, int k, Tensor? exclude, Tensor? exclude_offsets, "
                "Tensor? valid, Tensor? row_stats, Tensor? source) -> (Tensor scores, Tensor ids)")

}  // namespace
}  // namespace rl4rec
