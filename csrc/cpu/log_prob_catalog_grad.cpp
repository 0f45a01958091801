// The gradients of log_prob_catalog, both from one pass over the scores.
//
// With w[b, i] the derivative with respect to the score of query b and item i, they are w times the
// items and the transpose of w times the queries. A block of w at a time is computed from scores,
// and multiplied by the kernels that score tiles, whose sums have a fixed order.
#include <cstring>
#include <mutex>

#include "cpu/grad_products.h"
#include "cpu/softmax.h"
#include "cpu/split_scores.h"
#include "cpu/tuning.h"

namespace rl4rec {
namespace {

// Threads share ranges of items. Each has its own sums for the queries, which are added in order.
constexpr int64_t kMaxRanges = 16;

// The arguments of a call, and what all threads read.
struct Problem {
  Problem(const Catalog& catalog, const Embeddings& queries, const Exclusions& exclusions,
          const std::vector<int64_t>& targets, double temperature, bool needs_table)
      : catalog(catalog),
        queries(queries),
        exclusions(exclusions),
        targets(targets),
        scale(static_cast<float>(kLog2E / temperature)),
        shape(queries, needs_table),
        references(divide_up(queries.rows, kMaxLanes) * kMaxLanes),
        factors(references.size()),
        target_weights(references.size()),
        heavy(references.size(), std::numeric_limits<float>::infinity()),
        large(heavy),
        splits(catalog, queries, temperature) {
    if (splits.all_split()) {
      split.emplace(catalog, kSplit, queries);
      split->settles = false;
      split_panels.emplace(*split, queries);
      split_panels->pack(0, queries.rows);
    }
  }

  const Panels& exact_panels() const {
    std::call_once(once, [&] {
      panels.emplace(catalog, queries);
      panels->pack(0, queries.rows);
    });
    return *panels;
  }

  const Catalog& catalog;
  const Embeddings& queries;
  const Exclusions& exclusions;
  const std::vector<int64_t>& targets;
  const float scale;
  const ProductShape shape;
  // The derivatives of the scores are factor * e^((score - reference) / temperature) for
  // competitors, and the target weights for targets. Weights beyond `heavy` in magnitude are
  // computed again from exact scores, if scores are split; those beyond `large` are multiplied
  // exactly, if products are.
  std::vector<float> references, factors, target_weights, heavy, large;
  const SplitScores splits;
  std::optional<Catalog> split;  // if all queries may be scored that way
  std::optional<SplitPanels> split_panels;

 private:
  mutable std::once_flag once;
  mutable std::optional<Panels> panels;
};

// As store_row does, of values that are padded to whole steps.
void store(const Tensor& tensor, int64_t i, const float* values, int64_t dim) {
  if (tensor.scalar_type() != ScalarType::BFloat16 || !level().splits.split)
    return store_row(tensor, i, values, dim);
  std::vector<uint16_t> halves((dim + kStep - 1) / kStep * kStep);
  level().splits.split(values, static_cast<int64_t>(halves.size()), halves.data(), nullptr);
  std::copy_n(halves.data(), dim, static_cast<uint16_t*>(tensor.mutable_data_ptr()) + i * dim);
}

// What one thread needs for the gradients of a range of items.
class Gradients {
 public:
  // `grad_table` is null if it is not asked for.
  Gradients(const Problem& problem, bool needs_query, const Tensor* grad_table)
      : problem_(problem),
        grad_table_(grad_table),
        products_(problem.shape, problem.catalog, needs_query, grad_table != nullptr) {}

  // `query_sums` need no values before, and are null if they are not asked for.
  void compute(int64_t begin, int64_t end, float* query_sums) {
    const int64_t num_queries = problem_.queries.rows;
    for (begin_ = begin; begin_ < end; begin_ = end_) {
      end_ = std::min(begin_ + GradProducts::kItems, end);
      products_.load_items(begin_, end_);
      for (first_ = 0; first_ < num_queries; first_ = last_) {
        last_ = std::min(first_ + GradProducts::kQueries, num_queries);
        products_.load_queries(first_, last_);
        if (!problem_.split || !weigh(*problem_.split)) weigh(problem_.catalog);
        products_.add(query_sums, begin_ == begin, first_ == 0);
        for (int64_t q = first_; q < last_; ++q) {
          const int64_t target = problem_.targets[q];
          if (target < begin_ || end_ <= target) continue;
          products_.add_pair(products_.find(target), q, problem_.target_weights[q], query_sums);
        }
        for (const Pair& pair : pairs_)
          products_.add_pair(pair.item, pair.query, pair.weight, query_sums);
      }
      if (grad_table_) store_items();
    }
  }

