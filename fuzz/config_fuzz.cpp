// libFuzzer target of the config reader: any bytes must give a config or a UsageError, and what was
// read must load back equal.
#include "halfstep/core/error.h"
#include "halfstep/train/config/config.h"

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string>

namespace {

using halfstep::UsageError;
using halfstep::train::Config;

// Reads a key in every way; a refusal is a right answer.
void read_all(Config& config, const std::string& key) {
  const auto refusable = [](auto&& read) {
    try {
      read();
    } catch (const UsageError&) {}
  };
  refusable([&] { config.get<bool>(key); });
  refusable([&] { config.get<int64_t>(key); });
  refusable([&] { config.get<double>(key, 0.5); });
  refusable([&] { config.get<std::string>(key); });
  refusable([&] { config.get<std::vector<int64_t>>(key); });
  refusable([&] { config.get<std::vector<double>>(key); });
  refusable([&] { config.get<std::vector<std::string>>(key, {"a, b", "5", ""}); });
  refusable([&] {
    for (auto& child : config.children(key)) child.get<std::string>("type", "x");
  });
  refusable([&] { config.child(key).get<double>("lr", 1e-3); });
  refusable([&] { config.fail(key, "must be good"); });
  config.where(key);
}

void require_equal_reload(const Config& config) {
  const std::string once = config.resolved();
  const std::string twice = Config::parse(once, "resolved").resolved();
  if (once == twice) return;
  std::cerr << "resolved() does not load back equal:\n" << once << "---\n" << twice;
  std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    Config config = Config::parse(text, "fuzz");
    require_equal_reload(config);
    for (const char* key : {"a", "model", "type", "train_cfg", "none"}) read_all(config, key);
    require_equal_reload(config);
    config.finish();
  } catch (const UsageError&) {}
  return 0;
}
