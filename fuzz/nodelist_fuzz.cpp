// libFuzzer target of Slurm's node lists: any text must be expanded or refused with a UsageError,
// and the names it was expanded to, as a list, must expand to themselves.
#include "halfstep/core/error.h"
#include "halfstep/dist/slurm_nodelist.h"

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using halfstep::UsageError;
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    halfstep::dist::expand_tasks_per_node(text);
  } catch (const UsageError&) {}
  std::vector<std::string> names;
  try {
    names = halfstep::dist::expand_nodelist(text);
  } catch (const UsageError&) {
    return 0;
  }
  std::string list;
  for (const auto& name : names) list += (list.empty() ? "" : ",") + name;
  if (halfstep::dist::expand_nodelist(list) == names) return 0;
  std::cerr << text << " expands to names that don't expand to themselves: " << list;
  std::abort();
}
