#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>

namespace rl4rec {

// (above, tied, total), each int64 [B]. `ids` and `offsets` are as in score_candidates.
std::tuple<torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor> rank_candidates(
    const torch::stable::Tensor& query, const torch::stable::Tensor& table,
    const torch::stable::Tensor& ids, const std::optional<torch::stable::Tensor>& offsets);

}  // namespace rl4rec
