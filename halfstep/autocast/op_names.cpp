#include "halfstep/autocast/op_names.h"

#include "halfstep/core/error.h"
#include "halfstep/core/nearest.h"

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>

namespace halfstep::detail {

namespace {

constexpr std::string_view kAten = "aten::";

std::string qualified(std::string_view name) {
  return name.find("::") == std::string_view::npos ? std::string(kAten) + std::string(name)
                                                   : std::string(name);
}

bool is_tensors(const c10::Argument& argument) {
  auto type = argument.type();
  if (const auto optional = type->cast<c10::OptionalType>()) type = optional->getElementType();
  if (const auto list = type->cast<c10::ListType>()) type = list->getElementType();
  return type->isSubtypeOf(*c10::TensorType::get());
}

bool writes(const c10::Argument& argument) {
  return argument.alias_info() != nullptr && argument.alias_info()->isWrite();
}

/// A cast argument of an in-place or out= op would be written in place of the user's tensor.
bool can_have_rule(const c10::FunctionSchema& schema) {
  const auto& arguments = schema.arguments();
  return std::any_of(arguments.begin(), arguments.end(), is_tensors) &&
         std::none_of(arguments.begin(), arguments.end(), writes);
}

using Overloads = std::map<std::string, std::vector<c10::OperatorName>, std::less<>>;

/// All ops by their name without overload. Read anew where `wanted` is not among them: its library
/// may have been loaded since.
std::shared_ptr<const Overloads> overloads(const std::string& wanted) {
  static std::mutex mutex;
  static std::shared_ptr<const Overloads> known;
  const std::lock_guard lock(mutex);
  if (known && known->contains(wanted)) return known;
  Overloads now;
  for (auto& name : c10::Dispatcher::singleton().getAllOpNames()) now[name.name].push_back(name);
  known = std::make_shared<const Overloads>(std::move(now));
  return known;
}

[[noreturn]] void refuse(const std::string& written, const Overloads& known) {
  std::vector<std::string> names;
  const auto dot = written.find('.');
  if (const auto found = known.find(qualified(written.substr(0, dot))); found != known.end()) {
    std::string list;
    for (const auto& name : found->second) {
      const auto op = c10::Dispatcher::singleton().findSchema(name);
      if (!op || !can_have_rule(op->schema())) continue;
      list += (list.empty() ? "" : ", ") + op_name(name);
    }
    raise<UsageError>("OpPolicy",
                      "an op must take tensors and write none of its arguments, but got '", written,
                      "'; ", list.empty() ? "name the op without _ or out" : "name one of " + list);
  }
  for (const auto& [name, list] : known) {
    names.push_back(name.rfind(kAten, 0) == 0 ? name.substr(kAten.size()) : name);
  }
  const auto hint = suggest(written.substr(0, dot), names);
  raise<UsageError>("OpPolicy", "an op must be one that LibTorch has, but got '", written, "'; ",
                    hint.empty() ? "see the names in docs/op_policy.md" : hint);
}

}  // namespace

std::string op_name(const c10::OperatorName& name) {
  const std::string base =
      name.name.rfind(kAten, 0) == 0 ? name.name.substr(kAten.size()) : name.name;
  return name.overload_name.empty() ? base : base + "." + name.overload_name;
}

std::optional<c10::OperatorHandle> find_op(const std::string& name) {
  const auto dot = name.find('.');
  const auto base = qualified(std::string_view(name).substr(0, dot));
  return c10::Dispatcher::singleton().findSchema(
      {base, dot == std::string::npos ? "" : name.substr(dot + 1)});
}

std::vector<c10::OperatorHandle> ops_named(const std::string& written) {
  std::vector<c10::OperatorHandle> ops;
  const auto add = [&ops](const std::string& name) {
    const auto dot = name.find('.');
    const auto base = qualified(std::string_view(name).substr(0, dot));
    auto known = overloads(base);
    const auto found = known->find(base);
    if (found == known->end()) return known;
    const auto overload = dot == std::string::npos ? "" : name.substr(dot + 1);
    for (const auto& candidate : found->second) {
      const bool meant = dot == std::string::npos || candidate.overload_name == overload ||
                         (overload == "default" && candidate.overload_name.empty());
      const auto op = c10::Dispatcher::singleton().findSchema(candidate);
      if (meant && op && can_have_rule(op->schema())) ops.push_back(*op);
    }
    return known;
  };
  const auto members = family(written);
  for (const auto& member : members) add(member);
  if (!members.empty()) return ops;
  const auto known = add(written);
  if (ops.empty()) refuse(written, *known);
  return ops;
}

std::optional<size_t> dtype_argument(const c10::OperatorHandle& op) {
  const auto& arguments = op.schema().arguments();
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i].real_type()->str() == "ScalarType?") return i;
  }
  return std::nullopt;
}

std::optional<c10::OperatorHandle> overload_with_dtype(const c10::OperatorHandle& op) {
  const auto& base = op.operator_name().name;
  const auto& mine = op.schema().arguments();
  const auto known = overloads(base);
  for (const auto& name : known->at(base)) {
    auto other = c10::Dispatcher::singleton().findSchema(name);
    if (!other || !can_have_rule(other->schema())) continue;
    const auto& theirs = other->schema().arguments();
    if (theirs.size() != mine.size() + 1 || theirs.back().real_type()->str() != "ScalarType")
      continue;
    if (std::equal(mine.begin(), mine.end(), theirs.begin(), [](const auto& a, const auto& b) {
          return a.name() == b.name() && a.type()->isSubtypeOf(*b.type());
        }))
      return other;
  }
  return std::nullopt;
}

}  // namespace halfstep::detail
