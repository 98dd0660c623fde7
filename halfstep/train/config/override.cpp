#include "halfstep/core/error.h"
#include "halfstep/train/config/config.h"
#include "halfstep/train/config/node.h"
#include "halfstep/train/config/option_value.h"
#include "halfstep/train/config/parse.h"
#include "halfstep/train/config/write.h"

#include <charconv>
#include <functional>

namespace halfstep::train {
namespace {

using detail::ConfigNode;
using Kind = ConfigNode::Kind;

std::vector<std::string> split_path(const std::string& path) {
  std::vector<std::string> keys{""};
  for (const char c : path) {
    if (c == '.')
      keys.emplace_back();
    else
      keys.back() += c;
  }
  return keys;
}

// The value of a key: an element of a list or, made null if missing, a mapping's value.
std::shared_ptr<ConfigNode>& slot(ConfigNode& parent, const std::string& key,
                                  const detail::Place& place) {
  if (parent.kind == Kind::list) {
    size_t index = 0;
    const auto result = std::from_chars(key.data(), key.data() + key.size(), index);
    if (result.ec != std::errc() || result.ptr != key.data() + key.size() ||
        index >= parent.items.size())
      raise_at(place, path_text(parent.path), " is a list of ", parent.items.size(),
               ", whose elements are numbered from 0, but got ", key,
               "; to add elements write the whole list: '", path_text(parent.path), "=[...]'");
    return parent.items[index];
  }
  if (parent.kind != Kind::mapping)
    raise_at(place, path_text(parent.path), " must be a mapping or a list to have a key '", key,
             "', but got ", describe(parent));
  auto* entry = parent.find(key);
  if (!entry) {
    entry = &parent.entries.emplace_back();
    entry->key = key;
    entry->place = place;
    entry->value = std::make_shared<ConfigNode>();
    entry->value->path = detail::below(parent.path, key);
  }
  entry->is_default = false;
  return entry->value;
}

void assign(ConfigNode& parent, const std::string& key, const detail::Place& place,
            const std::function<std::shared_ptr<ConfigNode>(const detail::ConfigPathPtr&)>& make) {
  auto& value = slot(parent, key, place);
  auto made = make(value->path);
  if (length_of(value->path) + depth_of(*made) > detail::max_depth)
    raise_at(place, "is nested deeper than ", detail::max_depth, " levels");
  value = std::move(made);
  if (auto* entry = parent.find(key)) entry->place = place;
}

}  // namespace

void Config::override_with(const std::string& assignment) {
  const size_t equals = assignment.find('=');
  if (equals == 0 || equals == std::string::npos)
    detail::raise_at({"--cfg-options"}, "must be key.key=value, but got '", assignment, "'");
  const std::string path = assignment.substr(0, equals);
  detail::check_characters(path, {"--cfg-options"});
  const detail::Place place{"--cfg-options " + path};
  const auto keys = split_path(path);
  for (const auto& key : keys) {
    detail::check_key(key, place);
    if (key == "_base_" || key == "_delete_")
      detail::raise_at(place, key, " must stand in a file; here a whole mapping is replaced by ",
                       "key={...}");
  }

  auto parent = node_;
  for (size_t i = 0; i + 1 < keys.size(); ++i) {
    auto& value = slot(*parent, keys[i], place);
    if (value->kind == Kind::null) {
      auto made = std::make_shared<ConfigNode>();
      made->kind = Kind::mapping;
      made->place = place;
      made->path = value->path;
      value = std::move(made);
    }
    parent = value;
  }
  assign(*parent, keys.back(), place, [&](const detail::ConfigPathPtr& below) {
    return detail::parse_option_value(assignment.substr(equals + 1), place, below);
  });
}

void Config::set(const std::string& key, const std::string& yaml_value,
                 const std::string& place_name) {
  const detail::Place place{place_name};
  detail::check_key(key, place);
  assign(*node_, key, place, [&](const detail::ConfigPathPtr& path) {
    auto value = detail::parse_yaml(yaml_value, place_name, false, path);
    if (!value) raise_at(place, "must have a value; write null for none");
    return value;
  });
}

void Config::adopt(const std::string& key, Config& from, const std::string& from_key) {
  const auto* entry = from.node_->find(from_key);
  HALFSTEP_CHECK_USAGE(entry, "Config::adopt", "the key must be given, but got '", from_key,
                       "', which is not; ask has() first");
  const auto place = entry->place;
  const auto value = entry->value;
  from.remove(from_key);
  slot(*node_, key, place) = value;
  node_->find(key)->place = place;
}

void Config::remove(const std::string& key) {
  std::erase_if(node_->entries, [&](const auto& entry) { return entry.key == key; });
}

}  // namespace halfstep::train
