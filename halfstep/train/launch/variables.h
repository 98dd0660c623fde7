#pragma once
#include "halfstep/dist/launch_environment.h"

#include <string>

namespace halfstep::train::detail {

/// The variable's value; null where it is missing or empty.
const std::string* find_variable(const dist::Variables& variables, const char* name);

/// The whole number in `text`. Throws UsageError, "[where] name must be a whole number …", for any
/// other text and for numbers out of range.
int read_number(const char* where, const char* name, const std::string& text, int least, int most);

/// The same of a variable; `usual` where it is missing or empty.
int read_number(const char* where, const dist::Variables& variables, const char* name, int least,
                int most, int usual);

}  // namespace halfstep::train::detail
