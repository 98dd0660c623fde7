#include "halfstep/train/config/scalar.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

namespace halfstep::train::detail {
namespace {

constexpr std::string_view digits = "0123456789";

bool one_of(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), text) != words.end();
}

// Removes leading digits and returns how many there were.
size_t skip_digits(std::string_view& text) {
  const size_t count = std::min(text.find_first_not_of(digits), text.size());
  text.remove_prefix(count);
  return count;
}

void skip_sign(std::string_view& text) {
  if (!text.empty() && (text[0] == '+' || text[0] == '-')) text.remove_prefix(1);
}

// [sign] digits
bool is_decimal_int(std::string_view text) {
  skip_sign(text);
  return skip_digits(text) > 0 && text.empty();
}

// [sign] digits [. digits] [e [sign] digits], where digits may lack on one side of the point
bool is_decimal(std::string_view text) {
  skip_sign(text);
  size_t count = skip_digits(text);
  if (!text.empty() && text[0] == '.') {
    text.remove_prefix(1);
    count += skip_digits(text);
  }
  if (count == 0) return false;
  if (!text.empty() && (text[0] == 'e' || text[0] == 'E')) {
    text.remove_prefix(1);
    skip_sign(text);
    if (skip_digits(text) == 0) return false;
  }
  return text.empty();
}

bool is_not_finite(std::string_view text) {
  skip_sign(text);
  return one_of(text, {".inf", ".Inf", ".INF", ".nan", ".NaN", ".NAN"});
}

bool has_radix(std::string_view text) {
  skip_sign(text);
  if (text.size() < 3 || text[0] != '0') return false;
  const std::string_view rest = text.substr(2);
  return (text[1] == 'x' && rest.find_first_not_of("0123456789abcdefABCDEF") == rest.npos) ||
         (text[1] == 'o' && rest.find_first_not_of("01234567") == rest.npos);
}

// std::from_chars takes no plus sign.
std::string_view without_plus(std::string_view text) {
  if (!text.empty() && text[0] == '+') text.remove_prefix(1);
  return text;
}

// Texts that any YAML reader takes for text, in a block and in a [list].
bool is_safe_plain(std::string_view text) {
  const auto letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '/';
  };
  const auto inner = [&](char c) {
    return letter(c) || digits.find(c) != digits.npos || c == '.' || c == '+' || c == '-' ||
           c == ' ';
  };
  return !text.empty() && letter(text[0]) && std::all_of(text.begin(), text.end(), inner) &&
         text.back() != ' ' && !is_null(text) && scalar_type(text) == ScalarType::text;
}

}  // namespace

bool is_null(std::string_view plain) {
  return one_of(plain, {"", "~", "null", "Null", "NULL"});
}

ScalarType scalar_type(std::string_view plain) {
  if (one_of(plain, {"true", "True", "TRUE", "false", "False", "FALSE", "yes", "Yes", "YES", "no",
                     "No", "NO", "on", "On", "ON", "off", "Off", "OFF"}))
    return ScalarType::boolean;
  if (is_decimal(plain) || is_not_finite(plain) || has_radix(plain)) return ScalarType::number;
  return ScalarType::text;
}

Reading<bool> read_bool(std::string_view plain) {
  if (plain == "true") return {true, ""};
  if (plain == "false") return {false, ""};
  return {std::nullopt, "must be true or false"};
}

Reading<int64_t> read_int(std::string_view plain) {
  if (scalar_type(plain) != ScalarType::number) return {std::nullopt, "must be an integer"};
  std::string_view magnitude = plain;
  skip_sign(magnitude);
  if (!is_decimal_int(plain) || (magnitude.size() > 1 && magnitude[0] == '0'))
    return {std::nullopt, "must be an integer in plain decimal digits"};
  const std::string_view text = without_plus(plain);
  int64_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc())
    return {std::nullopt,
            "must be an integer between -9223372036854775808 and 9223372036854775807"};
  return {value, ""};
}

Reading<double> read_double(std::string_view plain) {
  if (is_not_finite(plain)) return {std::nullopt, "must be a finite number"};
  if (!is_decimal(plain)) {
    const bool radix = has_radix(plain);
    return {std::nullopt, radix ? "must be a number in decimal digits" : "must be a number"};
  }
  const std::string_view text = without_plus(plain);
  double value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc() || !std::isfinite(value))
    return {std::nullopt, "must be a number in the range of a double"};
  return {value, ""};
}

std::string to_yaml(bool value) {
  return value ? "true" : "false";
}

std::string to_yaml(int64_t value) {
  return std::to_string(value);
}

std::string to_yaml(double value) {
  std::array<char, 32> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value).ptr;
  std::string text(buffer.data(), end);
  // A point, so that it reads back as a double everywhere: YAML 1.1 takes 1e-05 for text.
  if (text.find('.') == text.npos) text.insert(std::min(text.find('e'), text.size()), ".0");
  return text;
}

std::string to_yaml(const std::string& text) {
  if (is_safe_plain(text)) return text;
  static constexpr char hex[] = "0123456789ABCDEF";
  std::string quoted = "\"";
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const auto byte = static_cast<unsigned char>(c);
    if (text.compare(i, 2, "{{") == 0) {
      quoted += "{{'{{'}}";
      ++i;
    } else if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (c == '\n') {
      quoted += "\\n";
    } else if (byte < 0x20 || byte == 0x7F) {
      quoted += {'\\', 'x', hex[byte >> 4], hex[byte & 15]};
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

}  // namespace halfstep::train::detail