 private:
  struct Pair {
    int64_t item, query;  // by its place in the block
    float weight;
  };

  // Computes a block of w, but for the pairs. Returns false if an item is too long for scores of
  // this kind.
  bool weigh(const Catalog& catalog) {
    const Panels* panels = catalog.rounds ? nullptr : &problem_.exact_panels();
    const int64_t lanes = catalog.tile.lanes, num_panels = divide_up(last_ - first_, lanes);
    const auto kernel = level().softmax.lanes[__builtin_ctzll(lanes)].weigh;
    const std::vector<float>& limits = catalog.rounds ? problem_.heavy : problem_.large;
    pairs_.clear();
    TileStrip strip(catalog, catalog.rounds ? SplitPanels::kTiles : 1);
    alignas(64) float scores[SplitPanels::kTiles * kMaxTileScores];
    uint32_t positions[kMaxPositions];
    auto entries = problem_.exclusions.seek(first_, lanes, num_panels, begin_);
    int64_t row = begin_, item = 0;
    while ((row = strip.load(row, end_)), strip.size() > 0) {
      if (catalog.rounds && !problem_.splits.allows(strip)) return false;
      int64_t next = item;
      for (int64_t p = 0; p < num_panels; ++p) {
        const int64_t query = first_ + p * lanes, n = std::min(lanes, last_ - query);
        if (panels)
          strip[0].score(*panels, query / lanes, scores);
        else
          problem_.split_panels->score(strip, query / lanes, scores);
        next = item;
        for (int64_t t = 0; t < strip.size(); ++t) {
          const ItemTile& tile = strip[t];
          float* own = scores + t * kMaxTileScores;
          const int64_t num_large =
              kernel(own, tile.size(), problem_.scale, &problem_.references[query],
                     &problem_.factors[query], &limits[query], positions);
          problem_.exclusions.apply(entries[p], query, lanes, tile, 0.0f, own);
          for (int64_t i = 0; i < num_large; ++i) {
            const int64_t lane = positions[i] % lanes;
            float& weight = own[positions[i]];
            if (lane < n && weight != 0.0f)
              pairs_.push_back({next + positions[i] / lanes, query + lane, weight});
            weight = 0.0f;
          }
          products_.set_tile(next, tile.size(), query, lanes, own);
          next += tile.size();
        }
      }
      item = next;
    }
    if (catalog.rounds) weigh_exactly();
    return true;
  }

  // Scores the pairs exactly. Those that are not large return to w.
  void weigh_exactly() {
    const std::vector<Pair> heavy = std::move(pairs_);
    pairs_.clear();
    ExactPairs exact(problem_.queries, problem_.catalog.items,
                     [&](int64_t query, int64_t id, float, float score) {
                       const float power = (score - problem_.references[query]) * problem_.scale;
                       const float weight = problem_.factors[query] * std::exp2(power);
                       const int64_t item = products_.find(id);
                       if (std::fabs(weight) < problem_.large[query])
                         products_.set(item, query, weight);
                       else
                         pairs_.push_back({item, query, weight});
                     });
    for (const Pair& pair : heavy) exact.add(pair.query, products_.id(pair.item), 0.0f);
    exact.flush();
  }

  // Rows that are not valid have a gradient of 0.
  void store_items() {
    const int64_t dim = problem_.catalog.items.dim;
    const std::vector<float> zeros(problem_.catalog.items.padded_dim());
    for (int64_t id = begin_, item = 0; id < end_; ++id) {
      const bool is_item = item < products_.num_items() && products_.id(item) == id;
      store(*grad_table_, id, is_item ? products_.item_sums(item++) : zeros.data(), dim);
    }
  }

