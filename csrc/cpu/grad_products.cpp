#include "cpu/grad_products.h"

#include <algorithm>
#include <cstring>

#include "cpu/tuning.h"

namespace rl4rec {
namespace {

bool is_finite_row(const float* values, int64_t n) {
  constexpr uint32_t kExponent = 0x7f800000;
  uint32_t special = 0;
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, sizeof(bits));
    special |= (bits & kExponent) == kExponent;
  }
  return special == 0;
}

int64_t round_up(int64_t n, int64_t multiple) { return divide_up(n, multiple) * multiple; }

uint16_t* halves(const AlignedWords& words) { return reinterpret_cast<uint16_t*>(words.get()); }

// Words of a panel's vector of queries, for a block of queries or items.
constexpr int64_t vector_words(int64_t block) { return block / 2 * kProductVector; }

// Where a split panel of w has the weight of an item and a query of the block.
constexpr int64_t panel_half(int64_t item, int64_t query) {
  return 2 * (query / kProductVector * vector_words(GradProducts::kItems) +
              item / 2 * kProductVector + query % kProductVector) +
         item % 2;
}

}  // namespace

ProductShape::ProductShape(const Embeddings& queries, bool needs_table)
    : queries(queries),
      is_split(level().products.add_products != nullptr),
      rows(is_split ? kProductRows : level().wide[kFloat].rows),
      lanes(is_split ? kProductLanes : level().wide[kFloat].lanes),
      vector_lanes(is_split ? kProductVector : level().wide[kFloat].vector_lanes),
      dim_rows(round_up(queries.dim, rows)),
      dim_panels(divide_up(queries.dim, lanes)) {
  if (needs_table) is_split ? pack_split() : pack();
}

void ProductShape::pack() {
  query_panels[0] = make_words(queries.rows * sums_stride());
  parallel_for(0, queries.rows, kQueriesPerThread, [&](int64_t begin, int64_t end) {
    std::vector<float> row(queries.padded_dim() + lanes);
    for (int64_t q = begin; q < end; ++q) {
      queries.copy_row(q, row.data());
      const int64_t first = q / GradProducts::kQueries * GradProducts::kQueries;
      const int64_t words = std::min(first + GradProducts::kQueries, queries.rows) - first;
      float* to = floats(query_panels[0]) + first * sums_stride();
      for (int64_t v = 0; v < sums_stride() / vector_lanes; ++v)
        std::copy_n(&row[v * vector_lanes], vector_lanes,
                    to + (v * words + q - first) * vector_lanes);
    }
  });
}

void ProductShape::pack_split() {
  constexpr int64_t kVector = vector_words(GradProducts::kQueries);
  const int64_t block_words = sums_stride() / kProductVector * kVector;
  const int64_t num_blocks = divide_up(queries.rows, GradProducts::kQueries);
  for (AlignedWords& part : query_panels) part = make_words(num_blocks * block_words);
  parallel_for(0, divide_up(queries.rows, 2), kQueriesPerThread, [&](int64_t begin, int64_t end) {
    const int64_t padded = std::max(queries.padded_dim(), sums_stride());
    std::vector<float> two(2 * padded);
    for (int64_t pair = begin; pair < end; ++pair) {
      for (int64_t j = 0; j < 2; ++j) {
        const int64_t q = 2 * pair + j;
        if (q < queries.rows)
          queries.copy_row(q, &two[j * padded]);
        else
          std::fill_n(&two[j * padded], padded, 0.0f);
      }
      const int64_t block = 2 * pair / GradProducts::kQueries;
      const int64_t to = block * block_words + pair % (GradProducts::kQueries / 2) * kProductVector;
      level().splits.split_pairs(two.data(), &two[padded], sums_stride(),
                                 query_panels[0].get() + to, query_panels[1].get() + to, kVector);
    }
  });
  if (queries.storage == kBFloat16) query_panels[1].reset();
}

