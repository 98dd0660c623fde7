#include "halfstep/train/config/read.h"

#include "halfstep/train/config/scalar.h"
#include "halfstep/train/config/write.h"

#include <cmath>

namespace halfstep::train::detail {
namespace {

using Kind = ConfigNode::Kind;

[[noreturn]] void refuse(const ConfigNode& node, const Place& place, const std::string& rule,
                         const std::string& remedy = "") {
  raise_at(place, path_text(node.path), " ", rule, ", but got ", describe(node),
           remedy.empty() ? "" : "; " + remedy);
}

// The remedy for what people who know YAML 1.1 write.
std::string bool_remedy(const std::string& text) {
  if (scalar_type(text) != ScalarType::boolean) return "";
  static const std::set<std::string> yes{"True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"};
  return yes.contains(text) ? "write true" : "write false";
}

template <class T>
T typed(const ConfigNode& node, const Place& place, Reading<T> (*reader)(std::string_view)) {
  // What the text would have to be, also for a list or a mapping.
  const auto reading = reader(node.kind == Kind::scalar ? node.text : "x");
  if (node.kind == Kind::scalar && !node.quoted && reading.value) return *reading.value;
  if (node.kind == Kind::scalar && node.quoted && reading.value)
    refuse(node, place, reader("x").rule, "leave the quotes out");
  refuse(node, place, reading.rule, std::is_same_v<T, bool> ? bool_remedy(node.text) : "");
}

void read_into(const ConfigNode& node, const Place& place, bool& value) {
  value = typed(node, place, read_bool);
}
void read_into(const ConfigNode& node, const Place& place, int64_t& value) {
  value = typed(node, place, read_int);
}
void read_into(const ConfigNode& node, const Place& place, double& value) {
  value = typed(node, place, read_double);
}
void read_into(const ConfigNode& node, const Place& place, std::string& value) {
  if (node.kind != Kind::scalar) refuse(node, place, "must be a text");
  if (!node.quoted && scalar_type(node.text) != ScalarType::text)
    refuse(node, place, "must be a text", "put it in quotes");
  value = node.text;
}

const char* plural(const int64_t&) {
  return "integers";
}
const char* plural(const double&) {
  return "numbers";
}
const char* plural(const std::string&) {
  return "texts";
}

template <class T>
void read_into(const ConfigNode& node, const Place& place, std::vector<T>& values) {
  if (node.kind != Kind::list)
    refuse(node, place, std::string("must be a list of ") + plural(T{}), "write [a, b]");
  for (const auto& item : node.items) read_into(*item, item->place, values.emplace_back());
}

std::shared_ptr<ConfigNode> make_scalar(std::string text, bool quoted) {
  auto node = std::make_shared<ConfigNode>();
  node->kind = Kind::scalar;
  node->text = std::move(text);
  node->quoted = quoted;
  return node;
}

std::shared_ptr<ConfigNode> make(bool value) {
  return make_scalar(to_yaml(value), false);
}
std::shared_ptr<ConfigNode> make(int64_t value) {
  return make_scalar(to_yaml(value), false);
}
std::shared_ptr<ConfigNode> make(const std::string& value) {
  return make_scalar(value, true);
}
std::shared_ptr<ConfigNode> make(double value) {
  HALFSTEP_CHECK_USAGE(std::isfinite(value), "Config::get", "a default must be finite, but got ",
                       value, "; ask has() instead");
  return make_scalar(to_yaml(value), false);
}
template <class T>
std::shared_ptr<ConfigNode> make(const std::vector<T>& values) {
  auto node = std::make_shared<ConfigNode>();
  node->kind = Kind::list;
  for (const T& value : values) node->items.push_back(make(value));
  return node;
}

}  // namespace

template <ConfigValue T>
T read(const ConfigNode& node, const Place& place) {
  T value{};
  read_into(node, place, value);
  return value;
}

template <ConfigValue T>
std::shared_ptr<ConfigNode> make_node(const T& value) {
  return make(value);
}

#define HALFSTEP_CONFIG_TYPE(T)                        \
  template T read<T>(const ConfigNode&, const Place&); \
  template std::shared_ptr<ConfigNode> make_node<T>(const T&)
HALFSTEP_CONFIG_TYPE(bool);
HALFSTEP_CONFIG_TYPE(int64_t);
HALFSTEP_CONFIG_TYPE(double);
HALFSTEP_CONFIG_TYPE(std::string);
HALFSTEP_CONFIG_TYPE(std::vector<int64_t>);
HALFSTEP_CONFIG_TYPE(std::vector<double>);
HALFSTEP_CONFIG_TYPE(std::vector<std::string>);
#undef HALFSTEP_CONFIG_TYPE

}  // namespace halfstep::train::detail
