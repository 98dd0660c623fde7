#pragma once
#include "halfstep/core/error.h"

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace halfstep::train::detail {

/// Where something was written.
struct Place {
  std::string file;
  int line = 0;  // from 1; 0 where the text is one option of the command line

  std::string text() const { return line > 0 ? file + ":" + std::to_string(line) : file; }
};

/// Throws UsageError "[config] PLACE: parts".
template <class... Parts>
[[noreturn]] void raise_at(const Place& place, const Parts&... parts) {
  halfstep::detail::raise<UsageError>("config", place.text(), ": ", parts...);
}

/// The keys that lead to a value, the last one first; null at the top. Shared by neighbours.
struct ConfigPath {
  std::shared_ptr<const ConfigPath> parent;
  std::string key;
};
using ConfigPathPtr = std::shared_ptr<const ConfigPath>;

inline ConfigPathPtr below(ConfigPathPtr parent, std::string key) {
  return std::make_shared<ConfigPath>(ConfigPath{std::move(parent), std::move(key)});
}

/// "optim_wrapper.optimizer", as override_with() takes it; empty at the top.
inline std::string path_text(const ConfigPathPtr& path) {
  if (!path) return "";
  return path->parent ? path_text(path->parent) + "." + path->key : path->key;
}

/// " in optim_wrapper.optimizer"; empty at the top.
inline std::string in_path(const ConfigPathPtr& path) {
  return path ? " in " + path_text(path) : "";
}

/// How many keys lead to a value.
inline size_t length_of(const ConfigPathPtr& path) {
  return path ? 1 + length_of(path->parent) : 0;
}

/// One value of a config, as parsed: the tree behind Config.
struct ConfigNode {
  enum class Kind { null, scalar, list, mapping };
  struct Entry;

  Kind kind = Kind::null;
  Place place;
  ConfigPathPtr path;

  std::string text;     // of a scalar
  bool quoted = false;  // "5" is no number

  // Of a scalar with {{…}} that substitute() has not put a value in place of yet.
  struct Piece {
    std::string text;
    bool is_expression;  // text stands between {{ and }}
  };
  std::vector<Piece> pieces;

  std::vector<std::shared_ptr<ConfigNode>> items;  // of a list
  std::vector<Entry> entries;                      // of a mapping, in the file's order

  std::set<std::string> allowed;  // keys of a mapping that somebody read
  std::set<std::string> ignored;  // keys of which nobody reads what is below

  Entry* find(const std::string& key);
};

struct ConfigNode::Entry {
  std::string key;
  Place place;  // of the key
  std::shared_ptr<ConfigNode> value;
  bool is_default = false;  // filled in by a reader, not given
};

inline ConfigNode::Entry* ConfigNode::find(const std::string& key) {
  for (auto& entry : entries)
    if (entry.key == key) return &entry;
  return nullptr;
}

/// How many mappings and lists lie within each other: 0 for a scalar.
inline size_t depth_of(const ConfigNode& node) {
  size_t deepest = 0;
  for (const auto& entry : node.entries) deepest = std::max(deepest, depth_of(*entry.value));
  for (const auto& item : node.items) deepest = std::max(deepest, depth_of(*item));
  const bool holds = node.kind == ConfigNode::Kind::mapping || node.kind == ConfigNode::Kind::list;
  return deepest + (holds ? 1 : 0);
}

}  // namespace halfstep::train::detail