GradProducts::GradProducts(const ProductShape& shape, const Catalog& catalog, bool needs_query,
                           bool needs_table)
    : shape_(shape),
      catalog_(catalog),
      needs_query_(needs_query),
      needs_table_(needs_table),
      num_parts_(shape.queries.storage == kBFloat16 && catalog.items.storage == kBFloat16 ? 1 : 2) {
  if (needs_table) item_sums_ = make_words((kItems + shape.rows) * shape.sums_stride());
  if (!shape.is_split) {
    weights_ = make_words((kItems + shape.rows) * kStride);
    if (needs_query) columns_ = make_words(shape.dim_rows * kColumnStride);
    if (needs_query) weight_panels_[0] = make_words(kItems * kQueries);
    return;
  }
  for (int part = 0; part < num_parts_; ++part) {
    if (needs_table) weight_rows_[part] = make_words(kItems * kStride / 2);
    if (!needs_query) continue;
    weight_panels_[part] = make_words(kQueries / kProductVector * vector_words(kItems));
  }
  const int num_column_parts = catalog.items.storage == kBFloat16 ? 1 : 2;
  for (int part = 0; needs_query && part < num_column_parts; ++part)
    column_parts_[part] = make_words(shape.dim_rows * kColumnStride / 2);
}

void GradProducts::load_items(int64_t begin, int64_t end) {
  ids_.clear();
  for (int64_t id = begin; id < end; ++id)
    if (catalog_.is_valid(id)) ids_.push_back(id);
  if (needs_query_) load_columns();
}

void GradProducts::load_columns() {
  constexpr int64_t kAtOnce = kProductVector;
  const Embeddings& items = catalog_.items;
  const int64_t padded = items.padded_dim();
  special_.clear();
  std::vector<float> rows(kAtOnce * padded);
  for (int64_t i = 0; i < round_up(num_items(), kProductStep); i += kAtOnce) {
    for (int64_t j = 0; j < kAtOnce; ++j) {
      float* row = &rows[j * padded];
      if (i + j < num_items()) {
        items.copy_row(ids_[i + j], row);
        if (is_finite_row(row, items.dim)) continue;
        special_.push_back(i + j);
      }
      std::fill_n(row, padded, 0.0f);
    }
    if (shape_.is_split) {
      uint16_t* second = column_parts_[1] ? halves(column_parts_[1]) + i : nullptr;
      level().splits.split_columns(rows.data(), padded, padded, halves(column_parts_[0]) + i,
                                   second, kColumnStride);
      continue;
    }
    for (int64_t d = 0; d < items.dim; ++d)
      for (int64_t j = 0; j < kAtOnce; ++j)
        floats(columns_)[d * kColumnStride + i + j] = rows[j * padded + d];
  }
}

void GradProducts::load_queries(int64_t first, int64_t last) {
  first_ = first;
  last_ = last;
}

void GradProducts::set_tile(int64_t item, int64_t num_rows, int64_t query, int64_t lanes,
                            float* tile) {
  const int64_t n = std::min(lanes, last_ - query), to = query - first_;
  if (!shape_.is_split) {
    for (int64_t r = 0; r < num_rows; ++r)
      std::memcpy(floats(weights_) + (item + r) * kStride + to, tile + r * lanes, 4 * n);
    return;
  }
  for (int64_t r = 0; n < lanes && r < num_rows; ++r)
    std::fill(tile + r * lanes + n, tile + (r + 1) * lanes, 0.0f);
  if (num_rows % 2 != 0) std::fill_n(tile + num_rows * lanes, lanes, 0.0f);
  alignas(64) float wide[kMaxTileRows * kProductVector];
  if (lanes < kProductVector) {  // of a level with short vectors, for few queries
    std::fill_n(wide, round_up(num_rows, 2) * kProductVector, 0.0f);
    for (int64_t r = 0; r < num_rows; ++r)
      std::copy_n(tile + r * lanes, lanes, wide + r * kProductVector);
    tile = wide;
    lanes = kProductVector;
  }
  SplitTile parts{{}, {}, kStride, vector_words(kItems)};
  for (int part = 0; part < num_parts_; ++part) {
    if (needs_table_) parts.rows[part] = halves(weight_rows_[part]) + item * kStride + to;
    if (needs_query_)
      parts.panel[part] = weight_panels_[part].get() + to / kProductVector * vector_words(kItems) +
                          item / 2 * kProductVector;
  }
  level().splits.split_tile(tile, round_up(num_rows, 2), lanes, parts);
}

