#include "halfstep/core/build_info.h"

#include "halfstep/core/version.h"

#include <cstdlib>
#include <sstream>

#include <ATen/Parallel.h>
#include <c10/util/StringUtil.h>

#include <gtest/gtest.h>

namespace halfstep {
namespace {

TEST(BuildInfo, IsOfTheLinkedLibraryAndThisProcess) {
  const auto info = build_info();
  EXPECT_EQ(info.version, HALFSTEP_VERSION);
  EXPECT_EQ(info.libtorch, torch_version());
  EXPECT_EQ(info.running_libtorch, torch_version()) << "the tests run on what they are built with";
  EXPECT_EQ(info.threads, at::get_num_threads());
#ifdef __clang__
  EXPECT_EQ(info.compiler,
            c10::str("clang++ ", __clang_major__, ".", __clang_minor__, ".", __clang_patchlevel__));
#else
  EXPECT_EQ(info.compiler,
            c10::str("g++ ", __GNUC__, ".", __GNUC_MINOR__, ".", __GNUC_PATCHLEVEL__));
#endif
#ifdef _OPENMP
  EXPECT_EQ(info.openmp, _OPENMP);
#else
  EXPECT_EQ(info.openmp, 0);
#endif
}

// What CMake knows, told by ctest.
TEST(BuildInfo, SaysWhatTheBuildFolderWasConfiguredFor) {
  const char* expected = std::getenv("HALFSTEP_TEST_BUILD");
  if (expected == nullptr)
    GTEST_SKIP() << "SKIPPED, NOTHING WAS TESTED: HALFSTEP_TEST_BUILD is not set; run by ctest";
  const auto info = build_info();
  EXPECT_EQ(c10::str(info.build_type, "|", info.highway, "|", info.sanitizer, "|",
                     info.cuda.empty() ? "OFF" : "ON"),
            expected);
  if (info.cuda.empty())
    EXPECT_EQ(info.nccl, "") << "NCCL is for GPUs";
  else
    EXPECT_GE(std::stod(info.cuda), 11.0) << info.cuda;
}

TEST(BuildInfo, KnowsTheCommitWhereItWasTold) {
  EXPECT_EQ(build_info().commit, "unknown") << "only the command knows it";
  detail::set_commit("0123abcd");
  EXPECT_EQ(build_info().commit, "0123abcd");
  detail::set_commit(nullptr);
  EXPECT_EQ(build_info().commit, "unknown");
}

std::string printed(const BuildInfo& info) {
  std::ostringstream text;
  text << info;
  return text.str();
}

TEST(BuildInfo, PrintsALineForEach) {
  BuildInfo info{"0.1.0",  "0123abcd", "2.15.0", "2.15.0", "g++ 12.2.0", "Release", "13.2",
                 "2.29.3", "1.0.3",    201511,   4,        "address"};
  EXPECT_EQ(printed(info),
            "commit     0123abcd\n"
            "compiler   g++ 12.2.0, Release\n"
            "LibTorch   2.15.0\n"
            "CUDA       13.2\n"
            "NCCL       2.29.3\n"
            "Highway    1.0.3\n"
            "OpenMP     201511, 4 threads\n"
            "sanitizer  address\n");
  info.running_libtorch = "2.14.1";
  info.cuda = info.nccl = info.sanitizer = "";
  info.openmp = 0;
  EXPECT_EQ(printed(info),
            "commit     0123abcd\n"
            "compiler   g++ 12.2.0, Release\n"
            "LibTorch   2.15.0, but running 2.14.1\n"
            "CUDA       no\n"
            "NCCL       no\n"
            "Highway    1.0.3\n"
            "OpenMP     no\n"
            "sanitizer  no\n");
}

}  // namespace
}  // namespace halfstep
