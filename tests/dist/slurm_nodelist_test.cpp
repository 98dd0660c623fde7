#include "halfstep/dist/slurm_nodelist.h"

#include "halfstep/core/error.h"

#include "tests/support/errors.h"

namespace halfstep::dist {

namespace {

using Names = std::vector<std::string>;

TEST(SlurmNodelist, PlainNames) {
  EXPECT_EQ(expand_nodelist("login"), Names({"login"}));
  EXPECT_EQ(expand_nodelist("b,a,gpu-3.cluster"), Names({"b", "a", "gpu-3.cluster"}));
}

TEST(SlurmNodelist, RangesKeepTheirZeros) {
  EXPECT_EQ(expand_nodelist("gpu[08-11,3],x"),
            Names({"gpu08", "gpu09", "gpu10", "gpu11", "gpu3", "x"}));
  EXPECT_EQ(expand_nodelist("n[9-11]"), Names({"n9", "n10", "n11"}));
  EXPECT_EQ(expand_nodelist("n[098-102]"), Names({"n098", "n099", "n100", "n101", "n102"}));
}

TEST(SlurmNodelist, SeveralBracketsTheLastCountsFastest) {
  EXPECT_EQ(expand_nodelist("rack[0-1]node[2-3]-ib"),
            Names({"rack0node2-ib", "rack0node3-ib", "rack1node2-ib", "rack1node3-ib"}));
  EXPECT_EQ(expand_nodelist("[1-2][0,5]"), Names({"10", "15", "20", "25"}));
}

TEST(SlurmNodelist, ALongListIsExpandedWhole) {
  const auto names = expand_nodelist("n[00000-65535]");
  ASSERT_EQ(names.size(), 65536u);
  EXPECT_EQ(names.back(), "n65535");
}

TEST(SlurmNodelist, WhatIsNoListIsRefused) {
  for (const char* text :
       {"", ",", "a,,b", "a[", "a]", "a[1", "a[1]]", "a[[1]]", "a[]", "a[1-]", "a[-1]", "a[3-1]",
        "a[1,]", "a[x]", "a[1-2-3]", "a b", "a[1]\n", "a[0-9999999999999999999]"})
    EXPECT_ERROR(expand_nodelist(text), UsageError, "[launch] the node list of Slurm must be",
                 "'gpu[01-03,7],login'", "but got '", text, "srun");
}

TEST(SlurmNodelist, AListThatWouldFillTheMemoryIsRefused) {
  for (const char* text : {"n[0-65536]", "n[0-999999999999999999]", "n[0-999][0-999]",
                           "n[0-40000],m[0-40000]", "n[0-40000,0-40000]"})
    EXPECT_ERROR(expand_nodelist(text), UsageError, "at most 65536 hosts");
  EXPECT_ERROR(expand_nodelist(std::string(256, 'a')), UsageError, "at most 255 characters");
}

TEST(SlurmTasksPerNode, Expands) {
  EXPECT_EQ(expand_tasks_per_node("4"), std::vector<int>({4}));
  EXPECT_EQ(expand_tasks_per_node("2(x3),1"), std::vector<int>({2, 2, 2, 1}));
}

TEST(SlurmTasksPerNode, WhatIsNoListIsRefused) {
  for (const char* text :
       {"", "2(x", "2(x)", "2(x3", "(x3)", "x", "2,", "0", "2(x0)", "2(x65537)", "99999999"})
    EXPECT_ERROR(expand_tasks_per_node(text), UsageError, "[launch] SLURM_TASKS_PER_NODE must be",
                 "'2(x3),1'", text);
}

}  // namespace

}  // namespace halfstep::dist
