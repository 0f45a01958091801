#include "cpu/exclusions.h"

#include <algorithm>

namespace rl4rec {

std::vector<int64_t> read_targets(const Tensor& targets, const Catalog& catalog,
                                  int64_t num_queries, bool allows_none) {
  check(targets.dim() == 1 && targets.size(0) == num_queries, "targets must be [", num_queries,
        "], one id per query");
  check(targets.is_cpu(), "targets must be on the CPU");
  const bool is_int64 = targets.scalar_type() == ScalarType::Long;
  check(is_int64 || targets.scalar_type() == ScalarType::Int, "targets must be int32 or int64");
  const void* ids = targets.const_data_ptr();
  const int64_t stride = targets.stride(0);
  std::vector<int64_t> result(num_queries);
  for (int64_t q = 0; q < num_queries; ++q) {
    const int64_t id = result[q] = is_int64 ? static_cast<const int64_t*>(ids)[q * stride]
                                            : static_cast<const int32_t*>(ids)[q * stride];
    if (id == -1 && allows_none) continue;
    check_target(catalog, id, q);
  }
  return result;
}

std::vector<float> read_target_scores(const Tensor& given, int64_t num_queries) {
  check(given.is_cpu() && given.scalar_type() == ScalarType::Float && given.dim() == 1 &&
            given.size(0) == num_queries,
        "target_scores must be float32 [", num_queries, "] on the CPU");
  const Tensor scores = torch::stable::contiguous(given);
  const float* data = scores.const_data_ptr<float>();
  return {data, data + num_queries};
}

void check_target(const Catalog& catalog, int64_t id, int64_t q) {
  check<std::out_of_range>(0 <= id && id < catalog.items.rows, "targets: id ", id, " of query ", q,
                           " is not in the table, whose ids are 0 to ", catalog.items.rows - 1,
                           "; check that the ids and the table belong together");
  check(catalog.is_valid(id), "targets: id ", id, " of query ", q, " is not an item: valid[", id,
        "] is False; leave the query out");
}

Exclusions::Exclusions(const Catalog& catalog, int64_t num_queries, const int64_t* targets,
                       const OptionalTensor& ids, const OptionalTensor& offsets)
    : entries_((num_queries + kMaxLanes - 1) / kMaxLanes), counts_(num_queries) {
  std::optional<Candidates> excluded;
  if (ids) excluded.emplace(*ids, offsets, num_queries, "exclude");
  std::optional<IdCheck> id_check;
  if (excluded) id_check.emplace(*excluded, catalog.items.rows, /*needs_target=*/false);
  parallel_for(0, static_cast<int64_t>(entries_.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      std::vector<Entry>& entries = entries_[group];
      const int64_t first = group * kMaxLanes, last = std::min(first + kMaxLanes, num_queries);
      for (int64_t q = first; q < last; ++q) {
        if (targets && targets[q] >= 0) entries.push_back({targets[q], q});
        if (!excluded) continue;
        for (int64_t i = excluded->begin(q); i < excluded->end(q); ++i) {
          const int64_t id = excluded->id(q, i);
          if (id_check->is_item(q, i, id)) entries.push_back({id, q});
        }
      }
      std::sort(entries.begin(), entries.end());
      entries.erase(std::unique(entries.begin(), entries.end()), entries.end());
      for (const Entry& entry : entries) counts_[entry.query] += catalog.is_valid(entry.id);
    }
  });
  if (id_check) id_check->raise();
}

void Exclusions::keep(const Candidates& ids) {
  parallel_for(0, static_cast<int64_t>(entries_.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      std::vector<Entry>& entries = entries_[group];
      const int64_t first = group * kMaxLanes, last = std::min(first + kMaxLanes, ids.rows);
      std::vector<Entry> kept;
      for (int64_t q = first; q < last; ++q)
        for (int64_t i = ids.begin(q); i < ids.end(q); ++i) kept.push_back({ids.id(q, i), q});
      std::sort(kept.begin(), kept.end());
      const auto competes = [&](const Entry& entry) {
        const bool found = std::binary_search(kept.begin(), kept.end(), entry);
        counts_[entry.query] -= found;
        return found;
      };
      entries.erase(std::remove_if(entries.begin(), entries.end(), competes), entries.end());
    }
  });
}

std::vector<const Exclusions::Entry*> Exclusions::seek(int64_t first_query, int64_t lanes,
                                                       int64_t n, int64_t id) const {
  std::vector<const Entry*> result(n);
  for (int64_t p = 0; p < n; ++p) {
    const auto& entries = entries_[(first_query + p * lanes) / kMaxLanes];
    result[p] = entries.data() +
                (std::lower_bound(entries.begin(), entries.end(), Entry{id, -1}) - entries.begin());
  }
  return result;
}

}  // namespace rl4rec
