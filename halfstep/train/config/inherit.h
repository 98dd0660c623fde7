#pragma once
#include "halfstep/train/config/node.h"

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

namespace halfstep::train::detail {

/// The text of a config file. Throws UsageError or EnvironmentError where there is none.
using ReadFile = std::function<std::string(const std::filesystem::path&)>;

/// Parses a config with all that it inherits, MMEngine's way: `_base_` names files relative to its
/// own, mappings are merged key by key, anything else replaces what a base has, and a mapping with
/// `_delete_: true` replaces the base's whole. Two bases of one file must not have a key in common.
/// Then nothing of `_base_`, `_delete_` and {{…}} is left, and each value knows the file and line
/// where it stands. Throws UsageError with the place.
std::shared_ptr<ConfigNode> parse_inheriting(const std::string& text,
                                             const std::filesystem::path& file,
                                             const ReadFile& read);

/// The same for a text without a file, which can't inherit; `name` stands for the file in messages.
std::shared_ptr<ConfigNode> parse_alone(const std::string& text, const std::string& name);

/// Throws UsageError for a `_base_` or `_delete_` in a value, where neither has a meaning.
void refuse_reserved_keys(const ConfigNode& node);

}  // namespace halfstep::train::detail
