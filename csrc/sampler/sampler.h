// Negatives for many users: uniform or weighted sampling without replacement.
#pragma once

#include <cstdint>
#include <functional>

namespace rl4rec {

// What is drawn from and for whom. The arrays belong to the caller. Checked on
// the Python side: num_items < 2^32, offsets ascend from 0, seen ids lie in [0,
// num_items), weights are finite and not negative.
struct Request {
  int64_t num_items, first_item, num_negatives;
  uint64_t seed;
  int64_t num_users;
  const int64_t* user_ids;
  const int64_t* seen;     // ids of user u: seen[offsets[u]] ... seen[offsets[u + 1] - 1]
  const int64_t* offsets;  // num_users + 1
  const double* weights;   // num_items, or null: all alike
};

struct Execution {
  int num_threads;
  std::function<void()> poll;  // called now and then on the calling thread;
                               // throws in order to stop
};

// Throws std::invalid_argument, naming the first such user, if one has too few
// items left.
void check_enough(const Request& request, const Execution& execution);

// Writes num_negatives ids for each user to `out`; check_enough must have
// passed.
void sample(const Request& request, const Execution& execution, int64_t* out);

}  // namespace rl4rec
