#include "halfstep/scaling/overflow_report.h"

#include <sstream>

namespace halfstep {

std::string OverflowReport::text() const {
  std::ostringstream out;
  out << overflows << " of " << updates << " updates followed an overflow, " << skipped_steps
      << " steps were skipped";
  if (overflowing_since > 0) out << "; every update since " << overflowing_since << " overflowed";
  for (const auto& skipped : last) {
    out << "\nupdate " << skipped.update << ": scale " << skipped.scale << " -> "
        << skipped.next_scale << ", found by";
    if (skipped.sources.empty()) out << " another rank";
    const char* separator = " ";
    for (const auto& source : skipped.sources) {
      out << separator << "optimizer " << source.optimizer << " on " << source.device;
      separator = ", ";
    }
  }
  return out.str();
}

}  // namespace halfstep
