// Which of the levels compiled from simd.cpp is in use.
#pragma once

#include <string>
#include <vector>

namespace rl4rec {

// Names of the levels that this CPU can run, best first.
std::vector<std::string> cpu_levels();

// Switches to a level by name; an empty name only asks. Returns the name of the level in use.
std::string cpu_level(std::string name);

}  // namespace rl4rec
