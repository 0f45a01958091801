// Negatives for many users: uniform or weighted sampling without replacement.
#pragma once

#include <cstdint>
#include <functional>

namespace rl4rec {

// What is drawn, and for which users. The caller owns the arrays. Python has checked that
// num_items < 2^32, offsets ascend from 0, seen ids are in [0, num_items), and weights are finite
// and not negative.
struct Request {
  int64_t num_items, first_item, num_negatives;
  uint64_t seed;
  int64_t num_users;
  const int64_t* user_ids;
  const int64_t* seen;     // ids of user u: seen[offsets[u]] ... seen[offsets[u + 1] - 1]
  const int64_t* offsets;  // num_users + 1
  const double* weights;   // num_items, or null: all equal
};

struct Execution {
  int num_threads;
  std::function<void()> poll;  // called regularly on the calling thread; throws in order to stop
};

// Throws std::invalid_argument if a user has too few items left; it names the first one.
void check_enough(const Request& request, const Execution& execution);

// Writes num_negatives ids per user to `out`, after check_enough.
void sample(const Request& request, const Execution& execution, int64_t* out);

}  // namespace rl4rec
