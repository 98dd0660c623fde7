// A precision plan as text, as a picture, and changed by hand.
#include "halfstep/core/error.h"
#include "halfstep/graph/plan/precision_plan.h"

#include <sstream>

#include "tests/graph/plan_graphs.h"
#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include <gtest/gtest.h>

namespace {

using halfstep::OpColor;
using halfstep::PrecisionPlan;
using halfstep::UsageError;
using halfstep::testing::GraphWriter;
using halfstep::testing::TempFolder;

/// A linear layer, an in-place ReLU, a softmax.
PrecisionPlan small_plan() {
  GraphWriter g;
  const auto x = g.outside("input 0"), w = g.outside("fc.weight"), b = g.outside("fc.\"bias\"");
  const auto t = g.op("t", OpColor::clear, {w});
  const auto product = g.op("addmm", OpColor::white, {b, x, t});
  const auto h = g.op("relu_", OpColor::clear, {product});
  g.output(g.op("softmax.int", OpColor::gray, {h}));
  g.graph.nodes[0].module = g.graph.nodes[1].module = "fc";
  g.graph.nodes[2].with = 1;
  return {g.graph, c10::kBFloat16};
}

constexpr const char* kText =
    "halfstep precision plan 1, bfloat16\n"
    "reads \"fc.weight\" float32\n"
    "reads \"fc.\\\"bias\\\"\" float32\n"
    "reads \"input 0\" float32\n"
    "0 clear: %0 float32 = t(\"fc.weight\") in \"fc\"  # bfloat16\n"
    "1 white: %1 float32 = addmm(\"fc.\\\"bias\\\"\", \"input 0\", %0) in \"fc\"  # bfloat16\n"
    "2 clear: %2 float32 = relu_(%1) with 1  # bfloat16\n"
    "3 gray: %3 float32 = softmax.int(%2)  # float32\n"
    "4 unlisted: %4 float32 = output(%3)  # float32\n"
    "# cast of \"fc.weight\" to bfloat16 for 0\n"
    "# cast of \"fc.\\\"bias\\\"\" to bfloat16 for 1\n"
    "# cast of \"input 0\" to bfloat16 for 1\n"
    "# cast of %2 to float32 for 3\n";

TEST(PlanText, IsPrintedAndRead) {
  const auto plan = small_plan();
  EXPECT_EQ(plan.to_string(), kText);
  std::ostringstream out;
  out << plan;
  EXPECT_EQ(out.str(), kText);
  const auto again = PrecisionPlan::parse(kText);
  EXPECT_EQ(again, plan);
  EXPECT_EQ(again.to_string(), kText);
}

TEST(PlanText, IsSavedAndLoaded) {
  const TempFolder folder;
  const auto path = (folder.path() / "net.plan").string();
  small_plan().save(path);
  EXPECT_EQ(PrecisionPlan::load(path), small_plan());
  EXPECT_ERROR(PrecisionPlan::load((folder.path() / "none").string()), halfstep::EnvironmentError,
               "[PrecisionPlan::load]", "none' must be a file that can be read", "No such file");
  EXPECT_ERROR(small_plan().save((folder.path() / "none" / "x").string()),
               halfstep::EnvironmentError, "[PrecisionPlan::save]",
               "must be a file that can be "
               "written");
  EXPECT_ERROR(PrecisionPlan::load(folder.write("empty", "").string()), UsageError,
               "empty must begin with \"halfstep precision plan 1, \"", "but is empty");
}

TEST(PlanText, AColorChangedInTheTextCounts) {
  std::string text = kText;
  text.replace(text.find("3 gray"), 6, "3 white");
  const auto plan = PrecisionPlan::parse(text);
  EXPECT_TRUE(plan.is_low(3));
  EXPECT_NE(plan.to_string().find("3 white: %3 float32 = softmax.int(%2)  # bfloat16"),
            std::string::npos);
}

TEST(PlanText, AMistakeIsAnErrorThatNamesItsLine) {
  const auto expect = [](const std::string& from, const std::string& to, const char* line,
                         const char* rule) {
    std::string text = kText;
    text.replace(text.find(from), from.size(), to);
    EXPECT_ERROR(PrecisionPlan::parse(text, "my.plan"), UsageError, "[PrecisionPlan] line", line,
                 " of my.plan: ", rule, "; save the plan again, and change only its colors");
  };
  expect("plan 1", "plan 2", "line 1 ", "'halfstep precision plan 1, ' must stand here");
  expect("bfloat16", "float32", "line 1 ",
         "the dtype must be float16 or bfloat16, but got 'float32'");
  expect("1 white", "1 purple", "line 6 ",
         "a color must be white, gray, black, clear or unlisted, but got 'purple'");
  expect("2 clear", "3 clear", "line 7 ",
         "nodes must be numbered from 0 in their order, but got '3'");
  expect("%2 float32", "%7 float32", "line 7 ", "results must be numbered from 0");
  expect("relu_(%1)", "relu_(%2)", "line 7 ", "an operand must be a result of a node above");
  expect("relu_(%1)", "relu_(\"fc.wait\")", "line 7 ",
         "an operand must be one of what the plan reads, but got 'fc.wait'");
  expect("with 1", "with 2", "line 7 ", "a node must share memory with one above");
  expect("softmax.int(%2)", "softmax.int(%2", "line 8 ", "')' must stand here");
  expect("reads \"input 0\"", "reads \"fc.weight\"", "line 4 ", "must be named once");
  expect("reads \"input 0\"", "reads \"input 0", "line 4 ", "a quote must end on its line");
  expect("4 unlisted", "nonsense", "line 9 ", "a number must stand here, but got 'nonsense");
  expect("in \"fc\"", "in \"fc\" too", "line 5 ", "a line must end here, but got 'too");
}

TEST(PlanText, ColorsAreChangedByOpNodeAndModule) {
  auto plan = small_plan();
  plan.set("softmax", OpColor::white);
  EXPECT_TRUE(plan.is_low(3));
  plan.set_node(3, OpColor::black);
  EXPECT_FALSE(plan.is_low(3));
  EXPECT_TRUE(plan.is_low(1));
  plan.module("f.*", OpColor::unlisted);
  EXPECT_FALSE(plan.is_low(0) || plan.is_low(1) || plan.is_low(2));
  EXPECT_TRUE(plan.casts().empty());
  plan.set("output", OpColor::white).set("addmm", OpColor::white);
  EXPECT_TRUE(plan.is_low(4));
  EXPECT_ERROR(plan.set("softmin", OpColor::white), UsageError, "[PrecisionPlan]",
               "an op must be one that the plan calls, but got 'softmin'",
               "did you mean 'softmax'?");
  EXPECT_ERROR(plan.set_node(5, OpColor::white), UsageError, "one of the plan's 5, but got 5");
  EXPECT_ERROR(plan.module("fd.*", OpColor::white), UsageError,
               "a module must be one that nodes of the plan belong to, but got 'fd.*'");
}

TEST(PlanText, AnUnorderedGraphIsAnError) {
  GraphWriter g;
  const auto x = g.outside("x");
  g.op("a", OpColor::white, {x});
  g.op("b", OpColor::white, {1});
  std::swap(g.graph.nodes[0], g.graph.nodes[1]);
  EXPECT_ERROR(PrecisionPlan(g.graph, c10::kHalf), UsageError, "[PrecisionPlan]",
               "nodes must use values and nodes that come before them, but node 0, b, does not");
  EXPECT_ERROR(PrecisionPlan(halfstep::OpGraph(), c10::kFloat), UsageError,
               "dtype must be float16 or bfloat16, but got float32");
}

TEST(PlanText, AsAGraphvizDigraph) {
  const auto dot = small_plan().to_graphviz();
  for (const auto* part : {"digraph precision_plan {",
                           "n1 [label=\"1 addmm in fc\", fillcolor=\"white\", peripheries=2]",
                           "n3 [label=\"3 softmax.int\", fillcolor=\"gray80\", peripheries=1]",
                           "[label=\"fc.\\\"bias\\\"\", shape=plaintext", "v2 -> c2;", "c2 -> n1;",
                           "n0 -> n1;", "n2 -> c5;", "c5 -> n3;", "n3 -> n4;"})
    EXPECT_NE(dot.find(part), std::string::npos) << part << "\n" << dot;
}

}  // namespace
