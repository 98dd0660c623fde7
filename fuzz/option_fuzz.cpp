// libFuzzer target of --cfg-options: any value must be taken or refused with a UsageError, and what
// was taken must load back equal.
#include "halfstep/core/error.h"
#include "halfstep/train/config/config.h"

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string>

#include <nlohmann/json.hpp>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using halfstep::UsageError;
  using halfstep::train::Config;
  const std::string text(reinterpret_cast<const char*>(data), size);
  for (const std::string& option : {"k=" + text, "list.0.k=" + text, text}) {
    Config config = Config::parse("model: {type: Mlp}\nlist: [{a: 1}, 2]\n", "fuzz");
    try {
      config.override_with(option);
    } catch (const UsageError&) {
      continue;
    }
    const std::string once = config.resolved();
    Config again = Config::parse(once, "resolved");
    if (again.resolved() == once && again.to_json() == config.to_json()) continue;
    std::cerr << option << " does not load back equal:\n" << once << "---\n" << again.resolved();
    std::abort();
  }
  return 0;
}
