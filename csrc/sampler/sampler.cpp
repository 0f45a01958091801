#include "sampler/sampler.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <functional>
#include <memory>
#include <system_error>
#include <thread>

#include "check.h"
#include "sampler/philox.h"

namespace rl4rec {
namespace {

// A set of ids, as bits; whoever sets bits clears them again, so that a user costs no full pass.
class IdSet {
 public:
  explicit IdSet(int64_t size) : words_((size + 63) / 64) {}
  bool has(int64_t id) const { return words_[id >> 6] >> (id & 63) & 1; }
  void add(int64_t id) { words_[id >> 6] |= uint64_t{1} << (id & 63); }
  void remove(int64_t id) { words_[id >> 6] &= ~(uint64_t{1} << (id & 63)); }

 private:
  std::vector<uint64_t> words_;
};

// Draws an index with probability in proportion to its weight, in constant time (Walker 1977; built
// as in Vose, IEEE TSE 1991).
class AliasTable {
 public:
  AliasTable(const double* weights, int64_t first, int64_t end)
      : first_(first), keep_(end - first), alias_(end - first) {
    const int64_t n = end - first;
    // Scaled by the largest first: a sum of huge weights must not overflow.
    const double largest = n ? *std::max_element(weights + first, weights + end) : 0.0;
    if (largest == 0.0) return;
    double sum = 0.0;
    for (int64_t i = 0; i < n; ++i) sum += weights[first + i] / largest;
    std::vector<int64_t> small, large;
    for (int64_t i = 0; i < n; ++i) {
      keep_[i] = weights[first + i] / largest / sum * static_cast<double>(n);
      (keep_[i] < 1.0 ? small : large).push_back(i);
    }
    while (!small.empty() && !large.empty()) {
      const int64_t less = small.back(), more = large.back();
      small.pop_back();
      alias_[less] = more;
      keep_[more] -= 1.0 - keep_[less];
      if (keep_[more] < 1.0) {
        large.pop_back();
        small.push_back(more);
      }
    }
    // What is left has probability 1 but for rounding. An item of weight 0 is never among it:
    // its column is given away as long as a large one is left, and rounding cannot use these up,
    // except that a last zero could remain, which is sent to the largest item.
    for (const int64_t i : large) keep_[i] = 1.0;
    const int64_t heaviest = std::max_element(weights + first, weights + end) - weights - first;
    for (const int64_t i : small) {
      if (weights[first + i] == 0.0) {
        keep_[i] = 0.0;
        alias_[i] = heaviest;
      } else {
        keep_[i] = 1.0;
      }
    }
  }

  int64_t draw(Stream& stream) const {
    const int64_t i = static_cast<int64_t>(stream.below(keep_.size()));
    return first_ + (stream.unit() < keep_[i] ? i : alias_[i]);
  }

 private:
  int64_t first_;
  std::vector<double> keep_;
  std::vector<int64_t> alias_;
};

// One thread's work. Items are drawn one after the other, each from what is left, either by
// drawing from all items and rejecting what is taken, or, where little is left, from a list of it.
class Worker {
 public:
  Worker(const Request& request, const AliasTable* alias)
      : request_(request), alias_(alias), taken_(request.num_items) {}

  void sample_user(int64_t user, int64_t* out) {
    const int64_t* seen = request_.seen + request_.offsets[user];
    const int64_t* seen_end = request_.seen + request_.offsets[user + 1];
    int64_t left = request_.num_items - request_.first_item;
    for (const int64_t* id = seen; id != seen_end; ++id)
      if (!taken_.has(*id)) {
        taken_.add(*id);
        left -= *id >= request_.first_item;
      }
    Stream stream(request_.seed, static_cast<uint64_t>(request_.user_ids[user]));
    int64_t drawn =
        request_.weights ? reject_weighted(stream, out) : reject_uniform(stream, left, out);
    if (drawn < request_.num_negatives) {
      list_what_is_left();
      request_.weights ? finish_weighted(stream, out, drawn) : finish_uniform(stream, out, drawn);
      drawn = request_.num_negatives;
    }
    for (const int64_t* id = seen; id != seen_end; ++id) taken_.remove(*id);
    for (int64_t i = 0; i < drawn; ++i) taken_.remove(out[i]);
  }

 private:
  // Rejection, while at least half of the items are free: two tries a draw at most on average.
  int64_t reject_uniform(Stream& stream, int64_t left, int64_t* out) {
    const int64_t range = request_.num_items - request_.first_item;
    int64_t drawn = 0;
    for (; drawn < request_.num_negatives && 2 * (left - drawn) > range; ++drawn) {
      int64_t id;
      do id = request_.first_item + static_cast<int64_t>(stream.below(range));
      while (taken_.has(id));
      taken_.add(id);
      out[drawn] = id;
    }
    return drawn;
  }

