#include "halfstep/train/config/expression.h"

#include "halfstep/train/config/parse.h"
#include "halfstep/train/config/scalar.h"
#include "halfstep/train/config/write.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <string_view>

namespace halfstep::train::detail {
namespace {

using Kind = ConfigNode::Kind;

constexpr size_t max_copies = 100000;
constexpr size_t max_text = 4096;  // bytes of one value of the environment

std::string_view trimmed(std::string_view text) {
  const size_t begin = std::min(text.find_first_not_of(" \t"), text.size());
  text.remove_prefix(begin);
  return text.substr(0, text.find_last_not_of(" \t") + 1);
}

// One scalar's substitution.
class Scalar {
 public:
  Scalar(ConfigNode& node, const Substitutions& values) : node_(node), values_(values) {}

  void substitute() {
    const bool alone = node_.pieces.size() == 1 && !node_.quoted;
    std::string text;
    for (const auto& piece : node_.pieces) {
      if (!piece.is_expression) {
        text += piece.text;
        continue;
      }
      const auto content = unquoted(piece.text);
      if (content.starts_with("_base_")) {
        const ConfigNode& value = base_value(content);
        if (alone) {
          copy(value, node_);
          return;
        }
        if (value.kind != Kind::scalar)
          refuse(content,
                 "must name a text or a number where other text stands beside it or "
                 "around it, but got " +
                     describe(value));
        text += value.text;
      } else {
        text += value_of(content);
      }
    }
    node_.pieces.clear();
    node_.text = std::move(text);
    if (!node_.quoted && is_null(node_.text)) node_.kind = Kind::null;
  }

 private:
  [[noreturn]] void refuse(std::string_view content, const std::string& rule) const {
    raise_at(node_.place, "{{", std::string(content), "}} ", rule);
  }

  // MMEngine's configs write {{'$NAME:5'}}, too.
  std::string_view unquoted(std::string_view content) const {
    content = trimmed(content);
    const char quote = content.empty() ? '\0' : content[0];
    if ((quote == '\'' || quote == '"') && content.size() > 1 && content.back() == quote)
      content = trimmed(content.substr(1, content.size() - 2));
    if (content.find_first_of("'\"\\") != content.npos)
      refuse(content, "must have no quotes and backslashes inside");
    return content;
  }

  std::string value_of(std::string_view content) const {
    if (content == "{{") return "{{";
    if (content.starts_with("$")) return variable(content);
    if (content.starts_with("file")) return file_part(content);
    refuse(content,
           "must be $NAME, $NAME:default, _base_.key, fileDirname, fileBasename, "
           "fileBasenameNoExtension or fileExtname; write {{'{{'}} for the two characters");
  }

  std::string variable(std::string_view content) const {
    const size_t colon = content.find(':');
    const std::string name(trimmed(content.substr(1, std::min(colon, content.size()) - 1)));
    const auto is_word = [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
    };
    if (name.empty() || !std::all_of(name.begin(), name.end(), is_word))
      refuse(content, "must name a variable of letters, digits and _");
    std::string value(colon == content.npos ? "" : trimmed(content.substr(colon + 1)));
    const char* set = std::getenv(name.c_str());
    if (set) value = set;
    if (value.empty())
      refuse(content, std::string("must have a value, but ") + name + " is " +
                          (set ? "empty" : "not set in the environment and no default is given") +
                          "; set it" + (set ? "" : ", or write {{$" + name + ":default}}"));
    if (value.size() > max_text)
      refuse(content, "must have at most " + std::to_string(max_text) + " bytes, but got " +
                          std::to_string(value.size()));
    check_characters(value, {node_.place.text() + ": variable " + name});
    return value;
  }

  std::string file_part(std::string_view content) const {
    const auto& file = values_.file;
    if (file.empty()) refuse(content, "must stand in a file; a text has no name");
    if (content == "fileDirname") return std::filesystem::absolute(file).parent_path().string();
    if (content == "fileBasename") return file.filename().string();
    if (content == "fileBasenameNoExtension") return file.stem().string();
    if (content == "fileExtname") return file.extension().string();
    refuse(content,
           "must be one of fileDirname, fileBasename, fileBasenameNoExtension, fileExtname");
  }

  const ConfigNode& base_value(std::string_view content) const {
    if (!values_.bases) refuse(content, "must stand in a file that inherits, beside its _base_");
    const ConfigNode* node = values_.bases;
    std::string_view rest = content.substr(std::string_view("_base_").size());
    while (!rest.empty()) {
      if (rest[0] != '.') refuse(content, "must be _base_.key.key");
      rest.remove_prefix(1);
      const std::string key(rest.substr(0, std::min(rest.find('.'), rest.size())));
      rest.remove_prefix(key.size());
      node = step(*node, key);
      if (!node) refuse(content, "must name a value of the files in _base_, which have no " + key);
    }
    if (node == values_.bases) refuse(content, "must be _base_.key.key");
    return *node;
  }

  static const ConfigNode* step(const ConfigNode& node, const std::string& key) {
    if (node.kind == Kind::list) {
      size_t index = 0;
      const auto result = std::from_chars(key.data(), key.data() + key.size(), index);
      const bool found = result.ec == std::errc() && result.ptr == key.data() + key.size() &&
                         index < node.items.size();
      return found ? node.items[index].get() : nullptr;
    }
    for (const auto& entry : node.entries)
      if (entry.key == key) return entry.value.get();
    return nullptr;
  }

  // Into a node that keeps its path.
  void copy(const ConfigNode& from, ConfigNode& to) const {
    if (length_of(to.path) + depth_of(from) > max_depth)
      raise_at(node_.place, "is nested deeper than ", max_depth, " levels");
    copy_below(from, to);
  }

  void copy_below(const ConfigNode& from, ConfigNode& to) const {
    if (++*values_.copies > max_copies)
      raise_at(place_, "must not copy more than ", max_copies, " values of _base_");
    to.place = from.place;
    to.kind = from.kind;
    to.text = from.text;
    to.quoted = from.quoted;
    to.pieces.clear();
    const auto copied = [&](const ConfigNode& child, const std::string& key) {
      auto node = std::make_shared<ConfigNode>();
      node->path = below(to.path, key);
      copy_below(child, *node);
      return node;
    };
    for (const auto& entry : from.entries)
      to.entries.push_back({entry.key, entry.place, copied(*entry.value, entry.key)});
    for (const auto& item : from.items)
      to.items.push_back(copied(*item, std::to_string(to.items.size())));
  }

  ConfigNode& node_;
  const Place place_ = node_.place;  // a copy has its own
  const Substitutions& values_;
};

}  // namespace

std::vector<Expression> hide_expressions(std::string& text) {
  std::vector<Expression> found;
  size_t at = 0;
  while ((at = text.find("{{", at)) != text.npos) {
    const size_t line_end = std::min(text.find_first_of("\r\n", at), text.size());
    const size_t end = std::string_view(text).substr(0, line_end).find("}}", at + 2);
    if (end == text.npos) {
      at = line_end;
      continue;
    }
    const size_t length = end + 2 - at;
    found.push_back({at, length, text.substr(at + 2, length - 4)});
    text.replace(at, length, length, hidden);
    at += length;
  }
  return found;
}

void substitute(ConfigNode& node, const Substitutions& values) {
  if (!node.pieces.empty()) {
    Scalar(node, values).substitute();
    return;
  }
  for (const auto& entry : node.entries) substitute(*entry.value, values);
  for (const auto& item : node.items) substitute(*item, values);
}

}  // namespace halfstep::train::detail
