#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>

namespace rl4rec {

// The best k items of every query: scores float32 [B, k] and ids int64 [B, k], filled up with -inf
// and -1. Arguments are as in rank_catalog.
std::tuple<torch::stable::Tensor, torch::stable::Tensor> topk_catalog(
    const torch::stable::Tensor& query, const torch::stable::Tensor& table, int64_t k,
    const std::optional<torch::stable::Tensor>& exclude,
    const std::optional<torch::stable::Tensor>& exclude_offsets,
    const std::optional<torch::stable::Tensor>& valid,
    const std::optional<torch::stable::Tensor>& row_stats,
    const std::optional<torch::stable::Tensor>& source);

}  // namespace rl4rec
