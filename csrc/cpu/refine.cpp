#include "cpu/refine.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "cpu/cost.h"
#include "cpu/tuning.h"

namespace rl4rec {
namespace {

constexpr double kUnit = 1.0 / (1 << 24);
constexpr float kHuge = 1e18f;              // the square of a norm must be finite
constexpr int64_t kMaxSplitInt8 = 1 << 15;  // dimensions, so that sums fit into int32

// Rounds up to float32, with a margin for the few operations on a bound.
float round_up(double value) { return static_cast<float>(value * (1 + 1e-6)) + 1e-37f; }

double gamma(double additions) { return additions * kUnit / (1 - additions * kUnit); }

double underflow(int64_t dim) { return (dim + 1) * std::ldexp(1.0, -120); }

// Calls fn(q, scratch) for every query, from several threads. `scratch` has room for two rows.
template <typename Fn>
void for_each_query(const Embeddings& queries, const Fn& fn) {
  parallel_for(0, queries.rows, kQueriesPerThread, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> scratch(new float[2 * queries.padded_dim()]);
    for (int64_t q = begin; q < end; ++q) fn(q, scratch.get());
  });
}

// At least the norms of a query, of what rounding it removes, and of its second part.
struct QueryNorms {
  double query, error, rest;
};

QueryNorms norms_of(const Catalog& catalog, const Embeddings& queries, int64_t q, float* scratch) {
  if (catalog.arithmetic == kFew && catalog.items.storage == kInt8) {
    RowNorms norms;
    float scale;
    queries.to_int16(q, reinterpret_cast<int16_t*>(scratch), &scale, &norms);
    return {double{norms.norm} + norms.error, norms.error, 0.0};
  }
  auto* words = reinterpret_cast<uint32_t*>(scratch);
  RowNorms norms{};
  if (catalog.arithmetic == kFew) {
    queries.to_bfloat16(q, words, nullptr, &norms.norm, &norms.error);
    return {double{norms.norm} + norms.error, 0.0, 0.0};
  }
  if (catalog.rounds) {
    float scale;
    catalog.round_row(queries, q, words, &scale, &norms);
    return {double{norms.norm} + norms.error, norms.error, norms.rest};
  }
  queries.copy_row(q, scratch);
  float* rounded = scratch + queries.padded_dim();
  const float scale = round_query(catalog, scratch, queries.dim, rounded);
  constexpr int64_t kSums = 8;  // so that the loop is vectorized
  double squares[kSums] = {}, errors[kSums] = {};
  std::fill(scratch + queries.dim, rounded, 0.0f);
  std::fill(rounded + queries.dim, rounded + queries.padded_dim(), 0.0f);
  for (int64_t j = 0; j < queries.padded_dim(); j += kSums)
    for (int64_t i = 0; i < kSums; ++i) {
      const double value = scratch[j + i], off = value - double{scale} * rounded[j + i];
      squares[i] += value * value;
      errors[i] += off * off;
    }
  return {std::sqrt(std::accumulate(squares, squares + kSums, 0.0)),
          std::sqrt(std::accumulate(errors, errors + kSums, 0.0)), 0.0};
}

// Whether kFew can read the rows of a quantized table.
bool has_few_kernel(const Catalog& quantized) {
  return quantized.items.storage != kInt8 ||
         (level().score_few_int8[0] && quantized.items.dim <= kMaxInt8Dim);
}

bool has_amx() { return level().wide[kSplit].score != nullptr; }

// Whether items may be approximated by kFew, and by what AMX multiplies.
bool has_approximations(const Catalog& exact) {
  return exact.arithmetic == kFloat && exact.items.storage != kInt8 && 0 < exact.items.dim &&
         exact.items.dim < (1 << 20);
}

}  // namespace

