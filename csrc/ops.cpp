// Registers the operators torch.ops.rl4rec.*. Their Python side (checks, fake implementations,
// gradients) stands in rl4rec_kernels/ops/, one file an operator.
#include <torch/csrc/stable/library.h>

#include "cpu/dispatch.h"
#include "cpu/rank_candidates.h"
#include "cpu/rank_catalog.h"
#include "cpu/reward_candidates.h"
#include "cpu/score_candidates.h"
#include "cpu/topk_catalog.h"

STABLE_TORCH_LIBRARY(rl4rec, m) {
  m.def("score_candidates(Tensor query, Tensor table, Tensor ids, Tensor? offsets) -> Tensor");
  m.def(
      "score_candidates_grad_query(Tensor grad, Tensor query, Tensor table, Tensor ids, "
      "Tensor? offsets) -> Tensor");
  m.def(
      "score_candidates_grad_table(Tensor grad, Tensor query, Tensor table, Tensor ids, "
      "Tensor? offsets) -> Tensor");
  m.def(
      "rank_candidates(Tensor query, Tensor table, Tensor ids, Tensor? offsets) -> "
      "(Tensor above, Tensor tied, Tensor total)");
  m.def(
      "reward_candidates(Tensor query, Tensor table, Tensor ids, Tensor? offsets, int[] kinds, "
      "int[] cutoffs, int ties) -> Tensor");
  m.def(
      "rank_catalog(Tensor query, Tensor table, Tensor targets, Tensor? exclude, "
      "Tensor? exclude_offsets, Tensor? valid, Tensor? row_stats, Tensor? source, "
      "Tensor? target_scores) -> (Tensor above, Tensor tied, Tensor total)");
  m.def(
      "score_catalog_targets(Tensor query, Tensor table, Tensor targets, Tensor? row_stats) -> "
      "Tensor");
  m.def(
      "reward_catalog(Tensor query, Tensor table, Tensor targets, Tensor? exclude, "
      "Tensor? exclude_offsets, Tensor? valid, Tensor? row_stats, Tensor? source, int[] kinds, "
      "int[] cutoffs, int ties) -> Tensor");
  m.def(
      "topk_catalog(Tensor query, Tensor table, int k, Tensor? exclude, Tensor? exclude_offsets, "
      "Tensor? valid, Tensor? row_stats, Tensor? source) -> (Tensor scores, Tensor ids)");
  m.def("cpu_level(str name) -> str");
  m.def("cpu_levels() -> str[]");
}

STABLE_TORCH_LIBRARY_IMPL(rl4rec, CPU, m) {
  m.impl("score_candidates", TORCH_BOX(&rl4rec::score_candidates));
  m.impl("score_candidates_grad_query", TORCH_BOX(&rl4rec::score_candidates_grad_query));
  m.impl("score_candidates_grad_table", TORCH_BOX(&rl4rec::score_candidates_grad_table));
  m.impl("rank_candidates", TORCH_BOX(&rl4rec::rank_candidates));
  m.impl("reward_candidates", TORCH_BOX(&rl4rec::reward_candidates));
  m.impl("rank_catalog", TORCH_BOX(&rl4rec::rank_catalog));
  m.impl("score_catalog_targets", TORCH_BOX(&rl4rec::score_catalog_targets));
  m.impl("reward_catalog", TORCH_BOX(&rl4rec::reward_catalog));
  m.impl("topk_catalog", TORCH_BOX(&rl4rec::topk_catalog));
}

STABLE_TORCH_LIBRARY_IMPL(rl4rec, CompositeExplicitAutograd, m) {
  m.impl("cpu_level", TORCH_BOX(&rl4rec::cpu_level));
  m.impl("cpu_levels", TORCH_BOX(&rl4rec::cpu_levels));
}