void GradProducts::set(int64_t item, int64_t query, float weight) {
  const int64_t to = query - first_;
  if (!shape_.is_split) {
    floats(weights_)[item * kStride + to] = weight;
    return;
  }
  const float values[kProductVector] = {weight};
  uint16_t parts[2][kProductVector];
  level().splits.split(values, kProductVector, parts[0], parts[1]);
  for (int part = 0; part < num_parts_; ++part) {
    if (needs_table_) halves(weight_rows_[part])[item * kStride + to] = parts[part][0];
    if (needs_query_) halves(weight_panels_[part])[panel_half(item, to)] = parts[part][0];
  }
}

float GradProducts::weight(int64_t item, int64_t query) const {
  const int64_t from = query - first_;
  if (!shape_.is_split) return floats(weights_)[item * kStride + from];
  float sum = 0.0f;
  for (int part = 0; part < num_parts_; ++part) {
    const uint32_t bits = uint32_t{halves(weight_panels_[part])[panel_half(item, from)]} << 16;
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    sum += value;
  }
  return sum;
}

void GradProducts::add(float* query_sums, bool query_begins, bool item_begins) {
  if (shape_.is_split)
    clear_padding();
  else if (query_sums)
    pack_weights();
  for (int64_t panel = 0; query_sums && panel * shape_.lanes < num_queries(); ++panel)
    add_items(panel, query_sums + (first_ + panel * shape_.lanes) * shape_.dim_rows, query_begins);
  if (query_sums) add_special(query_sums);
  if (needs_table_) add_queries(item_begins);
}

void GradProducts::add_pair(int64_t item, int64_t query, float weight, float* query_sums) {
  const Embeddings &items = catalog_.items, &queries = shape_.queries;
  const void *item_row = items.row(ids_[item]), *query_row = queries.row(query);
  const auto& add_rows = level().rows.add_rows;
  if (query_sums) {
    std::vector<float> product(items.padded_dim());
    add_rows[items.storage](product.data(), &weight, &item_row, 1, items.dim);
    float* sums = query_sums + query / shape_.lanes * shape_.lanes * shape_.dim_rows;
    for (int64_t d = 0; d < items.dim; ++d)
      sums[d * shape_.lanes + query % shape_.lanes] += product[d];
  }
  if (needs_table_)
    add_rows[queries.storage](floats(item_sums_) + item * shape_.sums_stride(), &weight, &query_row,
                              1, queries.dim);
}

// Makes the vectors of w's panels.
void GradProducts::pack_weights() {
  const int64_t width = shape_.vector_lanes;
  for (int64_t v = 0; v * width < num_queries(); ++v)
    for (int64_t i = 0; i < num_items(); ++i)
      std::memcpy(floats(weight_panels_[0]) + (v * num_items() + i) * width,
                  floats(weights_) + i * kStride + v * width, 4 * width);
}

// Zeros up to whole steps of the sums over queries and over items.
void GradProducts::clear_padding() {
  const int64_t queries = round_up(num_queries(), kProductStep) - num_queries();
  const int64_t pairs = divide_up(num_items(), 2);
  const int64_t more_pairs = round_up(num_items(), kProductStep) / 2 - pairs;
  for (int part = 0; part < num_parts_; ++part) {
    for (int64_t i = 0; needs_table_ && queries > 0 && i < num_items(); ++i)
      std::memset(halves(weight_rows_[part]) + i * kStride + num_queries(), 0, 2 * queries);
    for (int64_t v = 0; needs_query_ && v * kProductVector < num_queries(); ++v)
      std::memset(weight_panels_[part].get() + v * vector_words(kItems) + pairs * kProductVector, 0,
                  4 * more_pairs * kProductVector);
  }
}

