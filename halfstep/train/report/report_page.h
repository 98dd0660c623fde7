#pragma once
#include <string>

#include <nlohmann/json.hpp>

namespace halfstep::train {

/// A page of HTML that shows what read_run() gave, with all it needs in itself: curves with the
/// skipped steps marked, tables, the config and the machine. It draws itself in the browser.
std::string report_page(const nlohmann::ordered_json& run);

}  // namespace halfstep::train
