#include "halfstep/core/path_patterns.h"

#include "halfstep/core/error.h"

#include <utility>

namespace halfstep::detail {

PathPattern::PathPattern(const char* where, std::string text, bool exact) : text_(std::move(text)) {
  if (exact) return;
  try {
    regex_.emplace(text_);
  } catch (const std::regex_error& error) {
    raise<UsageError>(where, "a path must be one or a regular expression, but got '", text_, "' (",
                      error.what(), "); put \\ before a character that means itself");
  }
}

bool PathPattern::matches(const std::string& path) const {
  return text_ == path || (regex_ && std::regex_match(path, *regex_));
}

std::string PathPattern::literal_part() const {
  auto end = text_.find_first_of("*+?()[]{}|^$\\");
  if (end == std::string::npos) return text_;
  // A quantifier belongs to the character before it.
  if (end > 0 && std::string_view("*+?{").find(text_[end]) != std::string_view::npos) --end;
  while (end > 0 && text_[end - 1] == '.') --end;
  return text_.substr(0, end);
}

std::optional<size_t> match_path(const char* where, const std::string& path,
                                 const std::vector<PathPattern>& patterns) {
  std::optional<size_t> match;
  for (size_t i = 0; i < patterns.size(); ++i) {
    if (patterns[i].text() == path) return i;
  }
  for (size_t i = 0; i < patterns.size(); ++i) {
    if (!patterns[i].matches(path)) continue;
    HALFSTEP_CHECK_USAGE(!match, where, "a path must match one pattern, but '", path, "' matches '",
                         patterns[*match].text(), "' and '", patterns[i].text(),
                         "'; narrow one of them, or name the path itself");
    match = i;
  }
  return match;
}

}  // namespace halfstep::detail