// Adds w times the items to the sums of a panel's queries.
void GradProducts::add_items(int64_t panel, float* sums, bool begins) {
  const int64_t lanes = shape_.lanes, rows = shape_.rows;
  if (shape_.is_split) {
    const int64_t from = panel * lanes / kProductVector * vector_words(kItems);
    const uint32_t* parts[2] = {};
    for (int part = 0; part < num_parts_; ++part) parts[part] = weight_panels_[part].get() + from;
    for (int64_t d = 0; d < shape_.dim_rows; d += rows) {
      const uint16_t* columns[2] = {};
      for (int part = 0; part < 2 && column_parts_[part]; ++part)
        columns[part] = halves(column_parts_[part]) + d * kColumnStride;
      level().products.add_products(columns, kColumnStride, parts, vector_words(kItems),
                                    round_up(num_items(), kProductStep), begins, sums + d * lanes,
                                    lanes);
    }
    return;
  }
  float products[kMaxTileScores];
  const auto* weights = weight_panels_[0].get() + panel * lanes * num_items();
  for (int64_t d = 0; d < shape_.dim_rows; d += rows) {
    level().wide[kFloat].score(weights, columns_.get() + d * kColumnStride, 4 * kColumnStride,
                               num_items(), {}, products);
    for (int64_t i = 0; i < rows * lanes; ++i)
      sums[d * lanes + i] = products[i] + (begins ? 0.0f : sums[d * lanes + i]);
  }
}

void GradProducts::add_special(float* query_sums) {
  const Embeddings& items = catalog_.items;
  const int64_t lanes = shape_.lanes;
  std::vector<float> row(items.padded_dim());
  for (const int64_t item : special_) {
    items.copy_row(ids_[item], row.data());
    for (int64_t q = first_; q < last_; ++q) {
      const float scale = weight(item, q);
      float* sums = query_sums + q / lanes * lanes * shape_.dim_rows + q % lanes;
      for (int64_t d = 0; scale != 0.0f && d < items.dim; ++d) sums[d * lanes] += scale * row[d];
    }
  }
}

// Adds w's transpose times the queries to the sums of the items.
void GradProducts::add_queries(bool begins) {
  const int64_t lanes = shape_.lanes, rows = shape_.rows, stride = shape_.sums_stride();
  if (shape_.is_split) {
    constexpr int64_t kVector = vector_words(kQueries);
    const int64_t from = first_ / kQueries * stride / kProductVector * kVector;
    for (int64_t i = 0; i < num_items(); i += rows)
      for (int64_t panel = 0; panel < shape_.dim_panels; ++panel) {
        const uint16_t* parts[2] = {};
        for (int part = 0; part < num_parts_; ++part)
          parts[part] = halves(weight_rows_[part]) + i * kStride;
        const int64_t at = from + panel * lanes / kProductVector * kVector;
        const uint32_t* second = shape_.query_panels[1].get();
        const uint32_t* queries[2] = {shape_.query_panels[0].get() + at,
                                      second ? second + at : nullptr};
        level().products.add_products(parts, kStride, queries, kVector,
                                      round_up(num_queries(), kProductStep), begins,
                                      floats(item_sums_) + i * stride + panel * lanes, stride);
      }
    return;
  }
  float products[kMaxTileScores];
  for (int64_t panel = 0; panel < shape_.dim_panels; ++panel) {
    const auto* values =
        shape_.query_panels[0].get() + first_ * stride + panel * num_queries() * lanes;
    for (int64_t i = 0; i < num_items(); i += rows) {
      level().wide[kFloat].score(values, weights_.get() + i * kStride, 4 * kStride, num_queries(),
                                 {}, products);
      for (int64_t r = 0; r < rows; ++r) {
        float* sums = floats(item_sums_) + (i + r) * stride + panel * lanes;
        for (int64_t l = 0; l < lanes; ++l)
          sums[l] = products[r * lanes + l] + (begins ? 0.0f : sums[l]);
      }
    }
  }
}

}  // namespace rl4rec
