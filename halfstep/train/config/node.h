#pragma once
#include "halfstep/core/error.h"

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

/// One value of a config, as parsed: the tree behind Config.
struct ConfigNode {
  enum class Kind { null, scalar, list, mapping };
  struct Entry;

  Kind kind = Kind::null;
  Place place;
  ConfigPathPtr path;

  std::string text;     // of a scalar
  bool quoted = false;  // "5" is no number

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

}  // namespace halfstep::train::detail
