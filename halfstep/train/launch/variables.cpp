#include "halfstep/train/launch/variables.h"

#include "halfstep/core/error.h"

#include <charconv>

namespace halfstep::train::detail {

const std::string* find_variable(const dist::Variables& variables, const char* name) {
  const auto found = variables.find(name);
  return found == variables.end() || found->second.empty() ? nullptr : &found->second;
}

int read_number(const char* where, const char* name, const std::string& text, int least, int most) {
  int number = -1;
  const auto end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, number);
  HALFSTEP_CHECK_USAGE(
      result.ec == std::errc() && result.ptr == end && number >= least && number <= most, where,
      name, " must be a whole number from ", least, " to ", most, ", but is '", text,
      "'; see halfstep ", where, " --help");
  return number;
}

int read_number(const char* where, const dist::Variables& variables, const char* name, int least,
                int most, int usual) {
  const auto* text = find_variable(variables, name);
  return text ? read_number(where, name, *text, least, most) : usual;
}

}  // namespace halfstep::train::detail
