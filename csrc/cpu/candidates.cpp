#include "cpu/candidates.h"

#include <cmath>

namespace rl4rec {

Candidates::Candidates(const Tensor& ids, const std::optional<Tensor>& offsets_tensor,
                       int64_t query_rows, const char* name)
    : name(name), ids_owner(ids), offsets_owner(offsets_tensor), rows(query_rows) {
  check(ids.is_cpu(), name, " must be on the CPU");
  wide = ids.scalar_type() == ScalarType::Long;
  check(wide || ids.scalar_type() == ScalarType::Int, name, " must be int32 or int64");
  count = ids.numel();
  if (!offsets_tensor) {
    check(ids.dim() == 2 && ids.size(0) == rows, name, " must be [", rows,
          ", C], one row for each row of query");
    columns = ids.size(1);
    if (columns > 1 && ids.stride(1) != 1) ids_owner = torch::stable::contiguous(ids);
    row_stride = ids_owner.stride(0);
  } else {
    check(ids.dim() == 1, "the values of ragged candidates must have 1 dimension");
    check(offsets_tensor->is_cpu() && offsets_tensor->dim() == 1 &&
              offsets_tensor->size(0) == rows + 1 &&
              offsets_tensor->scalar_type() == ScalarType::Long,
          "the offsets of ragged ", name, " must be int64 [", rows + 1, "] on the CPU");
    ids_owner = torch::stable::contiguous(ids);
    offsets_owner = torch::stable::contiguous(*offsets_tensor);
    offsets = static_cast<const int64_t*>(offsets_owner->const_data_ptr());
    check(offsets[0] == 0 && offsets[rows] == count, "the offsets of ragged ", name,
          " must start at 0 and end at ", count, ", the number of values; they go from ",
          offsets[0], " to ", offsets[rows]);
    for (int64_t i = 0; i < rows; ++i)
      check(offsets[i] <= offsets[i + 1], "the offsets of ragged ", name,
            " must not fall, but offsets[", i, "] = ", offsets[i], " and offsets[", i + 1,
            "] = ", offsets[i + 1]);
  }
  data = ids_owner.const_data_ptr();
}

int64_t Candidates::row_of(int64_t candidate) const {
  if (!offsets) return candidate / columns;
  return std::upper_bound(offsets, offsets + rows + 1, candidate) - offsets - 1;
}

void IdCheck::report(int64_t candidate) {
  int64_t seen = first_.load();
  while (candidate < seen && !first_.compare_exchange_weak(seen, candidate)) {}
}

void IdCheck::raise() const {
  const int64_t candidate = first_.load();
  if (candidate == std::numeric_limits<int64_t>::max()) return;
  const int64_t row = candidates_.row_of(candidate);
  const int64_t column = candidate - candidates_.begin(row);
  const int64_t id = candidates_.id(row, candidate);
  check(id != -1, "candidates: row ", row, " starts with padding (-1), but its first id must be ",
        "the target's");
  check<std::out_of_range>(false, candidates_.name, ": id ", id, " in row ", row, ", column ",
                           column, " is not in the table, whose ids are 0 to ", table_rows_ - 1,
                           " (-1 is padding); check that the ids and the table belong together");
}

namespace {

// What a stretch of candidates adds to the counts of its row.
struct Tally {
  int64_t above = 0, tied = 0, total = 0;

  // Adds the scores of competitors. Comparisons with NaN are false: a NaN competitor is never
  // above the target.
  void add(const float* scores, int64_t n, float target_score) {
    int32_t higher = 0, same = 0;  // narrow, so that the loop becomes SIMD code
    for (int64_t i = 0; i < n; ++i) {
      higher += scores[i] > target_score;
      same += scores[i] == target_score;
    }
    above += std::isnan(target_score) ? n : higher;  // a NaN target ranks last
    tied += same;
    total += n;
  }
};

}  // namespace

Counts count_candidates(const Embeddings& queries, const Embeddings& items,
                        const Candidates& candidates) {
  Counts counts;
  for (auto* column : {&counts.above, &counts.tied, &counts.total})
    *column = std::vector<std::atomic<int64_t>>(candidates.rows);
  IdCheck id_check(candidates, items.rows, /*needs_target=*/true);

  for (int64_t row = 0; row < candidates.rows; ++row)
    check(candidates.begin(row) < candidates.end(row), "candidates: row ", row,
          " is empty, but its first id must be the target");

  const auto count = [&](int64_t row, int64_t begin, int64_t end, const float* query) {
    const int64_t first = candidates.begin(row);
    const int64_t target = candidates.id(row, first);
    if (!id_check.is_item(row, first, target)) return;
    Tally tally;
    if (begin == first) tally.total = 1;  // the target, counted by the stretch that holds it

    // The target leads the first chunk: its score comes from the same arithmetic.
    Chunk chunk;
    chunk.add(items.row(target));
    int64_t competitors = 1;  // where they start in the chunk
    float target_score = 0;
    const auto flush = [&](int64_t next) {
      if (chunk.size == 0) return;
      chunk.score(items, query, candidates, next);
      if (competitors == 1) target_score = chunk.scores[0];
      tally.add(chunk.scores + competitors, chunk.size - competitors, target_score);
      chunk.size = competitors = 0;
    };
    for (int64_t i = std::max(begin, first + 1); i < end; ++i) {
      const int64_t id = candidates.id(row, i);
      if (!id_check.is_item(row, i, id) || id == target) continue;
      chunk.add(items.row(id));
      if (chunk.full()) flush(i + 1);
    }
    flush(end);

    counts.above[row] += tally.above;
    counts.tied[row] += tally.tied;
    counts.total[row] += tally.total;
  };
  for_each_stretch(candidates, queries, count);
  id_check.raise();
  return counts;
}

std::tuple<Tensor, Tensor, Tensor> to_tensors(const Counts& counts, const Tensor& like) {
  const auto to_tensor = [&](const std::vector<std::atomic<int64_t>>& column) {
    const int64_t rows = static_cast<int64_t>(column.size());
    const Tensor result = torch::stable::new_empty(like, {rows}, ScalarType::Long);
    std::copy(column.begin(), column.end(), static_cast<int64_t*>(result.mutable_data_ptr()));
    return result;
  };
  return {to_tensor(counts.above), to_tensor(counts.tied), to_tensor(counts.total)};
}

}  // namespace rl4rec
