#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace halfstep {

/// The known word that `word` is most likely a misspelling of, or an empty text where none is near.
/// Near means: at most a third of the letters differ (case and - for _ don't count; swapped
/// neighbours count once), or one is a part of the other. The first of equally near ones.
std::string nearest(std::string_view word, const std::vector<std::string>& known);

/// "did you mean 'max_epochs'?" for the nearest of the known words, or an empty text where none is
/// near.
std::string suggest(std::string_view word, const std::vector<std::string>& known);

}  // namespace halfstep
