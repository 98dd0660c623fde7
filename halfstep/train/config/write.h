#pragma once
#include "halfstep/train/config/node.h"

#include <string>

#include <nlohmann/json.hpp>

namespace halfstep::train::detail {

/// A tree as a YAML document: mappings as blocks, lists without mappings in one line.
std::string write_yaml(const ConfigNode& node);

/// A tree as JSON; see Config::to_json().
nlohmann::json to_json(const ConfigNode& node);

/// A value on one line, shortened, for a message: `"5"`, `[1, 2]`, `a mapping`.
std::string describe(const ConfigNode& node);

}  // namespace halfstep::train::detail
