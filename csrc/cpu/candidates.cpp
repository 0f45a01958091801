#include "cpu/candidates.h"

#include "cpu/new_tensor.h"

namespace rl4rec {

Candidates::Candidates(const Tensor& ids, const OptionalTensor& offsets_tensor, int64_t query_rows,
                       const char* name)
    : name(name), ids_owner(ids), offsets_owner(offsets_tensor), rows(query_rows) {
  check(ids.is_cpu(), name, " must be on the CPU");
  is_int64 = ids.scalar_type() == ScalarType::Long;
  check(is_int64 || ids.scalar_type() == ScalarType::Int, name, " must be int32 or int64");
  count = ids.numel();
  if (!offsets_tensor) {
    check(ids.dim() == 2 && ids.size(0) == rows, name, " must be [", rows,
          ", C], one row per row of query");
    columns = ids.size(1);
    if (columns > 1 && ids.stride(1) != 1) ids_owner = torch::stable::contiguous(ids);
    row_stride = ids_owner.stride(0);
  } else {
    check(ids.dim() == 1, "the values of ragged ", name, " must have 1 dimension");
    check(offsets_tensor->is_cpu() && offsets_tensor->dim() == 1 &&
              offsets_tensor->size(0) == rows + 1 &&
              offsets_tensor->scalar_type() == ScalarType::Long,
          "the offsets of ragged ", name, " must be int64 [", rows + 1, "] on the CPU");
    ids_owner = torch::stable::contiguous(ids);
    offsets_owner = torch::stable::contiguous(*offsets_tensor);
    offsets = offsets_owner->const_data_ptr<int64_t>();
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

void Chunk::settle(const Embeddings& table, const float* query) {
  if (std::any_of(query, query + table.dim, [](float x) { return x != x; })) return;  // all NaN
  std::vector<float> item(table.padded_dim());
  for (int64_t i = 0; i < size; ++i) {
    if (is_finite(scores[i])) continue;
    level().rows.to_float[table.storage](rows[i], table.dim, item.data());
    scores[i] = float64_score(query, item.data(), table.dim);
  }
}

int64_t Candidates::row_of(int64_t candidate) const {
  if (!offsets) return candidate / columns;
  return std::upper_bound(offsets, offsets + rows + 1, candidate) - offsets - 1;
}

void IdCheck::report(int64_t candidate) {
  int64_t first = first_.load();
  while (candidate < first && !first_.compare_exchange_weak(first, candidate)) {}
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

std::tuple<Tensor, Tensor, Tensor> Counts::to_tensors() const {
  const auto to_tensor = [&](const std::vector<int64_t>& column) {
    const int64_t rows = static_cast<int64_t>(column.size());
    const Tensor result = new_tensor(aoti_torch_dtype_int64(), rows);
    std::copy(column.begin(), column.end(), result.mutable_data_ptr<int64_t>());
    return result;
  };
  return {to_tensor(above), to_tensor(tied), to_tensor(total)};
}

}  // namespace rl4rec
