#include "halfstep/graph/plan/line_reader.h"

#include "halfstep/core/error.h"

#include <charconv>

namespace halfstep::detail {

namespace {

bool is_of_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '.' || c == ':' || c == '@';
}

}  // namespace

char LineReader::peek() {
  while (!rest_.empty() && (rest_.front() == ' ' || rest_.front() == '\t' || rest_.front() == '\r'))
    rest_.remove_prefix(1);
  if (!rest_.empty() && rest_.front() == '#') rest_ = {};
  return rest_.empty() ? '\0' : rest_.front();
}

bool LineReader::is_empty() {
  peek();
  return rest_.empty();
}

void LineReader::end() {
  if (!is_empty()) fail("a line must end here", rest_);
}

bool LineReader::take(std::string_view token) {
  peek();
  if (rest_.substr(0, token.size()) != token) return false;
  rest_.remove_prefix(token.size());
  return true;
}

void LineReader::expect(std::string_view token) {
  if (!take(token)) fail("'" + std::string(token) + "' must stand here", rest_);
}

size_t LineReader::number() {
  peek();
  size_t value = 0;
  const auto [last, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value);
  if (error != std::errc()) fail("a number must stand here", rest_);
  rest_.remove_prefix(static_cast<size_t>(last - rest_.data()));
  return value;
}

std::string LineReader::word() {
  peek();
  size_t length = 0;
  while (length < rest_.size() && is_of_word(rest_[length])) ++length;
  // "white:" is a word and a colon, "mylib::op" one word.
  while (length > 0 && rest_[length - 1] == ':') --length;
  if (length == 0) fail("a name must stand here", rest_);
  std::string word(rest_.substr(0, length));
  rest_.remove_prefix(length);
  return word;
}

std::string LineReader::quoted() {
  expect("\"");
  std::string text;
  while (!rest_.empty() && rest_.front() != '"') {
    if (rest_.front() == '\\') rest_.remove_prefix(1);
    if (rest_.empty()) break;
    text += rest_.front();
    rest_.remove_prefix(1);
  }
  if (rest_.empty()) fail("a quote must end on its line", text);
  rest_.remove_prefix(1);
  return text;
}

void LineReader::fail(std::string_view rule, std::string_view value) const {
  const std::string shown(value.substr(0, 60));
  raise<UsageError>("PrecisionPlan", "line ", number_, " of ", name_, ": ", rule,
                    value.empty() ? ", but got nothing" : ", but got '" + shown + "'",
                    "; save the plan again, and change only its colors");
}

std::string quote(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c;
  }
  return result + "\"";
}

}  // namespace halfstep::detail
