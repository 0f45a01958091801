// log_prob_candidates and the derivatives of its scores. Defined in
// rl4rec_kernels/ops/reference.py.
#include "cpu/candidates.h"
#include "cpu/new_tensor.h"
#include "cpu/softmax.h"

namespace rl4rec {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Some candidates of a row. Rows are divided in the same way for any number of threads, because the
// sums of segments are added up.
struct Segment {
  static constexpr int64_t kSize = 4096;
  int64_t row, begin, end;
};

// The candidates of a call as the logits score / temperature - log_q[id].
class Logits {
 public:
  Logits(const CandidateArguments& arguments, const OptionalTensor& log_q, double temperature)
      : arguments_(arguments),
        inverse_(1.0 / temperature),
        id_check_(candidates(), arguments.items.rows, /*needs_target=*/true) {
    for (int64_t row = 0; row < candidates().rows; ++row) {
      const int64_t begin = candidates().begin(row), end = candidates().end(row);
      check(begin < end, "candidates: row ", row,
            " is empty, but its first id must be the target's");
      for (int64_t i = begin; i < end; i += Segment::kSize)
        segments_.push_back({row, i, std::min(i + Segment::kSize, end)});
    }
    if (!log_q) return;
    check(log_q->is_cpu() && log_q->scalar_type() == ScalarType::Float && log_q->dim() == 1 &&
              log_q->size(0) == arguments.items.rows,
          "log_q must be float32 [", arguments.items.rows, "] on the CPU");
    log_q_owner_ = torch::stable::contiguous(*log_q);
    log_q_ = log_q_owner_->const_data_ptr<float>();
  }

  const std::vector<Segment>& segments() const { return segments_; }

  // Calls fn(segment number, indices, logits, n) for up to kChunkSize candidates at a time, from
  // several threads, without padding and repeats of the target. Index 0 is the row's first
  // candidate.
  template <typename Fn>
  void for_each_chunk(const Fn& fn) {
    const Embeddings &queries = arguments_.queries, &items = arguments_.items;
    const int64_t mean = candidates().count / std::max<int64_t>(1, segments_.size()) + 1;
    const int64_t grain = kMultiplicationsPerThread / (mean * std::max<int64_t>(1, queries.dim));
    const int64_t count = static_cast<int64_t>(segments_.size());
    parallel_for(0, count, std::max<int64_t>(1, grain), [&](int64_t first, int64_t last) {
      std::vector<float> query(queries.padded_dim());
      Chunk chunk;
      int64_t indices[kChunkSize], ids[kChunkSize];
      double logits[kChunkSize];
      for (int64_t s = first; s < last; ++s) {
        const auto [row, begin, end] = segments_[s];
        queries.copy_row(row, query.data());
        const int64_t start = candidates().begin(row), target = candidates().id(row, start);
        const auto flush = [&](int64_t next) {
          if (chunk.size == 0) return;
          chunk.score(items, query.data(), candidates(), next);
          for (int64_t i = 0; i < chunk.size; ++i)
            logits[i] = chunk.scores[i] * inverse_ - (log_q_ ? log_q_[ids[i]] : 0.0f);
          fn(s, indices, logits, chunk.size);
          chunk.size = 0;
        };
        for (int64_t i = begin; i < end; ++i) {
          const int64_t id = candidates().id(row, i);
          if (!id_check_.is_item(row, i, id) || (id == target && i != start)) continue;
          indices[chunk.size] = i - start;
          ids[chunk.size] = id;
          chunk.add(items.row(id));
          if (chunk.full()) flush(i + 1);
        }
        flush(end);
      }
    });
    id_check_.raise();
  }

 private:
  const Candidates& candidates() const { return arguments_.candidates; }

