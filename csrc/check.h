// Argument checks with messages for the user of the Python package.
#pragma once

#include <sstream>
#include <stdexcept>

namespace rl4rec {

// Throws unless `ok`; the message is the parts in a row. Python sees std::invalid_argument as
// ValueError and std::out_of_range as IndexError. (torch's own macros would put the function, the
// file and the line in front.)
template <typename Error = std::invalid_argument, typename... Parts>
void check(bool ok, const Parts&... parts) {
  if (ok) return;
  std::ostringstream message;
  (message << ... << parts);
  throw Error(message.str());
}

}  // namespace rl4rec
