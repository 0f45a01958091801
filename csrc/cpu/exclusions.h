// The targets of the catalog operators, and which items do not compete with them.
#pragma once

#include "cpu/candidates.h"
#include "cpu/catalog.h"

namespace rl4rec {

// The ids in `targets`, one per query. `allows_none` allows -1, which is not in this table.
std::vector<int64_t> read_targets(const Tensor& targets, const Catalog& catalog,
                                  int64_t num_queries, bool allows_none);
// Their scores, where these are given.
std::vector<float> read_target_scores(const Tensor& given, int64_t num_queries);
// Throws unless a query's target is an item.
void check_target(const Catalog& catalog, int64_t id, int64_t query);

// Items that do not compete for a query: its excluded ids and its target.
class Exclusions {
 public:
  Exclusions(const Catalog& catalog, int64_t num_queries, const int64_t* targets,
             const OptionalTensor& ids, const OptionalTensor& offsets);

  // Lets these valid items compete, whatever was excluded.
  void keep(const Candidates& ids);

  // How many valid items do not compete for a query, its target included.
  int64_t count(int64_t query) const { return counts_[query]; }

  struct Entry {
    int64_t id, query;
    bool operator<(const Entry& other) const {
      return id != other.id ? id < other.id : query < other.query;
    }
    bool operator==(const Entry& other) const { return id == other.id && query == other.query; }
  };
  // For each of n panels of `lanes` queries, from `first_query` on, its first entry of an item from
  // `id` on.
  std::vector<const Entry*> seek(int64_t first_query, int64_t lanes, int64_t n, int64_t id) const;
  // Whether there may be excluded pairs of a tile and a panel, whose first query is `first_query`.
  bool reaches(const Entry* entry, int64_t first_query, const ItemTile& tile) const {
    const auto& entries = entries_[first_query / kMaxLanes];
    return entry < entries.data() + entries.size() && entry->id <= tile.ids()[tile.size() - 1];
  }
  // Calls fn(row, lane) for the excluded pairs of a tile and a panel, whose first query is
  // `first_query`, and advances `entry` past them.
  template <typename Fn>
  void for_each(const Entry*& entry, int64_t first_query, int64_t lanes, const ItemTile& tile,
                const Fn& fn) const {
    const auto& entries = entries_[first_query / kMaxLanes];
    const Entry* const end = entries.data() + entries.size();
    const int64_t last = tile.ids()[tile.size() - 1];
    for (; entry < end && entry->id <= last; ++entry) {
      const int64_t lane = entry->query - first_query;
      if (lane < 0 || lane >= lanes) continue;  // of another panel of the same kMaxLanes queries
      const int64_t row = tile.find(entry->id);
      if (row >= 0) fn(row, lane);
    }
  }
  // Replaces the scores of these pairs.
  void apply(const Entry*& entry, int64_t first_query, int64_t lanes, const ItemTile& tile,
             float replacement, float* scores) const {
    for_each(entry, first_query, lanes, tile,
             [&](int64_t row, int64_t lane) { scores[row * lanes + lane] = replacement; });
  }

 private:
  std::vector<std::vector<Entry>> entries_;  // of every kMaxLanes queries, ascending
  std::vector<int64_t> counts_;
};

}  // namespace rl4rec
