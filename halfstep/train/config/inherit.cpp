#include "halfstep/train/config/inherit.h"

#include "halfstep/train/config/expression.h"
#include "halfstep/train/config/parse.h"
#include "halfstep/train/config/scalar.h"
#include "halfstep/train/config/write.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

namespace halfstep::train::detail {
namespace {

using Kind = ConfigNode::Kind;
using NodePtr = std::shared_ptr<ConfigNode>;

constexpr size_t max_files = 100;
constexpr const char* base_key = "_base_";
constexpr const char* delete_key = "_delete_";

// Takes the entry of a key out of a mapping.
std::optional<ConfigNode::Entry> take(ConfigNode& mapping, const std::string& key) {
  const auto found = std::find_if(mapping.entries.begin(), mapping.entries.end(),
                                  [&](const auto& entry) { return entry.key == key; });
  if (found == mapping.entries.end()) return std::nullopt;
  auto entry = std::move(*found);
  mapping.entries.erase(found);
  return entry;
}

// Whether a mapping says `_delete_: true`; takes the key out.
bool take_delete(ConfigNode& mapping, const ConfigNode::Entry* in_base) {
  const auto entry = take(mapping, delete_key);
  if (!entry) return false;
  const auto wants = entry->value->quoted ? std::nullopt : read_bool(entry->value->text).value;
  if (!wants)
    raise_at(entry->place, path_text(entry->value->path), " must be true or false, but got ",
             describe(*entry->value));
  if (*wants && !in_base)
    raise_at(entry->place, path_text(entry->value->path), " must have something to delete, but no ",
             "file in _base_ has ", path_text(mapping.path), "; leave it out");
  return *wants;
}

void refuse_reserved(const ConfigNode::Entry& entry, const ConfigNode& mapping) {
  if (entry.key == base_key)
    raise_at(entry.place, "_base_ must stand at the top of a file, but got it",
             in_path(mapping.path));
  if (entry.key == delete_key)
    raise_at(entry.place, path_text(entry.value->path),
             " must stand in a mapping that is merged into the same key of a file in _base_; "
             "leave it out");
}

// Merges the entries of a mapping of the file that inherits into the base's.
void merge(ConfigNode& base, ConfigNode& child) {
  base.place = child.place;
  for (auto& entry : child.entries) {
    refuse_reserved(entry, child);
    auto* below = base.find(entry.key);
    auto& value = *entry.value;
    const bool merged = value.kind == Kind::mapping && !take_delete(value, below) && below &&
                        below->value->kind != Kind::null;
    if (!merged) {
      refuse_reserved_keys(value);
      if (below)
        *below = std::move(entry);
      else
        base.entries.push_back(std::move(entry));
      continue;
    }
    if (below->value->kind != Kind::mapping)
      raise_at(entry.place, path_text(value.path),
               " must be a mapping in the file it is inherited from, too, to be merged, but ",
               below->place.text(), " has ", describe(*below->value),
               "; write _delete_: true in it to replace that");
    merge(*below->value, value);
    below->place = entry.place;
  }
}

// One config with its bases.
class Inheritance {
 public:
  explicit Inheritance(const ReadFile& read) : read_(read) {}

  NodePtr parse(const std::string& text, const std::string& name,
                const std::filesystem::path& file) {
    auto root = parse_yaml(text, name);
    if (!root || root->kind != Kind::mapping)
      raise_at(root ? root->place : Place{name}, "must hold a mapping (key: value), but got ",
               root ? describe(*root) : "nothing");
    Substitutions values{file, nullptr, &copies_};
    NodePtr bases;
    if (auto entry = take(*root, base_key)) {
      if (file.empty())
        raise_at(entry->place, "_base_ must stand in a file, but this text is none");
      substitute(*entry->value, values);
      open_.push_back(file.lexically_normal());
      bases = load_bases(*entry, file);
      open_.pop_back();
      values.bases = bases.get();
    }
    substitute(*root, values);
    if (!bases) {
      refuse_reserved_keys(*root);
      return root;
    }
    merge(*bases, *root);
    return bases;
  }

 private:
  static std::vector<NodePtr> names_of(const ConfigNode::Entry& entry) {
    std::vector<NodePtr> names;
    if (entry.value->kind == Kind::list)
      names = entry.value->items;
    else
      names.push_back(entry.value);
    for (const auto& name : names)
      if (name->kind != Kind::scalar ||
          (!name->quoted && scalar_type(name->text) != ScalarType::text) || name->text.empty())
        raise_at(entry.place, "_base_ must be a file or a list of files, but got ",
                 describe(*entry.value));
    return names;
  }

  NodePtr load_bases(const ConfigNode::Entry& entry, const std::filesystem::path& file) {
    auto all = std::make_shared<ConfigNode>();
    all->kind = Kind::mapping;
    for (const auto& name : names_of(entry)) {
      const auto path = (file.parent_path() / name->text).lexically_normal();
      const auto loaded = load(path, *name);
      for (auto& added : loaded->entries) {
        if (const auto* first = all->find(added.key))
          raise_at(added.place, "key '", added.key, "' must be in one of the files that ",
                   entry.place.text(), " names in _base_, but ", first->place.text(),
                   " has it, too; keep one, or let one of the files inherit the other");
        all->entries.push_back(std::move(added));
      }
    }
    return all;
  }

  NodePtr load(const std::filesystem::path& path, const ConfigNode& name) {
    const auto cycle = std::find(open_.begin(), open_.end(), path);
    if (cycle != open_.end()) {
      std::string chain;
      for (auto file = cycle; file != open_.end(); ++file) chain += file->string() + " -> ";
      raise_at(name.place, "_base_ must not lead back to a file that inherits it, but got ", chain,
               path.string());
    }
    if (++files_ > max_files)
      raise_at(name.place, "_base_ must lead to at most ", max_files, " files, but got more");
    std::string text;
    try {
      text = read_(path);
    } catch (const Error& error) {
      raise_at(name.place, "_base_ must name files that can be read, but got ", describe(name),
               ": ", error.what());
    }
    return parse(text, path.string(), path);
  }

  const ReadFile& read_;
  std::vector<std::filesystem::path> open_;  // the files whose bases are being read
  size_t files_ = 0;
  size_t copies_ = 0;
};

}  // namespace

std::shared_ptr<ConfigNode> parse_inheriting(const std::string& text,
                                             const std::filesystem::path& file,
                                             const ReadFile& read) {
  return Inheritance(read).parse(text, file.string(), file);
}

std::shared_ptr<ConfigNode> parse_alone(const std::string& text, const std::string& name) {
  const ReadFile none;
  return Inheritance(none).parse(text, name, {});
}

void refuse_reserved_keys(const ConfigNode& node) {
  for (const auto& entry : node.entries) {
    refuse_reserved(entry, node);
    refuse_reserved_keys(*entry.value);
  }
  for (const auto& item : node.items) refuse_reserved_keys(*item);
}

}  // namespace halfstep::train::detail
