#include "halfstep/core/nearest.h"

#include <algorithm>
#include <cctype>

namespace halfstep {
namespace {

// Longer words are data, not misspellings, and would make the table below large.
constexpr size_t max_length = 64;

std::string lower(std::string_view word) {
  std::string result(word);
  for (char& c : result) {
    c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    if (c == '-') c = '_';
  }
  return result;
}

// Insertions, deletions, replacements and swaps of neighbours.
size_t distance(const std::string& a, const std::string& b) {
  std::vector<std::vector<size_t>> table(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) {
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        table[i][j] = i + j;
        continue;
      }
      size_t best = table[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
      best = std::min({best, table[i - 1][j] + 1, table[i][j - 1] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        best = std::min(best, table[i - 2][j - 2] + 1);
      table[i][j] = best;
    }
  }
  return table[a.size()][b.size()];
}

}  // namespace

std::string nearest(std::string_view word, const std::vector<std::string>& known) {
  if (word.empty() || word.size() > max_length) return "";
  const std::string wanted = lower(word);
  std::string best;
  size_t best_distance = max_length;
  for (const auto& candidate : known) {
    if (candidate.size() > max_length) continue;
    const std::string text = lower(candidate);
    size_t apart = distance(wanted, text);
    const size_t longest = std::max(wanted.size(), text.size());
    const size_t shortest = std::min(wanted.size(), text.size());
    // "epochs" for "max_epochs", "learning_rate" for "rate": a part is near, though never nearest.
    const bool part = shortest >= 4 && (text.find(wanted) != std::string::npos ||
                                        wanted.find(text) != std::string::npos);
    const size_t threshold = longest < 3 ? 0 : std::max<size_t>(1, longest / 3);
    if (apart > threshold && !part) continue;
    if (apart < best_distance) {
      best_distance = apart;
      best = candidate;
    }
  }
  return best;
}

std::string suggest(std::string_view word, const std::vector<std::string>& known) {
  const std::string found = nearest(word, known);
  return found.empty() ? "" : "did you mean '" + found + "'?";
}

}  // namespace halfstep