  // The probability of a rejection is not known here, so tries are counted. Whether to go on by
  // the list depends on rejections only, not on what would be drawn next: what is left is drawn
  // from with the same probabilities either way, so the law of the result is the same.
  int64_t reject_weighted(Stream& stream, int64_t* out) {
    int64_t drawn = 0;
    int64_t tries = 16 + 4 * request_.num_negatives;
    while (drawn < request_.num_negatives && tries-- > 0) {
      const int64_t id = alias_->draw(stream);
      if (taken_.has(id)) continue;
      taken_.add(id);
      out[drawn++] = id;
    }
    return drawn;
  }

  void list_what_is_left() {
    rest_.clear();
    for (int64_t id = request_.first_item; id < request_.num_items; ++id)
      if (!taken_.has(id) && (!request_.weights || request_.weights[id] > 0)) rest_.push_back(id);
  }

  // The first steps of a Fisher-Yates shuffle.
  void finish_uniform(Stream& stream, int64_t* out, int64_t drawn) {
    for (size_t i = 0; drawn < request_.num_negatives; ++i, ++drawn) {
      std::swap(rest_[i], rest_[i + stream.below(rest_.size() - i)]);
      out[drawn] = rest_[i];
      taken_.add(out[drawn]);
    }
  }

  // Exponential clocks: the item whose clock, of rate its weight, rings first is drawn first. The
  // order in which they ring is the law of drawing one after the other (Efraimidis & Spirakis,
  // IPL 2006; Plackett-Luce).
  void finish_weighted(Stream& stream, int64_t* out, int64_t drawn) {
    clocks_.resize(rest_.size());
    for (size_t i = 0; i < rest_.size(); ++i)
      clocks_[i] = {std::log(-std::log(stream.open_unit())) - std::log(request_.weights[rest_[i]]),
                    rest_[i]};
    const int64_t wanted = request_.num_negatives - drawn;
    std::partial_sort(clocks_.begin(), clocks_.begin() + wanted, clocks_.end());
    for (int64_t i = 0; i < wanted; ++i) {
      out[drawn + i] = clocks_[i].second;
      taken_.add(out[drawn + i]);
    }
  }

  const Request& request_;
  const AliasTable* alias_;
  IdSet taken_;
  std::vector<int64_t> rest_;
  std::vector<std::pair<double, int64_t>> clocks_;
};

// Runs work(begin, end) over [0, count) on several threads, in pieces that are taken as threads
// become free. What a thread throws is thrown here.
void run_in_parallel(int64_t count, int num_threads,
                     const std::function<std::function<void(int64_t)>()>& make_worker) {
  constexpr int64_t kPiece = 64;
  std::atomic<int64_t> next{0};
  std::exception_ptr failure;
  std::atomic<bool> failed{false};
  const auto work = [&] {
    try {
      const std::function<void(int64_t)> worker = make_worker();
      for (int64_t begin; !failed && (begin = next.fetch_add(kPiece)) < count;)
        for (int64_t i = begin; i < std::min(begin + kPiece, count); ++i) worker(i);
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
    }
  };
  const int64_t pieces = (count + kPiece - 1) / kPiece;
  std::vector<std::thread> threads;
  try {
    for (int64_t i = 1; i < std::min<int64_t>(num_threads, pieces); ++i) threads.emplace_back(work);
  } catch (const std::system_error&) {  // no more threads to be had: those there do the work
  }
  work();
  for (std::thread& thread : threads) thread.join();
  if (failure) std::rethrow_exception(failure);
}

// Throws if some user has fewer items left than are wanted.
void check_enough(const Request& request) {
  int64_t drawable = request.num_items - request.first_item;
  if (request.weights)
    drawable = std::count_if(request.weights + request.first_item,
                             request.weights + request.num_items, [](double w) { return w > 0; });
  IdSet counted(request.num_items);
  for (int64_t user = 0; user < request.num_users; ++user) {
    const int64_t* seen = request.seen + request.offsets[user];
    const int64_t* seen_end = request.seen + request.offsets[user + 1];
    if (drawable - (seen_end - seen) >= request.num_negatives) continue;  // even if all count
    int64_t left = drawable;
    for (const int64_t* id = seen; id != seen_end; ++id) {
      if (counted.has(*id)) continue;
      counted.add(*id);
      left -= *id >= request.first_item && (!request.weights || request.weights[*id] > 0);
    }
    for (const int64_t* id = seen; id != seen_end; ++id) counted.remove(*id);
    check(left >= request.num_negatives, "user ", request.user_ids[user], " has only ", left,
          " items left to draw from (of ", drawable,
          request.weights ? " with a weight above 0" : "", "), but num_negs is ",
          request.num_negatives, "; ask for fewer or leave this user out");
  }
}

}  // namespace

void sample(const Request& request, int num_threads, int64_t* out) {
  if (request.num_negatives == 0 || request.num_users == 0) return;
  check_enough(request);
  std::vector<AliasTable> alias;  // none or one
  if (request.weights) alias.emplace_back(request.weights, request.first_item, request.num_items);
  run_in_parallel(request.num_users, num_threads, [&] {
    auto worker = std::make_shared<Worker>(request, alias.empty() ? nullptr : &alias[0]);
    return [&request, out, worker](int64_t user) {
      worker->sample_user(user, out + user * request.num_negatives);
    };
  });
}

}  // namespace rl4rec