Approximation::Approximation(Catalog given, const Embeddings& queries)
    : catalog(std::move(given)),
      slope_norm(queries.rows),
      slope_error(queries.rows),
      slope_rest(queries.rows),
      constant(queries.rows) {
  catalog.settles = false;
  const int64_t dim = queries.dim;
  const bool is_split = catalog.arithmetic == kSplit;
  // How many additions a product goes through, but for 24. In tiles these are up to 17 within an
  // instruction and one in each later one, for 32 dimensions; kBFloat16Pairs may have no tiles.
  const int64_t additions = catalog.arithmetic == kFloat16Pairs ? dim / 32 : dim;
  const double exact = gamma(dim + 1), approximate = gamma((is_split ? 3 : 1) * additions + 24);
  const double lost = underflow(dim);
  for_each_query(queries, [&](int64_t q, float* scratch) {
    const auto [norm, error, rest] = norms_of(catalog, queries, q, scratch);
    if (catalog.arithmetic == kSplitInt8) {
      // The sums are at most (|q^| + 2 |s b / 256|) times the same of the item.
      const double rounded = gamma(8) * (norm + error + 2 * rest);
      slope_norm[q] = round_up(error + exact * norm + rounded + lost);
      slope_error[q] = round_up(norm * (1 + exact));
      slope_rest[q] = round_up(rest + 2 * rounded);
    } else if (catalog.arithmetic == kThreeInt8) {
      slope_norm[q] = round_up(exact * norm + lost);
      slope_error[q] = round_up(norm * (1 + exact));
      slope_rest[q] = round_up(std::ldexp(rest, -19));
    } else if (is_split) {
      const double left_out = 3.1 * std::ldexp(1.0, -16);
      slope_norm[q] = round_up(norm * (left_out + exact + 1.02 * approximate) + lost);
      slope_error[q] = slope_norm[q];
    } else {
      slope_norm[q] = round_up(error + exact * norm + approximate * (norm + error) + lost);
      slope_error[q] = round_up(norm * (1 + exact));
    }
    constant[q] = round_up(lost * (1 + norm));
  });
}

std::optional<Refinement> Refinement::find(const Catalog& exact, const Embeddings& queries,
                                           const Catalog* quantized, int64_t k) {
  std::optional<Refinement> result;
  const bool approximates = has_amx() || queries.rows <= kMaxFewQueries;
  if (quantized || (approximates && has_approximations(exact)))
    result.emplace(exact, queries, quantized, k);
  if (result && result->approximations_.empty()) result.reset();
  return result;
}

Refinement::Refinement(const Catalog& exact, const Embeddings& queries, const Catalog* quantized,
                       int64_t k)
    : exact_(exact),
      queries_(queries),
      padded_dim_(queries.padded_dim()),
      query_words_(make_words(queries.rows * padded_dim_)),
      query_norms_(queries.rows),
      rounding_(queries.rows),
      rounding_constant_(queries.rows) {
  const int64_t dim = queries.dim;
  if (quantized) {
    check(exact.items.rows == quantized->items.rows, "source has ", exact.items.rows,
          " rows, table ", quantized->items.rows);
    check(exact.arithmetic == kFloat,
          "query must be float32 with refine=True; convert it with query.float()");
    check(dim < (1 << 22), "refine=True needs less than ", 1 << 22, " dimensions, got ", dim);
  }
  for_each_query(queries, [&](int64_t q, float* scratch) {
    float* query = reinterpret_cast<float*>(query_words_.get()) + q * padded_dim_;
    queries.copy_row(q, query);
    RowNorms norms;
    auto* words = reinterpret_cast<uint32_t*>(scratch);
    queries.to_bfloat16(q, words, nullptr, &norms.norm, &norms.error);
    const float norm = query_norms_[q] = round_up(double{norms.norm} + norms.error);
    // dot_rows has kStep partial sums, which it adds pairwise.
    rounding_[q] = round_up((gamma(dim + 1) + (dim / kStep + 7) * 2 * kUnit) * norm);
    rounding_constant_[q] = round_up(underflow(dim) * (1 + norm));
  });
  if (quantized) {
    const std::vector<float>& norms = query_norms_;
    const int64_t q =
        std::find_if_not(norms.begin(), norms.end(), [](float norm) { return norm < kHuge; }) -
        norms.begin();
    check(q == queries.rows, "query: row ", q, " has NaN, infinite or huge values (its norm is ",
          "not below ", kHuge, "), which refine=True cannot bound; fix it, or pass refine=False");
  }
  add_approximations(quantized, k);
}

