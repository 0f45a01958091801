// Exact results at nearly the cost of a quantized table.
#pragma once

#include <cmath>

#include "cpu/candidates.h"
#include "cpu/catalog.h"

namespace rl4rec {

// Scores of quantized items bound the scores of the items themselves. With q^ and t^ for the
// quantized query and item, u = 2^-24 and g = D u / (1 - D u) (Higham 2002, section 3.1):
//
//   |fl(q.t) - fl(q^.t^)| <= |q.t - q^.t^| + |fl(q.t) - q.t| + |fl(q^.t^) - q^.t^|
//                         <= |q - q^| |t^| + |q| |t - t^|          (Cauchy-Schwarz, norms)
//                            + g |q| (|t^| + |t - t^|) + g' (|q| + |q - q^|) |t^|
//
// where g' covers the additions of the quantized score and its scaling. So if an item's quantized
// score differs from the target's score by more than this bound, the item is certainly above or
// below it. The others are rescored, exactly. A constant covers underflow.
class Refinement {
 public:
  // `quantized` is made of `source` by quantize_table, which checks that all values are finite.
  Refinement(const Catalog& quantized, const Embeddings& queries, const Tensor& source);

  const Catalog& source() const { return source_; }

  // Adds to `counts` what the queries of a block (in `panels`) find among its items.
  void count_block(const Exclusions& exclusions, const Panels& panels, const Block& block,
                   const float* target_scores, Counts& counts) const;

  // How far a quantized score may be from the float32 `score`, for query q and items whose norm and
  // error are at most these.
  float bound(int64_t q, float norm, float error, float score) const {
    return slope_norm_[q] * norm + slope_error_[q] * error + constant_[q] +
           4e-7f * std::fabs(score);  // of adding it and subtracting from it
  }
  // The same, for any score that such items may have.
  float bound_of_any(int64_t q, float norm, float error) const {
    return bound(q, norm, error, slope_error_[q] * (norm + error));
  }
  // How far the scores of dot_rows and of a tile may differ for one pair.
  float rounding(int64_t q, float norm, float error) const {
    return rounding_[q] * (norm + error) + constant_[q];
  }
  // The scores of query q and the rows first + items[i] of the source, as rank_catalog computes
  // them.
  void score(int64_t q, int64_t first, const int64_t* items, int64_t n, float* scores) const;

 private:
  const float* query(int64_t q) const { return queries_.data() + q * padded_dim_; }
  // An item as float32, padded to whole steps. `copy` is used if it is not stored that way.
  const float* source_row(int64_t id, std::vector<float>& copy) const;

  const Catalog& quantized_;
  const Catalog source_;
  int64_t padded_dim_;
  std::vector<float> queries_;  // as float32
  std::vector<float> slope_norm_, slope_error_, rounding_, constant_;
};

}  // namespace rl4rec
