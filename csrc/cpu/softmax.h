// Sums of exponentials, for the operators that compute log-probabilities.
#pragma once

#include <cmath>
#include <limits>

#include "cpu/levels.h"

namespace rl4rec {

constexpr double kLog2E = 1.4426950408889634;

// A sum of e^((score - reference) / temperature), whose reference is the largest score so far.
// Infinite scores are at a distance of 0 from each other: they share what there is.
class LogSum {
 public:
  explicit LogSum(double temperature) : inverse_(1.0 / temperature) {}

  // Adds n times the exponential of a score.
  void add(double score, double n) {
    if (n == 0.0) return;
    if (score > reference) {
      sum *= std::exp(distance(reference, score));
      reference = score;
    }
    sum += n * std::exp(distance(score, reference));
  }
  // Replaces a score that has been added.
  void replace(double before, double after) {
    sum += std::exp(distance(after, reference)) - std::exp(distance(before, reference));
  }
  // The score whose exponential is the sum.
  double log() const { return reference + std::log(sum) / inverse_; }
  double log_prob(double score) const { return distance(score, reference) - std::log(sum); }

  double reference = -std::numeric_limits<double>::infinity(), sum = 0.0;

 private:
  double distance(double score, double from) const {
    return score == from ? 0.0 : (score - from) * inverse_;
  }

  double inverse_;
};

}  // namespace rl4rec
