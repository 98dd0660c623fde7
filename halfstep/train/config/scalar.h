#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace halfstep::train::detail {

/// What a plain (unquoted) scalar is in YAML 1.2: `true` a bool, `12` and `0x1F` integers, `1e-3`
/// and `.inf` numbers, the rest text. Bools are wider than YAML 1.2's (`yes`, `Off`), so that a
/// text that other readers take for a bool is written in quotes.
enum class ScalarType { boolean, number, text };
ScalarType scalar_type(std::string_view plain);

/// Whether a plain scalar is null: empty, `~` or `null`.
bool is_null(std::string_view plain);

/// The value of a plain scalar, or the rule it breaks: "must be an integer".
template <class T>
struct Reading {
  std::optional<T> value;
  std::string rule;
};
Reading<bool> read_bool(std::string_view plain);
Reading<int64_t> read_int(std::string_view plain);
Reading<double> read_double(std::string_view plain);

/// A value in YAML, such that it reads back as the same type and the same bits: 1.0 stays a double,
/// "5" gets quotes, {{ is written as an expression that gives {{.
std::string to_yaml(bool value);
std::string to_yaml(int64_t value);
std::string to_yaml(double value);
std::string to_yaml(const std::string& text);

}  // namespace halfstep::train::detail