  const Problem& problem_;
  const Tensor* const grad_table_;
  GradProducts products_;
  std::vector<Pair> pairs_;                             // of the block, which are not in w
  int64_t begin_ = 0, end_ = 0, first_ = 0, last_ = 0;  // the items and queries of the block
};

void compute(const Problem& problem, const Tensor* grad_query, const Tensor* grad_table) {
  const int64_t num_items = problem.catalog.items.rows, lanes = problem.shape.lanes;
  constexpr int64_t kItems = GradProducts::kItems;
  const int64_t rows = divide_up(divide_up(num_items, kMaxRanges), kItems) * kItems;
  const int64_t num_ranges = divide_up(num_items, std::max<int64_t>(1, rows));
  const int64_t num_sums = problem.shape.num_query_sums();
  const std::unique_ptr<float[]> sums(new float[grad_query ? num_ranges * num_sums : 0]);
  parallel_for(0, num_ranges, 1, [&](int64_t begin, int64_t end) {
    const TileSession session;
    Gradients gradients(problem, grad_query != nullptr, grad_table);
    for (int64_t range = begin; range < end; ++range)
      gradients.compute(range * rows, std::min((range + 1) * rows, num_items),
                        grad_query ? sums.get() + range * num_sums : nullptr);
  });
  if (!grad_query) return;
  const int64_t num_queries = problem.queries.rows, dim = problem.queries.dim;
  const int64_t panel_sums = problem.shape.dim_rows * lanes;
  parallel_for(0, divide_up(num_queries, lanes), 1, [&](int64_t begin, int64_t end) {
    std::vector<float> row(problem.queries.padded_dim());
    for (int64_t panel = begin; panel < end; ++panel) {
      float* total = sums.get() + panel * panel_sums;  // of the first range
      for (int64_t range = 1; range < num_ranges; ++range)
        for (int64_t i = 0; i < panel_sums; ++i) total[i] += total[range * num_sums + i];
      for (int64_t q = panel * lanes; q < std::min((panel + 1) * lanes, num_queries); ++q) {
        for (int64_t d = 0; d < dim; ++d) row[d] = total[d * lanes + q % lanes];
        store(*grad_query, q, row.data(), dim);
      }
    }
  });
}

// A gradient that is not needed has no rows.
std::tuple<Tensor, Tensor> log_prob_catalog_grad(const Tensor& grad, const Tensor& log_probs,
                                                 const Tensor& normalizer, const Tensor& query,
                                                 const Tensor& table, const Tensor& target_ids,
                                                 const OptionalTensor& exclude,
                                                 const OptionalTensor& exclude_offsets,
                                                 const OptionalTensor& valid, double temperature,
                                                 bool needs_query, bool needs_table) {
  const Embeddings queries(query, "query");
  const Catalog catalog(table, std::nullopt, valid, queries);
  const std::vector<int64_t> targets = read_targets(target_ids, catalog, queries.rows, false);
  const Exclusions exclusions(catalog, queries.rows, targets.data(), exclude, exclude_offsets);
  const auto check_rows = [&](const Tensor& tensor, ScalarType type, int64_t dims,
                              const char* name) {
    check(tensor.is_cpu() && tensor.scalar_type() == type && tensor.dim() == dims &&
              tensor.size(0) == queries.rows && (dims == 1 || tensor.size(1) == 2),
          name, " must have one row per query, as log_prob_catalog returns it");
    return torch::stable::contiguous(tensor);
  };
  const Tensor grads = check_rows(grad, ScalarType::Float, 1, "grad");
  const Tensor found = check_rows(log_probs, ScalarType::Float, 1, "log_probs");
  const Tensor sums = check_rows(normalizer, ScalarType::Double, 2, "normalizer");

  Problem problem(catalog, queries, exclusions, targets, temperature, needs_table);
  for (int64_t q = 0; q < queries.rows; ++q) {
    const double slope = grads.const_data_ptr<float>()[q] / temperature;
    const double* sum = sums.const_data_ptr<double>() + 2 * q;
    problem.references[q] = static_cast<float>(sum[0]);
    problem.factors[q] = static_cast<float>(-slope * std::exp(-sum[1]));
    if (problem.shape.is_split) {
      problem.heavy[q] = static_cast<float>(std::fabs(slope) * problem.splits.heavy(q));
      problem.large[q] = static_cast<float>(std::fabs(slope) * kMaxHeavyShare);
    }
    const double log_prob = found.const_data_ptr<float>()[q];
    problem.target_weights[q] = static_cast<float>(-slope * std::expm1(log_prob));
  }
  const auto make = [&](const Tensor& like, bool needed) {
    const int64_t rows = needed ? like.size(0) : 0;
    return queries.rows == 0 ? torch::stable::new_zeros(like, {rows, like.size(1)})
                             : torch::stable::new_empty(like, {rows, like.size(1)});
  };
  const Tensor grad_query = make(query, needs_query), grad_table = make(table, needs_table);
  if (queries.dim > 0)
    compute(problem, needs_query ? &grad_query : nullptr, needs_table ? &grad_table : nullptr);
  return {grad_query, grad_table};
}

RL4REC_OPERATOR(log_prob_catalog_grad,
                "(Tensor grad, Tensor log_probs, Tensor normalizer, Tensor query, Tensor table, "
                "Tensor targets, Tensor? exclude, Tensor? exclude_offsets, Tensor? valid, "
                "float temperature, bool needs_query, bool needs_table) -> "
                "(Tensor grad_query, Tensor grad_table)")

}  // namespace
}  // namespace rl4rec
