#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace halfstep::train {

/// "did you mean 'max_epochs'?" for the nearest of the known words, or an empty text where none is
/// near.
std::string suggest(std::string_view word, const std::vector<std::string>& known);

}  // namespace halfstep::train
