#pragma once
#include <cstddef>
#include <string>
#include <string_view>

namespace halfstep::detail {

/// Reads one line of a plan's text, token by token; spaces before a token don't count, and what
/// stands behind # outside of quotes is none of it. Throws UsageError that names the line.
class LineReader {
 public:
  /// `name` of the text and the line's number, from 1, are for messages.
  LineReader(std::string_view line, const std::string& name, size_t number)
      : rest_(line), name_(name), number_(number) {}

  /// Whether nothing is left.
  bool is_empty();
  void end();

  /// Takes `token` if it is next.
  bool take(std::string_view token);
  void expect(std::string_view token);

  /// The next character, 0 at the end.
  char peek();

  /// A number without a sign.
  size_t number();
  /// Letters, digits and what op and dtype names have: _ . : @
  std::string word();
  /// A text in quotes, in which \ stands before " and \.
  std::string quoted();

  /// "[PrecisionPlan] line 3 of NAME: RULE, but got 'VALUE'; …"
  [[noreturn]] void fail(std::string_view rule, std::string_view value) const;

 private:
  std::string_view rest_;
  const std::string& name_;
  size_t number_;
};

/// `text` as LineReader::quoted takes it (and Graphviz, too).
std::string quote(const std::string& text);

}  // namespace halfstep::detail
