// topk_catalog. The definition stands in rl4rec_kernels/ops/reference.py.
#include "cpu/topk_catalog.h"

#include <limits>

#include "cpu/catalog.h"
#include "cpu/refine.h"
#include "cpu/selection.h"

namespace rl4rec {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The best of one range of items: rows of k for all queries, best first, filled up with -inf, -1.
struct Best {
  void store(int64_t query, const Selection& selection, int64_t first_id) const {
    for (int64_t i = 0; i < k; ++i) {
      const bool there = i < selection.size();
      scores[query * k + i] = there ? selection.score(i) : -kInfinity;
      ids[query * k + i] = there ? first_id + selection.item(i) : -1;
    }
  }

  int64_t k;
  float* scores;
  int64_t* ids;
};

// One block of queries against one range of items.
class PieceSelector {
 public:
  PieceSelector(const Catalog& catalog, const Exclusions& exclusions,
                const std::optional<Refinement>& refinement, int64_t k)
      : catalog_(catalog), exclusions_(exclusions), refinement_(refinement), k_(k) {}

  void run(const Panels& panels, int64_t first_query, int64_t num_queries, int64_t begin,
           int64_t end, const Best& best) const {
    const Tile& tile = catalog_.tile;
    const int64_t lanes = tile.lanes, num_panels = panels.size();
    const int64_t first_panel = first_query / lanes, first_id = begin;
    float norm = 0.0f, error = 0.0f;
    for (int64_t id = begin; refinement_ && id < end; ++id) {
      norm = std::max(norm, catalog_.norm(id));
      error = std::max(error, catalog_.error(id));
    }
    std::vector<Selection> selections;
    // Lanes without a query find nothing, and nothing is above infinity.
    std::vector<float> low(num_panels * lanes, kInfinity), high(lanes, kInfinity);
    std::vector<int32_t> above(lanes);
    for (int64_t i = 0; i < num_queries; ++i) {
      selections.emplace_back(
          k_, refinement_ ? refinement_->bound_of_any(first_query + i, norm, error) : 0.0f);
      low[i] = selections[i].lowest();
    }
    std::vector<const Exclusions::Entry*> entries =
        exclusions_.from(first_panel, num_panels, begin);

    const auto rescore_for = [&](int64_t i) {
      return [this, query = first_query + i, first_id](const int64_t* items, int64_t n,
                                                       float* scores) {
        refinement_->score(query, first_id, items, n, scores);
      };
    };
    ItemTile items(catalog_);
    float scores[kMaxTileRows * kMaxLanes];
    uint32_t places[kMaxTileRows * kMaxLanes + kMaxLanes];
    while ((begin = items.load(begin, end)), items.size() > 0) {
      for (int64_t p = 0; p < num_panels; ++p) {
        items.score(panels, p, scores);
        prefetch_part(catalog_, begin, p, num_panels);
        exclusions_.apply(entries[p], first_panel + p, items, -kInfinity, scores);
        const int64_t n =
            tile.band(scores, items.size(), &low[p * lanes], high.data(), above.data(), places);
        for (int64_t j = 0; j < n; ++j) {
          const int64_t i = p * lanes + (places[j] & (lanes - 1));
          const int64_t row = places[j] / static_cast<uint32_t>(lanes);
          selections[i].add(scores[places[j]], items.ids()[row] - first_id);
          if (!selections[i].full()) continue;
          selections[i].compact(rescore_for(i));
          low[i] = selections[i].lowest();
        }
      }
    }
    for (Selection& selection : selections) selection.drop_roughly();
    if (refinement_) {
      // Strip by strip of the source, so that what the queries share of it is read once; but each
      // query should have a vector full of items in a strip.
      constexpr int64_t kStripBytes = 256 << 10, kItemsAtOnce = 64;
      int64_t in_doubt = 1;
      for (const Selection& selection : selections) in_doubt += selection.size();
      const int64_t rows = std::max(kStripBytes / (4 * catalog_.items.dim + 1) + 1,
                                    (end - first_id) * num_queries * kItemsAtOnce / in_doubt);
      std::vector<int64_t> places(num_queries);
      for (int64_t strip = rows; strip < end - first_id + rows; strip += rows)
        for (int64_t i = 0; i < num_queries; ++i)
          places[i] = selections[i].settle(places[i], strip, rescore_for(i));
    }
    for (int64_t i = 0; i < num_queries; ++i) {
      selections[i].finish();
      best.store(first_query + i, selections[i], first_id);
    }
  }

 private:
  const Catalog& catalog_;
  const Exclusions& exclusions_;
  const std::optional<Refinement>& refinement_;
  int64_t k_;
};

// Joins the ranges' rows of one query; of equal scores those of earlier ranges come first.
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

}  // namespace

std::tuple<Tensor, Tensor> topk_catalog(const Tensor& query, const Tensor& table, int64_t k,
                                        const std::optional<Tensor>& exclude,
                                        const std::optional<Tensor>& exclude_offsets,
                                        const std::optional<Tensor>& valid,
                                        const std::optional<Tensor>& row_stats,
                                        const std::optional<Tensor>& source) {
  // With many items to score again it is faster to score them all; the result is the same.
  if (source && 32 * k > source->size(0))
    return topk_catalog(query, *source, k, exclude, exclude_offsets, valid, std::nullopt,
                        std::nullopt);
  const Embeddings queries(query, "query");
  const Catalog catalog(table, row_stats, valid, queries);
  check(1 <= k && k <= catalog.items.rows, "k must be from 1 to ", catalog.items.rows,
        ", the rows of the table, got ", k);
  const Exclusions exclusions(catalog, queries.rows, nullptr, exclude, exclude_offsets);
  std::optional<Refinement> refinement;
  if (source) refinement.emplace(catalog, queries, *source);

  const Tensor scores = torch::stable::new_empty(query, {queries.rows, k}, ScalarType::Float);
  const Tensor ids = torch::stable::new_empty(query, {queries.rows, k}, ScalarType::Long);
  const Best result{k, static_cast<float*>(scores.mutable_data_ptr()),
                    static_cast<int64_t*>(ids.mutable_data_ptr())};

  // Selections of a block take up to about 36 k bytes a query.
  constexpr int64_t kSelectionBytes = 16 << 20;
  const int64_t panels = std::max<int64_t>(1, kSelectionBytes / (36 * k * catalog.tile.lanes));
  const Pieces pieces =
      Pieces::by_queries(catalog, queries.rows, std::min(panels, Pieces::panels_at_once(catalog)));
  std::vector<Best> ranges{result};
  std::vector<float> range_scores;
  std::vector<int64_t> range_ids;
  if (pieces.num_ranges > 1) {
    const int64_t size = queries.rows * k;
    range_scores.resize(pieces.num_ranges * size);
    range_ids.resize(pieces.num_ranges * size);
    ranges.clear();
    for (int64_t r = 0; r < pieces.num_ranges; ++r)
      ranges.push_back({k, range_scores.data() + r * size, range_ids.data() + r * size});
  }
  const PieceSelector selector(catalog, exclusions, refinement, k);
  for_each_piece(catalog, queries, pieces, [&](int64_t block, int64_t range, const Panels& panels) {
    const int64_t first = block * pieces.block_queries;
    const int64_t begin = range * pieces.range_rows;
    selector.run(panels, first, std::min(pieces.block_queries, queries.rows - first), begin,
                 std::min(begin + pieces.range_rows, catalog.items.rows), ranges[range]);
  });
  if (pieces.num_ranges > 1)
    for (int64_t q = 0; q < queries.rows; ++q) merge(ranges, q, result);
  return {scores, ids};
}

}  // namespace rl4rec
