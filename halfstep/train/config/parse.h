#pragma once
#include "halfstep/train/config/node.h"

#include <memory>
#include <string>

namespace halfstep::train::detail {

/// Far more than a config needs, far less than what exhausts memory.
constexpr size_t max_yaml_bytes = size_t{1} << 20;

/// Mappings and lists within each other.
constexpr size_t max_depth = 64;

/// Parses one YAML document into a tree whose paths begin with `path`; null where the text holds
/// nothing. `file` stands in messages; `lines` is false for the text of one option, whose lines
/// mean nothing and whose {{…}} is text. In a file each is left as a piece for substitute(). Throws
/// UsageError for what Config refuses.
std::shared_ptr<ConfigNode> parse_yaml(const std::string& text, const std::string& file,
                                       bool lines = true, const ConfigPathPtr& path = nullptr);

/// Throws UsageError for a key that is empty, longer than 200 bytes, or has control characters or a
/// {{.
void check_key(const std::string& key, const Place& place);

/// Throws UsageError for a text that is not UTF-8 or has control characters but tabs and line ends.
void check_characters(const std::string& text, const Place& start);

}  // namespace halfstep::train::detail
