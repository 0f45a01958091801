#include "sampler/sampler.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "check.h"
#include "sampler/alias_table.h"
#include "sampler/id_set.h"
#include "sampler/parallel.h"
#include "sampler/philox.h"

namespace rl4rec {
namespace {

bool drawable(const Request& request, int64_t id) {
  return id >= request.first_item && (!request.weights || request.weights[id] > 0.0);
}

int64_t count_drawable(const Request& request) {
  if (!request.weights) return request.num_items - request.first_item;
  return std::count_if(request.weights + request.first_item, request.weights + request.num_items,
                       [](double weight) { return weight > 0.0; });
}

// The work of one thread. Items are drawn one after the other without replacement: from all items,
// rejecting those that are taken, or, if that is slower, from a list of those that are left.
class Worker {
 public:
  Worker(const Request& request, int64_t num_drawable, const AliasTable* alias)
      : request_(request), num_drawable_(num_drawable), alias_(alias), taken_(request.num_items) {}

  int64_t count_left(int64_t user) {
    const int64_t left = take_seen(user);
    release_seen(user);
    return left;
  }

  void sample_user(int64_t user, int64_t* out) {
    const int64_t left = take_seen(user);
    Stream stream(request_.seed, static_cast<uint64_t>(request_.user_ids[user]));
    const int64_t drawn =
        alias_ ? reject_weighted(stream, left, out) : reject_uniform(stream, left, out);
    for (int64_t i = 0; i < drawn; ++i) taken_.remove(out[i]);
    release_seen(user);
  }

 private:
  // Returns how many items are left to draw from.
  int64_t take_seen(int64_t user) {
    int64_t left = num_drawable_;
    for (int64_t i = request_.offsets[user]; i < request_.offsets[user + 1]; ++i) {
      const int64_t id = request_.seen[i];
      if (taken_.has(id)) continue;
      taken_.add(id);
      left -= drawable(request_, id);
    }
    return left;
  }

  void release_seen(int64_t user) {
    for (int64_t i = request_.offsets[user]; i < request_.offsets[user + 1]; ++i)
      taken_.remove(request_.seen[i]);
  }

  // The methods below return how many of the ids in `out` they added to taken_.

  // Rejection while more than half of the items are left: at most two tries per draw on average.
  int64_t reject_uniform(Stream& stream, int64_t left, int64_t* out) {
    const int64_t range = request_.num_items - request_.first_item;
    for (int64_t drawn = 0; drawn < request_.num_negatives; ++drawn) {
      if (2 * (left - drawn) <= range) return finish_uniform(stream, drawn, out);
      int64_t id;
      do id = request_.first_item + stream.below(static_cast<uint32_t>(range));
      while (taken_.has(id));
      taken_.add(id);
      out[drawn] = id;
    }
    return request_.num_negatives;
  }

  // The first steps of a Fisher-Yates shuffle of what is left.
  int64_t finish_uniform(Stream& stream, int64_t drawn, int64_t* out) {
    list_left();
    for (int64_t i = 0; drawn + i < request_.num_negatives; ++i) {
      std::swap(left_[i], left_[i + stream.below(static_cast<uint32_t>(left_.size() - i))]);
      out[drawn + i] = left_[i];
    }
    return drawn;
  }

  // The probability of a rejection depends on the weights of the taken items, so the number of
  // tries is limited. The distribution stays exact: tries are independent, and items in the order
  // of their first draw are a sequential sample without replacement. After any number of tries that
  // is fixed in advance, the next new item has that distribution over those left, whatever came
  // before, and the list continues with the same distribution. An item of the list costs about four
  // tries.
  int64_t reject_weighted(Stream& stream, int64_t left, int64_t* out) {
    int64_t drawn = 0;
    for (int64_t tries = 4 * left; drawn < request_.num_negatives; --tries) {
      if (tries == 0) return finish_weighted(stream, drawn, out);
      const int64_t id = alias_->draw(stream);
      if (taken_.has(id)) continue;
      taken_.add(id);
      out[drawn++] = id;
    }
    return drawn;
  }

  // Each item gets an exponential random time whose rate is its weight. Their order has the
  // distribution of sequential sampling (Efraimidis & Spirakis, IPL 2006; Plackett-Luce). Times are
  // logarithms, because weights may differ by any factor.
  int64_t finish_weighted(Stream& stream, int64_t drawn, int64_t* out) {
    list_left();
    times_.clear();
    for (const int64_t id : left_)
      times_.emplace_back(std::log(-std::log(stream.open_unit())) - std::log(request_.weights[id]),
                          id);
    const auto wanted = times_.begin() + (request_.num_negatives - drawn);
    std::nth_element(times_.begin(), wanted - 1, times_.end());
    std::sort(times_.begin(), wanted);
    for (auto time = times_.begin(); time != wanted; ++time)
      out[drawn + (time - times_.begin())] = time->second;
    return drawn;
  }

  void list_left() {
    left_.clear();
    taken_.for_each_missing(request_.first_item, request_.num_items, [this](int64_t id) {
      if (drawable(request_, id)) left_.push_back(id);
    });
  }

  const Request& request_;
  int64_t num_drawable_;
  const AliasTable* alias_;
  IdSet taken_;
  std::vector<int64_t> left_;
  std::vector<std::pair<double, int64_t>> times_;
};

}  // namespace

void check_enough(const Request& request, const Execution& execution) {
  const int64_t num_drawable = count_drawable(request);
  const auto surely_enough = [&](int64_t user) {  // even if all seen items could be drawn
    const int64_t num_seen = request.offsets[user + 1] - request.offsets[user];
    return num_drawable - num_seen >= request.num_negatives;
  };
  int64_t first_doubt = 0;
  while (first_doubt < request.num_users && surely_enough(first_doubt)) ++first_doubt;
  if (first_doubt == request.num_users) return;

  std::atomic<int64_t> first_short{request.num_users};
  run_in_parallel(request.num_users - first_doubt, execution.num_threads, execution.poll, [&] {
    return [&, worker = Worker(request, num_drawable, nullptr)](int64_t i) mutable {
      const int64_t user = first_doubt + i;
      int64_t lowest = first_short;
      if (user > lowest || surely_enough(user)) return;
      if (worker.count_left(user) >= request.num_negatives) return;
      while (user < lowest && !first_short.compare_exchange_weak(lowest, user)) {}
    };
  });
  if (first_short == request.num_users) return;
  const int64_t left = Worker(request, num_drawable, nullptr).count_left(first_short);
  check(false, "user ", request.user_ids[first_short], " has only ", left,
        " items left to draw from (of ", num_drawable,
        request.weights ? " with a weight above 0" : "", "), but num_negs is ",
        request.num_negatives, "; ask for fewer or leave this user out");
}

void sample(const Request& request, const Execution& execution, int64_t* out) {
  if (request.num_users == 0 || request.num_negatives == 0) return;
  const int64_t num_drawable = count_drawable(request);
  std::optional<AliasTable> alias;
  if (request.weights) alias.emplace(request.weights, request.first_item, request.num_items);
  run_in_parallel(request.num_users, execution.num_threads, execution.poll, [&] {
    return
        [&, worker = Worker(request, num_drawable, alias ? &*alias : nullptr)](
            int64_t user) mutable { worker.sample_user(user, out + user * request.num_negatives); };
  });
}

}  // namespace rl4rec
