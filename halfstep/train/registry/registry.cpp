#include "halfstep/train/registry/registry.h"

#include "halfstep/core/error.h"
#include "halfstep/core/nearest.h"

namespace halfstep::train::detail {

void unknown_type(Config& config, const std::string& kind, const std::vector<std::string>& known) {
  std::string list;
  for (const auto& name : known) list += (list.empty() ? "" : ", ") + name;
  const auto type = config.get<std::string>("type");
  const std::string suggestion = suggest(type, known);
  halfstep::detail::raise<UsageError>("config", config.where("type"), ": unknown ", kind, " '",
                                      type, "'; known: ", list.empty() ? "none" : list,
                                      suggestion.empty() ? "" : "; " + suggestion);
}

void duplicate_type(const std::string& kind, const std::string& name) {
  halfstep::detail::raise<UsageError>("Registry::add", "a ", kind,
                                      " must have a name of its own, but got '", name,
                                      "', which is taken; choose another");
}

}  // namespace halfstep::train::detail
