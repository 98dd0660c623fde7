#pragma once
#include <cstddef>
#include <optional>
#include <regex>
#include <string>
#include <vector>

namespace halfstep::detail {

/// The path of a part of a model, or a regular expression (ECMAScript's) that whole paths match.
class PathPattern {
 public:
  /// Throws UsageError, "[where] …", for text that is no regular expression. `exact`: it is a path
  /// and nothing else, whatever dots may mean in it.
  PathPattern(const char* where, std::string text, bool exact = false);

  const std::string& text() const { return text_; }
  bool matches(const std::string& path) const;

  /// What stands before the first character that makes it a pattern, without a dot at the end:
  /// "head" of "head.*".
  std::string literal_part() const;

 private:
  std::string text_;
  std::optional<std::regex> regex_;
};

/// Which of `patterns` a path follows, as in Keras: the one that is the path itself, else the one
/// it matches; none where it matches none. Throws UsageError that names two where it matches more.
std::optional<size_t> match_path(const char* where, const std::string& path,
                                 const std::vector<PathPattern>& patterns);

}  // namespace halfstep::detail