  const CandidateArguments& arguments_;
  double inverse_;
  IdCheck id_check_;
  std::vector<Segment> segments_;
  OptionalTensor log_q_owner_;
  const float* log_q_ = nullptr;
};

// exponentials[i] = e^(logits[i] - reference), where infinite values are equal.
void exponentiate(const double* logits, int64_t n, double reference, float* exponentials) {
  for (int64_t i = 0; i < n; ++i)
    exponentials[i] =
        logits[i] == reference ? 0.0f : static_cast<float>((logits[i] - reference) * kLog2E);
  const int64_t padded = (n + kStep - 1) / kStep * kStep;
  std::fill(exponentials + n, exponentials + padded, 0.0f);
  level().softmax.exp2(exponentials, padded);
}

// Log-probabilities [B] of the first candidates in the softmax of all, and the normalizer float64
// [B, 2]: the largest logit, and the log of the sum of e^(logit - largest).
std::tuple<Tensor, Tensor> log_prob_candidates(const Tensor& query, const Tensor& table,
                                               const Tensor& ids, const OptionalTensor& offsets,
                                               const OptionalTensor& log_q, double temperature) {
  const CandidateArguments arguments(query, table, ids, offsets);
  Logits logits(arguments, log_q, temperature);
  const int64_t rows = arguments.queries.rows;
  std::vector<LogSum> partials(logits.segments().size(), LogSum(1.0));
  std::vector<double> targets(rows);
  logits.for_each_chunk([&](int64_t s, const int64_t* indices, const double* values, int64_t n) {
    if (indices[0] == 0) targets[logits.segments()[s].row] = values[0];
    double largest = -kInfinity, sum = 0.0;
    for (int64_t i = 0; i < n; ++i) largest = values[i] > largest ? values[i] : largest;
    float exponentials[kChunkSize];
    exponentiate(values, n, largest, exponentials);
    for (int64_t i = 0; i < n; ++i) sum += exponentials[i];
    partials[s].add(largest, sum);
  });

  const Tensor result = new_tensor(aoti_torch_dtype_float32(), rows);
  const Tensor normalizer = new_tensor(aoti_torch_dtype_float64(), rows, 2);
  float* log_probs = result.mutable_data_ptr<float>();
  double* normalizers = normalizer.mutable_data_ptr<double>();
  size_t s = 0;
  for (int64_t row = 0; row < rows; ++row) {
    LogSum sum(1.0);
    for (; s < partials.size() && logits.segments()[s].row == row; ++s)
      sum.add(partials[s].reference, partials[s].sum);
    log_probs[row] = static_cast<float>(sum.log_prob(targets[row]));
    normalizers[2 * row] = sum.reference;
    normalizers[2 * row + 1] = std::log(sum.sum);
  }
  return {result, normalizer};
}

// The derivative of the loss with respect to every candidate's score, in the shape of the ids.
Tensor log_prob_candidates_weights(const Tensor& grad, const Tensor& normalizer,
                                   const Tensor& query, const Tensor& table, const Tensor& ids,
                                   const OptionalTensor& offsets, const OptionalTensor& log_q,
                                   double temperature) {
  const CandidateArguments arguments(query, table, ids, offsets);
  Logits logits(arguments, log_q, temperature);
  const int64_t rows = arguments.queries.rows;
  check(grad.is_cpu() && grad.scalar_type() == ScalarType::Float && grad.numel() == rows &&
            normalizer.is_cpu() && normalizer.scalar_type() == ScalarType::Double &&
            normalizer.numel() == 2 * rows,
        "grad must be float32 [", rows, "] on the CPU, normalizer float64 [", rows, ", 2]");
  const Tensor grads = torch::stable::contiguous(grad);
  const Tensor sums = torch::stable::contiguous(normalizer);
  const Tensor result = torch::stable::new_zeros(ids, ids.sizes(), ScalarType::Float);
  float* weights = result.mutable_data_ptr<float>();
  logits.for_each_chunk([&](int64_t s, const int64_t* indices, const double* values, int64_t n) {
    const int64_t row = logits.segments()[s].row;
    const double slope = grads.const_data_ptr<float>()[row] / temperature;
    const double* sum = sums.const_data_ptr<double>() + 2 * row;
    const double factor = -slope * std::exp(-sum[1]);
    float* out = weights + arguments.candidates.begin(row);
    float exponentials[kChunkSize];
    exponentiate(values, n, sum[0], exponentials);
    for (int64_t i = 0; i < n; ++i) out[indices[i]] = static_cast<float>(factor * exponentials[i]);
    if (indices[0] != 0) return;
    const double log_prob = (values[0] == sum[0] ? 0.0 : values[0] - sum[0]) - sum[1];
    out[0] = static_cast<float>(-slope * std::expm1(log_prob));
  });
  return result;
}

RL4REC_OPERATOR(log_prob_candidates,
                "(Tensor query, Tensor table, Tensor ids, Tensor? offsets, Tensor? log_q, "
                "float temperature) -> (Tensor log_probs, Tensor normalizer)")
RL4REC_OPERATOR(log_prob_candidates_weights,
                "(Tensor grad, Tensor normalizer, Tensor query, Tensor table, Tensor ids, "
                "Tensor? offsets, Tensor? log_q, float temperature) -> Tensor")

}  // namespace
}  // namespace rl4rec
