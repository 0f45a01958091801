#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>

namespace rl4rec {

// `ids` is [B, C], or the values of ragged rows that `offsets` [B + 1] delimits.
torch::stable::Tensor score_candidates(const torch::stable::Tensor& query,
                                       const torch::stable::Tensor& table,
                                       const torch::stable::Tensor& ids,
                                       const std::optional<torch::stable::Tensor>& offsets);

torch::stable::Tensor score_candidates_grad_query(
    const torch::stable::Tensor& grad, const torch::stable::Tensor& query,
    const torch::stable::Tensor& table, const torch::stable::Tensor& ids,
    const std::optional<torch::stable::Tensor>& offsets);

torch::stable::Tensor score_candidates_grad_table(
    const torch::stable::Tensor& grad, const torch::stable::Tensor& query,
    const torch::stable::Tensor& table, const torch::stable::Tensor& ids,
    const std::optional<torch::stable::Tensor>& offsets);

}  // namespace rl4rec
