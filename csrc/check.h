// Argument checks whose messages reach the user of the Python package.
#pragma once

#include <sstream>
#include <stdexcept>

namespace rl4rec {

// Throws unless `ok`, with a message of all `parts`. Python sees std::invalid_argument as
// ValueError and std::out_of_range as IndexError. (torch's own macros would prepend the function,
// the file and the line.)
template <typename Error = std::invalid_argument, typename... Parts>
void check(bool ok, const Parts&... parts) {
  if (ok) return;
  std::ostringstream message;
  (message << ... << parts);
  throw Error(message.str());
}

}  // namespace rl4rec