void Refinement::add_approximations(const Catalog* quantized, int64_t k) {
  const auto num_items = static_cast<float>(std::max<int64_t>(exact_.items.rows, 1));
  const float exact = scoring_cost(exact_, queries_.rows);
  approximations_.reserve(4);
  const auto add = [&](const Catalog& way) {
    if (way.arithmetic == kFloat) return;  // as the source's: it would only be less to read
    const float expected = expected_rescoring(way, k);
    const float bounding = bounding_cost(way, queries_.rows) / num_items;
    if (scoring_cost(way, queries_.rows) + expected + bounding >= exact) return;
    approximations_.emplace_back(way, queries_);
    approximations_.back().expected = expected;
  };
  const auto add_source = [&](Arithmetic arithmetic) {
    add(Catalog(exact_, arithmetic, queries_));
  };
  const bool is_few = queries_.rows <= kMaxFewQueries, approximates = has_approximations(exact_);
  // Few queries gain by a copy what there is less to read: nothing, if the source is in the cache.
  // For more, int8 leaves many more pairs undecided than bfloat16, which costs AMX little more.
  const bool takes_source = approximates && (is_few || has_amx()) && is_cached(exact_.items);
  if (is_few && approximates) {
    add_source(kFew);
    if (quantized && !takes_source)
      add(has_few_kernel(*quantized) ? Catalog(*quantized, kFew, queries_) : *quantized);
    return;
  }
  const bool splits = has_amx() && approximates;
  const bool copies_bfloat16 = quantized && quantized->arithmetic == kBFloat16Pairs;
  if (quantized && !(splits && quantized->arithmetic == kInt8Quads &&
                     (takes_source || (k == 0 && queries_.rows > kMaxLanes))))
    add(*quantized);
  if (!splits) return;
  // Products of parts come no closer than those of float16 as it is.
  if (exact_.items.storage == kFloat16 && queries_.storage == kFloat16 &&
      level().wide[kFloat16Pairs].score)
    return add_source(kFloat16Pairs);
  if (!copies_bfloat16) add_source(kBFloat16Pairs);
  add_source(k == 0 && queries_.dim <= kMaxSplitInt8 ? kSplitInt8 : kSplit);
}

bool Refinement::is_bounded(const Block& block) const {
  const auto first = query_norms_.begin() + block.first_query;
  return std::all_of(first, first + block.num_queries, [](float norm) { return norm < kHuge; });
}

bool Approximation::is_bounded(const Block& block) const {
  const auto first = slope_error.begin() + block.first_query;
  return std::all_of(first, first + block.num_queries, [](float norm) { return norm < kHuge; });
}

void Refinement::score(int64_t q, int64_t first, const int64_t* items, int64_t n,
                       float* scores) const {
  const Embeddings& source = exact_.items;
  const bool copied = source.storage != kFloat32;
  constexpr int64_t kAtOnce = 64;
  const int64_t at_once = copied ? 16 : kAtOnce;
  std::vector<float> copies(copied ? at_once * padded_dim_ : 0);
  const float* rows[kAtOnce];
  for (int64_t i = 0; i < n; i += at_once) {
    const int64_t m = std::min(at_once, n - i);
    for (int64_t j = 0; j < m; ++j) {
      const int64_t id = first + items[i + j];
      if (copied) source.copy_row(id, copies.data() + j * padded_dim_);
      rows[j] =
          copied ? copies.data() + j * padded_dim_ : static_cast<const float*>(source.row(id));
    }
    level().sequential_dot(query(q), rows, m, source.dim, scores + i);
    for (int64_t j = 0; j < m; ++j)
      if (!is_finite(scores[i + j])) scores[i + j] = float64_score(query(q), rows[j], source.dim);
  }
}

const float* Refinement::item(int64_t id, std::vector<float>& copy) const {
  if (!copies_items()) return static_cast<const float*>(exact_.items.row(id));
  copy.resize(padded_dim_);
  exact_.items.copy_row(id, copy.data());
  return copy.data();
}

}  // namespace rl4rec
