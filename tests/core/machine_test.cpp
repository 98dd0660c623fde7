#include "halfstep/core/machine.h"

#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace halfstep {
namespace {

std::string output_of(const char* command) {
  std::string output;
  FILE* pipe = ::popen(command, "r");
  for (int c = 0; pipe != nullptr && (c = std::fgetc(pipe)) != EOF;) output += static_cast<char>(c);
  if (pipe != nullptr) ::pclose(pipe);
  return output;
}

TEST(Machine, IsTheOneOfTheSystemsOwnFiles) {
  const auto machine = this_machine();
  EXPECT_FALSE(machine.cpu.empty());
  EXPECT_FALSE(machine.instructions.empty());
  EXPECT_EQ(machine.cores,
            std::stoi(output_of("env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc")));
  std::ifstream info("/proc/meminfo");
  std::string name;
  uint64_t kibibytes = 0;
  info >> name >> kibibytes;
  ASSERT_EQ(name, "MemTotal:");
  const auto difference =
      static_cast<double>(machine.memory_bytes) / 1024 / static_cast<double>(kibibytes);
  EXPECT_NEAR(difference, 1, 0.1);
}

TEST(Machine, PeakOfMemoryStaysWhenItIsGivenBack) {
  const auto before = peak_resident_bytes();
  constexpr size_t size = size_t{256} << 20;
  {
    std::vector<char> bytes(size, 1);
    ASSERT_EQ(bytes[size - 1], 1);
  }
  EXPECT_GE(peak_resident_bytes(), before);
  EXPECT_GE(peak_resident_bytes(), size);
  EXPECT_LT(peak_resident_bytes(), before + size + (size_t{64} << 20));
}

}  // namespace
}  // namespace halfstep
