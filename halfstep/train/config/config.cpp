#include "halfstep/train/config/config.h"

#include "halfstep/core/error.h"
#include "halfstep/core/nearest.h"
#include "halfstep/train/config/inherit.h"
#include "halfstep/train/config/node.h"
#include "halfstep/train/config/parse.h"
#include "halfstep/train/config/read.h"
#include "halfstep/train/config/scalar.h"
#include "halfstep/train/config/write.h"

#include <cerrno>
#include <cstring>
#include <fstream>

namespace halfstep::train {

using detail::ConfigNode;
using Kind = ConfigNode::Kind;

namespace {

std::string full_key(const ConfigNode& mapping, const std::string& key) {
  return path_text(detail::below(mapping.path, key));
}

// The entry of a key that is given and not null, or nullptr.
ConfigNode::Entry* find_given(ConfigNode& mapping, const std::string& key) {
  auto* entry = mapping.find(key);
  return entry && !entry->is_default && entry->value->kind != Kind::null ? entry : nullptr;
}

ConfigNode::Entry* find_allowed(ConfigNode& mapping, const std::string& key) {
  mapping.allowed.insert(key);
  return find_given(mapping, key);
}

ConfigNode::Entry& find_required(ConfigNode& mapping, const std::string& key) {
  if (auto* entry = find_allowed(mapping, key)) return *entry;
  if (const auto* null = mapping.find(key); null && !null->is_default)
    raise_at(null->place, full_key(mapping, key), " must be given, but got null");
  std::vector<std::string> unread;
  for (const auto& entry : mapping.entries)
    if (!mapping.allowed.contains(entry.key)) unread.push_back(entry.key);
  const std::string near = nearest(key, unread);
  raise_at(mapping.place, "key '", key, "' is missing", in_path(mapping.path), "; ",
           near.empty() ? "add it"
                        : "is '" + near + "' (" + mapping.find(near)->place.text() +
                              ") a misspelling of it?");
}

void fill_in(ConfigNode& mapping, const std::string& key, std::shared_ptr<ConfigNode> value) {
  value->place = mapping.place;
  value->path = detail::below(mapping.path, key);
  auto* entry = mapping.find(key);
  if (!entry) entry = &mapping.entries.emplace_back();
  *entry = {key, mapping.place, std::move(value), true};
}

std::shared_ptr<ConfigNode> copy_of(const ConfigNode& node) {
  auto copy = std::make_shared<ConfigNode>(node);
  copy->allowed.clear();
  copy->ignored.clear();
  std::erase_if(copy->entries, [](const auto& entry) { return entry.is_default; });
  for (auto& entry : copy->entries) entry.value = copy_of(*entry.value);
  for (auto& item : copy->items) item = copy_of(*item);
  return copy;
}

std::shared_ptr<ConfigNode> mapping_of(const ConfigNode::Entry& entry) {
  if (entry.value->kind != Kind::mapping)
    raise_at(entry.place, path_text(entry.value->path), " must be a mapping, but got ",
             describe(*entry.value));
  // Messages about the mapping as a whole point to its key, not to its first line.
  entry.value->place = entry.place;
  return entry.value;
}

std::string read_file(const std::filesystem::path& file) {
  const auto refuse = [&](const std::string& why) {
    halfstep::detail::raise<EnvironmentError>(
        "config", "a config must be a file that can be read, but got '", file.string(), "' (", why,
        "); check its path and permissions");
  };
  if (file.extension() == ".py")
    halfstep::detail::raise<UsageError>(
        "config", "a config must be a YAML file, but got '", file.string(),
        "'; tools/mm_config_to_yaml.py turns Python configs of MMEngine and MMCV into YAML");
  std::error_code ignored;
  if (std::filesystem::is_directory(file, ignored)) refuse("is a directory");
  errno = 0;
  std::ifstream stream(file, std::ios::binary);
  if (!stream) refuse(std::strerror(errno));
  // One byte more than parse_yaml() takes: enough for it to refuse.
  std::string text(detail::max_yaml_bytes + 1, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (stream.bad()) refuse(std::strerror(errno));
  text.resize(static_cast<size_t>(stream.gcount()));
  return text;
}

void check_all_read(const ConfigNode& node) {
  for (const auto& entry : node.entries) {
    if (node.allowed.contains(entry.key) || entry.value->kind == Kind::null) continue;
    const std::vector<std::string> allowed(node.allowed.begin(), node.allowed.end());
    std::string list;
    for (const auto& key : allowed) list += (list.empty() ? "" : ", ") + key;
    const std::string suggestion = suggest(entry.key, allowed);
    raise_at(entry.place, "unknown key '", entry.key, "'", in_path(node.path),
             "; allowed: ", list.empty() ? "none" : list,
             suggestion.empty() ? "" : "; " + suggestion);
  }
  for (const auto& entry : node.entries)
    if (!node.ignored.contains(entry.key)) check_all_read(*entry.value);
  for (const auto& item : node.items) check_all_read(*item);
}

}  // namespace

Config Config::load(const std::filesystem::path& file) {
  return Config(detail::parse_inheriting(read_file(file), file, read_file));
}

Config Config::parse(const std::string& text, const std::string& name) {
  return Config(detail::parse_alone(text, name));
}

bool Config::has(const std::string& key) {
  return find_allowed(*node_, key);
}

std::vector<std::string> Config::keys() const {
  std::vector<std::string> given;
  for (const auto& entry : node_->entries) given.push_back(entry.key);
  return given;
}

bool Config::is_mapping(const std::string& key) const {
  const auto* entry = find_given(*node_, key);
  return entry && entry->value->kind == Kind::mapping;
}

bool Config::is_text(const std::string& key) const {
  const auto* entry = find_given(*node_, key);
  return entry && entry->value->kind == Kind::scalar &&
         (entry->value->quoted ||
          detail::scalar_type(entry->value->text) == detail::ScalarType::text);
}

bool Config::is_number(const std::string& key) const {
  const auto* entry = find_given(*node_, key);
  return entry && entry->value->kind == Kind::scalar && !entry->value->quoted &&
         detail::scalar_type(entry->value->text) == detail::ScalarType::number;
}

template <ConfigValue T>
T Config::get(const std::string& key) {
  const auto& entry = find_required(*node_, key);
  return detail::read<T>(*entry.value, entry.place);
}

template <ConfigValue T>
T Config::get(const std::string& key, const T& fallback) {
  if (const auto* entry = find_allowed(*node_, key))
    return detail::read<T>(*entry->value, entry->place);
  fill_in(*node_, key, detail::make_node(fallback));
  return fallback;
}

#define HALFSTEP_CONFIG_TYPE(T)                  \
  template T Config::get<T>(const std::string&); \
  template T Config::get<T>(const std::string&, const T&)
HALFSTEP_CONFIG_TYPE(bool);
HALFSTEP_CONFIG_TYPE(int64_t);
HALFSTEP_CONFIG_TYPE(double);
HALFSTEP_CONFIG_TYPE(std::string);
HALFSTEP_CONFIG_TYPE(std::vector<int64_t>);
HALFSTEP_CONFIG_TYPE(std::vector<double>);
HALFSTEP_CONFIG_TYPE(std::vector<std::string>);
#undef HALFSTEP_CONFIG_TYPE

Config Config::child(const std::string& key) {
  return Config(mapping_of(find_required(*node_, key)));
}

std::optional<Config> Config::child_if(const std::string& key) {
  const auto* entry = find_allowed(*node_, key);
  return entry ? std::optional(Config(mapping_of(*entry))) : std::nullopt;
}

Config Config::child_or_empty(const std::string& key) {
  if (const auto* entry = find_allowed(*node_, key)) return Config(mapping_of(*entry));
  const auto* filled = node_->find(key);
  if (!filled || !filled->is_default) {
    auto empty = std::make_shared<ConfigNode>();
    empty->kind = Kind::mapping;
    fill_in(*node_, key, std::move(empty));
  }
  return Config(node_->find(key)->value);
}

std::vector<Config> Config::children(const std::string& key) {
  std::vector<Config> result;
  const auto* entry = find_allowed(*node_, key);
  if (!entry) {
    auto empty = std::make_shared<ConfigNode>();
    empty->kind = Kind::list;
    fill_in(*node_, key, std::move(empty));
    return result;
  }
  if (entry->value->kind != Kind::list)
    raise_at(entry->place, path_text(entry->value->path), " must be a list of mappings, but got ",
             describe(*entry->value));
  for (const auto& item : entry->value->items) {
    if (item->kind != Kind::mapping)
      raise_at(item->place, path_text(item->path), " must be a mapping, but got ", describe(*item));
    result.push_back(Config(item));
  }
  return result;
}

Config Config::copy() const {
  return Config(copy_of(*node_));
}

void Config::ignore(const std::string& key) {
  node_->allowed.insert(key);
  node_->ignored.insert(key);
}

void Config::fail(const std::string& key, const std::string& rule) {
  if (key.empty()) raise_at(node_->place, node_->path ? path_text(node_->path) + " " : "", rule);
  const auto* entry = node_->find(key);
  raise_at(entry ? entry->place : node_->place, full_key(*node_, key), " ", rule, ", but ",
           entry ? "got " + describe(*entry->value) : "is not given");
}

int64_t Config::get_count(const std::string& key, int64_t fallback) {
  const auto count = get<int64_t>(key, fallback);
  if (count < 1) fail(key, "must be at least 1");
  return count;
}

std::string Config::where(const std::string& key) const {
  const auto* entry = key.empty() ? nullptr : node_->find(key);
  return entry ? entry->place.text() : node_->place.text();
}

void Config::finish() {
  check_all_read(*node_);
}

std::string Config::resolved() const {
  return write_yaml(*node_);
}

nlohmann::json Config::to_json() const {
  return detail::to_json(*node_);
}

}  // namespace halfstep::train
