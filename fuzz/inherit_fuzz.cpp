// libFuzzer target of inheritance: any files, here parts of the input, must give a config or a
// UsageError, and what came out must load back equal without them.
#include "halfstep/core/error.h"
#include "halfstep/train/config/inherit.h"
#include "halfstep/train/config/write.h"

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <map>
#include <string>

namespace {

using namespace halfstep::train::detail;

// What stands before and after each line of dashes: x.yaml, a.yaml, b.yaml, c.yaml.
std::map<std::string, std::string> files_of(std::string text) {
  std::map<std::string, std::string> files;
  for (const char* name : {"x.yaml", "a.yaml", "b.yaml", "c.yaml"}) {
    const size_t end = text.find("\n-----\n");
    files[name] = text.substr(0, end);
    text.erase(0, end == text.npos ? end : end + 7);
  }
  return files;
}

void require_equal_reload(const ConfigNode& config) {
  const std::string once = write_yaml(config);
  std::string twice;
  try {
    twice = write_yaml(*parse_alone(once, "resolved"));
  } catch (const halfstep::UsageError& error) {
    twice = error.what();
  }
  if (once == twice) return;
  std::cerr << "what is inherited does not load back equal:\n" << once << "---\n" << twice;
  std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const bool is_set = ::setenv("SET", "a: {{b}} # 'c'", 1) == 0;
  if (!is_set) std::abort();
  const auto files = files_of(std::string(reinterpret_cast<const char*>(data), size));
  const ReadFile read = [&](const std::filesystem::path& path) {
    const auto found = files.find(path.string());
    if (found == files.end()) throw halfstep::EnvironmentError("no such file");
    return found->second;
  };
  try {
    require_equal_reload(*parse_inheriting(files.at("x.yaml"), "x.yaml", read));
  } catch (const halfstep::UsageError&) {}
  return 0;
}
