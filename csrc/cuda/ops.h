#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>
#include <vector>

namespace rl4rec {

using torch::stable::Tensor;

// As the operators of these names for the CPU (csrc/cpu), except that bad values raise no error:
// they set bits of `bad`, int32 [1] and 0 before: 1 for an id that is not in the table or a row
// without a target, 2 for offsets that do not start at 0, fall, or do not end at the number of
// values. Results that such values reach are NaN, counts -1. Nothing waits for the device.
Tensor score_candidates(const Tensor& query, const Tensor& table, const Tensor& ids,
                        const std::optional<Tensor>& offsets, Tensor bad);

std::tuple<Tensor, Tensor, Tensor> rank_candidates(const Tensor& query, const Tensor& table,
                                                   const Tensor& ids,
                                                   const std::optional<Tensor>& offsets,
                                                   Tensor bad);

Tensor reward_candidates(const Tensor& query, const Tensor& table, const Tensor& ids,
                         const std::optional<Tensor>& offsets, const std::vector<int64_t>& kinds,
                         const std::vector<int64_t>& cutoffs, int64_t ties, Tensor bad);

// Row s of the result is the sum over j from offsets[s] to offsets[s + 1] of
// weights[p] * rows[index[p]] with p = order[j], or p = j without `order`; weights and index are
// read as lists, whatever their shape. Added in float32, in an order that depends on the length of
// the segment only; the result has the shape and the dtype of `like`. Terms whose index is no row
// are left out. Both gradients of score_candidates are such sums.
Tensor weighted_segment_sum(const Tensor& weights, const Tensor& rows, const Tensor& index,
                            const std::optional<Tensor>& order, const Tensor& offsets,
                            const Tensor& like);

}  // namespace rl4rec
