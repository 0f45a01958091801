// Negatives for many users: uniform or weighted sampling without replacement.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <vector>

namespace rl4rec {

// What is drawn from and for whom. The arrays belong to the caller. Checked on the Python side:
// offsets ascend from 0, seen ids lie in [0, num_items), weights are finite and not negative.
struct Request {
  int64_t num_items, first_item, num_negatives;
  uint64_t seed;
  int64_t num_users;
  const int64_t* user_ids;
  const int64_t* seen;     // ids of user u: seen[offsets[u]] ... seen[offsets[u + 1] - 1]
  const int64_t* offsets;  // num_users + 1
  const double* weights;   // num_items, or null: all alike
};

// Writes num_negatives ids for each user to `out`, using up to `num_threads` threads. Throws
// std::invalid_argument, before anything is drawn, if a user has too few items left.
void sample(const Request& request, int num_threads, int64_t* out);

}  // namespace rl4rec
