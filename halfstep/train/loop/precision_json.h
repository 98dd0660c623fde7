#pragma once
#include "halfstep/inspect/precision_report.h"

#include <nlohmann/json.hpp>

namespace halfstep::train {

/// The report as an object: "forward" and "backward" (ops, casts), "unmatched_ops",
/// "unmatched_modules", "regions", and "why_nothing_low" where nothing ran in 16 bits.
nlohmann::ordered_json to_json(const inspect::PrecisionReport& report);

}  // namespace halfstep::train
