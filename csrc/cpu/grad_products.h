// The two products of the gradients of log_prob_catalog: a block of derivatives w of the scores
// times the items, and its transpose times the queries.
#pragma once

#include <algorithm>

#include "cpu/catalog.h"

namespace rl4rec {

inline int64_t divide_up(int64_t n, int64_t divisor) { return (n + divisor - 1) / divisor; }

inline float* floats(const AlignedWords& words) { return reinterpret_cast<float*>(words.get()); }

// What the threads of a call share. Products are computed in tiles of `rows` by `lanes`.
class ProductShape {
 public:
  ProductShape(const Embeddings& queries, bool needs_table);

  // Sums of queries are [panel of lanes queries, dim_rows, lane], those of items are [item,
  // sums_stride].
  int64_t num_query_sums() const { return divide_up(queries.rows, lanes) * lanes * dim_rows; }
  int64_t sums_stride() const { return dim_panels * lanes; }

  const Embeddings& queries;
  const bool is_split;  // by AMX, with two bfloat16 for each float
  const int64_t rows, lanes, vector_lanes;
  const int64_t dim_rows, dim_panels;
  // The queries of every block with the values of a dimension in one lane. Split queries have two
  // parts.
  AlignedWords query_panels[2];

 private:
  void pack();
  void pack_split();
};

// What one thread needs. A block has up to kItems rows of the table and kQueries queries, which
// every tile divides. Its items are the valid rows, by their place among them.
class GradProducts {
 public:
  static constexpr int64_t kItems = 384, kQueries = 256;

  GradProducts(const ProductShape& shape, const Catalog& catalog, bool needs_query,
               bool needs_table);

  // Begins with the valid rows of [begin, end). Items that are not finite, which may be excluded
  // for some queries, are left to `special`.
  void load_items(int64_t begin, int64_t end);
  int64_t num_items() const { return static_cast<int64_t>(ids_.size()); }
  int64_t id(int64_t item) const { return ids_[item]; }
  // The place of a valid row.
  int64_t find(int64_t id) const {
    return std::lower_bound(ids_.begin(), ids_.end(), id) - ids_.begin();
  }
  // The sums of an item.
  const float* item_sums(int64_t item) const {
    return floats(item_sums_) + item * shape_.sums_stride();
  }

  // Begins with the queries [first, last), whose w is set by tile: [num_rows, lanes] of the items
  // from `item` and the queries from `query` on. Lanes without a query are overwritten.
  void load_queries(int64_t first, int64_t last);
  void set_tile(int64_t item, int64_t num_rows, int64_t query, int64_t lanes, float* tile);
  // Replaces one weight.
  void set(int64_t item, int64_t query, float weight);

  // Adds the products with w to the sums of queries, unless that is null, and to those of items.
  // Sums that begin here need no values before.
  void add(float* query_sums, bool query_begins, bool item_begins);
  // Adds the products of one weight, exactly.
  void add_pair(int64_t item, int64_t query, float weight, float* query_sums);

 private:
  static constexpr int64_t kPadding = 32;  // rows a power of two apart would share cache sets
  static constexpr int64_t kStride = kQueries + kPadding, kColumnStride = kItems + kPadding;

  int64_t num_queries() const { return last_ - first_; }
  void load_columns();
  void pack_weights();
  void clear_padding();
  float weight(int64_t item, int64_t query) const;
  void add_items(int64_t panel, float* sums, bool begins);
  void add_queries(bool begins);
  void add_special(float* query_sums);

  const ProductShape& shape_;
  const Catalog& catalog_;
  const bool needs_query_, needs_table_;
  const int
      num_parts_;  // of w: one, if gradients are rounded to bfloat16 and large w are not in it
  int64_t first_ = 0, last_ = 0;      // queries of the block
  std::vector<int64_t> ids_;          // of its items
  AlignedWords weights_, item_sums_;  // w by item, if it is not split
  AlignedWords weight_rows_[2];       // the parts of w, by item
  AlignedWords weight_panels_[2];     // w by vector of queries; its parts in words of two items
  AlignedWords columns_, column_parts_[2];  // items, with the values of one dimension side by side
  std::vector<int64_t> special_;
};

}  // namespace rl4rec
