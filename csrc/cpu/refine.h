// Exact results at nearly the cost of cheaper arithmetic.
#pragma once

#include <cmath>

#include "cpu/candidates.h"
#include "cpu/exclusions.h"

namespace rl4rec {

// Approximate scores bound the exact ones. With q^ and t^ for the query and the item as they are
// scored, u = 2^-24 and g = D u / (1 - D u) (Higham 2002, section 3.1):
//
//   |fl(q.t) - fl(q^.t^)| <= |q.t - q^.t^| + |fl(q.t) - q.t| + |fl(q^.t^) - q^.t^|
//                         <= |q - q^| |t^| + |q| |t - t^|          (Cauchy-Schwarz, norms)
//                            + g |q| (|t^| + |t - t^|) + g' (|q| + |q - q^|) |t^|
//
// where g' covers the additions of the approximate score and its scaling. They may be in any order,
// as long as no product goes through more of them than there are dimensions: AMX adds up two chains
// of 16 products, adds one to the other and both to the sum so far.
//
// kSplitInt8 scores q^ = s (a + b / 256) without the product of the two b, which is at most that of
// their norms, |s b / 256| |s' b' / 256|. Its sums are whole numbers; turning them into a score
// takes a few roundings.
//
// kThreeInt8 scores whole numbers a 2^16 + b 2^8 + c times a power of two u, which is at most 1.004
// * 2^-22 max|q_j| for q and rounds each value by u / 2 at most. With M = sqrt(D) max|q_j|, M' for
// t, rounding changes q.t by 1.01 * 2^-22 M M'. The products that are left out are those of b and
// c', c and b', and c and c', at most u u' D (2 * 2^22 + 2^14), which is 1.02 * 2^-21 M M'. The
// three sums are exact, and turning them into a score takes seven roundings of at most 1.1 M M'.
// All that is below 2^-19 M M'.
//
// kFew takes queries as they are, but as int16 if items are int8. kFloat16Pairs takes both as they
// are, and float16 is never lost: products and sums are multiples of 2^-48, which float32 has.
//
// kSplit adds up q1.t1 + q2.t1 + q1.t2, where q1 is q rounded to bfloat16 and q2 is q - q1, rounded
// again, so that |q - q1| <= 2^-8 |q| and |q - q1 - q2| <= 2^-16 |q|, and the same for t. What it
// leaves out is q2.t2 + (q - q1 - q2).t + (q1 + q2).(t - t1 - t2), at most 3.1 * 2^-16 |q| |t|.
//
// So if an item's approximate score differs from the target's score by more than the bound, the
// item is certainly above or below it. The others are rescored, exactly. A constant covers
// underflow, and subnormal numbers, which some instructions take for zero.
struct Approximation {
  Approximation(Catalog catalog, const Embeddings& queries);

  // How far a score may be from the exact `score`, for query q and items whose norms are at most
  // these.
  float bound(int64_t q, const RowNorms& items, float score) const {
    return slope_norm[q] * items.norm + slope_error[q] * items.error + slope_rest[q] * items.rest +
           constant[q] + 4e-7f * std::fabs(score);  // of adding it and subtracting from it
  }
  // The same, for any score that such items may have.
  float bound_of_any(int64_t q, const RowNorms& items) const {
    return bound(q, items, slope_error[q] * (items.norm + items.error));
  }
  // Whether all queries of a block have a bound.
  bool is_bounded(const Block& block) const;

  Catalog catalog;
  float expected = 0.0f;  // cost of rescoring per pair, see expected_rescoring
  // Per query; infinite without a bound.
  std::vector<float> slope_norm, slope_error, slope_rest, constant;
};

// How many pairs were rescored, and how many items they have.
struct Rescored {
  int64_t pairs, items;
};

// The ways to score the items of a call: approximately, and exactly.
class Refinement {
 public:
  // What finds exact results in less time than exact scores of all pairs would take, or nothing.
  // `exact` has the scores that are asked for. `quantized`, if there is one, is made of the same
  // items by quantize_table, which checks that all values are finite; queries must be finite then.
  // `k` is how many best items are asked for; 0 if scores are compared with those of targets.
  static std::optional<Refinement> find(const Catalog& exact, const Embeddings& queries,
                                        const Catalog* quantized, int64_t k = 0);

  Refinement(const Catalog& exact, const Embeddings& queries, const Catalog* quantized, int64_t k);

  const Catalog& exact() const { return exact_; }
  const Embeddings& queries() const { return queries_; }
  const std::vector<Approximation>& approximations() const { return approximations_; }
  // Whether all queries of a block are finite, and not huge.
  bool is_bounded(const Block& block) const;

  // Adds to `counts` what the queries of a block find among its items.
  void count_block(const Exclusions& exclusions, const Block& block, const float* target_scores,
                   Counts& counts) const;

  // The exact scores of query q and the rows first + items[i].
  void score(int64_t q, int64_t first, const int64_t* items, int64_t n, float* scores) const;

 private:
  const float* query(int64_t q) const {
    return reinterpret_cast<const float*>(query_words_.get()) + q * padded_dim_;
  }
  // An item as float32, padded to whole steps. It is written to `copy` if it is not stored that
  // way.
  const float* item(int64_t id, std::vector<float>& copy) const;
  bool copies_items() const {
    return exact_.items.storage != kFloat32 || exact_.items.dim % kStep != 0;
  }
  // Those that may take less time than exact scores.
  void add_approximations(const Catalog* quantized, int64_t k);
  // How far the scores of dot_rows and of a tile may differ for one pair.
  float rounding(int64_t q, const RowNorms& items) const {
    return rounding_[q] * (items.norm + items.error) + rounding_constant_[q];
  }

  const Catalog& exact_;
  const Embeddings& queries_;
  std::vector<Approximation> approximations_;
  int64_t padded_dim_;
  AlignedWords query_words_;        // as float32, padded
  std::vector<float> query_norms_;  // at least; infinite or NaN if a query is not finite, or huge
  std::vector<float> rounding_, rounding_constant_;
};

}  // namespace rl4rec
