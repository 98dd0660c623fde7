#pragma once
#include "halfstep/train/config/node.h"

#include <memory>
#include <string>

namespace halfstep::train::detail {

/// The value in an option KEY=VALUE, whose path begins with `path`; docs/config.md has the grammar.
/// Throws UsageError for a value that is malformed.
std::shared_ptr<ConfigNode> parse_option_value(const std::string& text, const Place& place,
                                               const ConfigPathPtr& path);

}  // namespace halfstep::train::detail
