#include "halfstep/core/machine.h"

#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace halfstep {
namespace {

TEST(Machine, IsTheOneOfTheSystemsOwnFiles) {
  const auto machine = this_machine();
  EXPECT_FALSE(machine.cpu.empty());
  EXPECT_FALSE(machine.instructions.empty());
  EXPECT_EQ(machine.cores, static_cast<int>(std::thread::hardware_concurrency()));
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
}

}  // namespace
}  // namespace halfstep
