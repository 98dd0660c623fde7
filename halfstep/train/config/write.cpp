#include "halfstep/train/config/write.h"

#include "halfstep/train/config/scalar.h"

#include <algorithm>

namespace halfstep::train::detail {
namespace {

using Kind = ConfigNode::Kind;

bool fits_one_line(const ConfigNode& node) {
  if (node.kind == Kind::mapping) return node.entries.empty();
  return std::all_of(node.items.begin(), node.items.end(),
                     [](const auto& item) { return fits_one_line(*item); });
}

std::string write_line(const ConfigNode& node) {
  switch (node.kind) {
    case Kind::null:
      return "null";
    case Kind::mapping:
      return "{}";
    case Kind::scalar: {
      const bool typed = !node.quoted && scalar_type(node.text) != ScalarType::text;
      return typed ? node.text : to_yaml(node.text);
    }
    case Kind::list:
      break;
  }
  std::string out = "[";
  for (const auto& item : node.items) {
    if (out.size() > 1) out += ", ";
    out += write_line(*item);
  }
  return out + "]";
}

std::string write_block(const ConfigNode& node, size_t indent) {
  std::string out;
  for (const auto& entry : node.entries) {
    out += std::string(indent, ' ') + to_yaml(entry.key) + ":";
    if (fits_one_line(*entry.value))
      out += " " + write_line(*entry.value) + "\n";
    else
      out += "\n" + write_block(*entry.value, indent + 2);
  }
  for (const auto& item : node.items) {
    if (fits_one_line(*item)) {
      out += std::string(indent, ' ') + "- " + write_line(*item) + "\n";
    } else {
      std::string block = write_block(*item, indent + 2);
      block[indent] = '-';
      out += block;
    }
  }
  return out;
}

// Cut between characters: the text is UTF-8.
std::string shorten(std::string text) {
  constexpr size_t max_bytes = 60;
  if (text.size() <= max_bytes) return text;
  size_t end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end) + "...";
}

}  // namespace

std::string write_yaml(const ConfigNode& node) {
  return fits_one_line(node) ? write_line(node) + "\n" : write_block(node, 0);
}

nlohmann::json to_json(const ConfigNode& node) {
  if (node.kind == Kind::scalar) {
    if (node.quoted) return node.text;
    if (const auto boolean = read_bool(node.text).value) return *boolean;
    if (const auto integer = read_int(node.text).value) return *integer;
    if (const auto number = read_double(node.text).value) return *number;
    return node.text;
  }
  nlohmann::json json = nullptr;
  if (node.kind == Kind::mapping) json = nlohmann::json::object();
  if (node.kind == Kind::list) json = nlohmann::json::array();
  for (const auto& entry : node.entries) json[entry.key] = to_json(*entry.value);
  for (const auto& item : node.items) json.push_back(to_json(*item));
  return json;
}

std::string describe(const ConfigNode& node) {
  if (node.kind == Kind::mapping) return "a mapping";
  if (node.kind == Kind::list)
    return fits_one_line(node) ? shorten(write_line(node)) : "a list with mappings";
  if (node.kind != Kind::scalar) return "null";
  const std::string text = to_yaml(node.text);
  if (node.quoted) return shorten(text[0] == '"' ? text : '"' + text + '"');
  // As written, unless it spans lines.
  return shorten(text.find('\\') == text.npos ? node.text : text);
}

}  // namespace halfstep::train::detail
