#pragma once
#include "halfstep/train/config/node.h"

#include <memory>
#include <string>

namespace halfstep::train::detail {

/// Far more than a config needs, far less than what exhausts memory.
constexpr size_t max_yaml_bytes = size_t{1} << 20;

/// Parses one YAML document into a tree whose paths begin with `path`; null where the text holds
/// nothing. `file` stands in messages; `lines` is false for the text of one option, whose lines
/// mean nothing. Throws UsageError for what Config refuses.
std::shared_ptr<ConfigNode> parse_yaml(const std::string& text, const std::string& file,
                                       bool lines = true, const ConfigPathPtr& path = nullptr);

/// Throws UsageError for a key that is empty, longer than 200 bytes or has control characters.
void check_key(const std::string& key, const Place& place);

}  // namespace halfstep::train::detail
