// What `halfstep report` reads of a work dir, and the page it makes of it.
#include "halfstep/core/error.h"
#include "halfstep/train/report/report_command.h"
#include "halfstep/train/report/report_page.h"
#include "halfstep/train/report/run_log.h"

#include <fstream>
#include <string>
#include <vector>

#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace halfstep::train {
namespace {

using nlohmann::ordered_json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kStart = R"({"event":"start","step":0,"halfstep":"0.1.0","device":"cpu"})";

class Report : public ::testing::Test {
 protected:
  void write_log(const std::vector<std::string>& lines) {
    std::ofstream log(dir_.path() / "log.jsonl");
    for (const auto& line : lines) log << line << '\n';
  }
  ordered_json run() const { return read_run(dir_.path()); }
  static std::vector<int64_t> steps(const ordered_json& lines) {
    std::vector<int64_t> found;
    for (const auto& line : lines) found.push_back(line["step"]);
    return found;
  }
  /// The data in a page, read as the browser does: up to the first end of a script.
  static ordered_json data_in(const std::string& page) {
    const std::string begin = R"(<script id="run" type="application/json">)";
    const auto at = page.find(begin);
    if (at == page.npos) return nullptr;
    const auto from = at + begin.size();
    return ordered_json::parse(page.substr(from, page.find("</script", from) - from));
  }
  const testing::TempFolder dir_;
};

TEST_F(Report, SortsTheLinesOfARunByTheirEvent) {
  write_log({kStart, R"({"event":"train","step":5,"loss":2.5})", R"({"event":"skip","step":7})",
             R"({"event":"train","step":10,"loss":null})",
             R"({"event":"overflow","step":7,"op":"aten::exp"})", R"({"event":"epoch","step":5})",
             R"({"event":"epoch","step":10,"test_accuracy":0.5})",
             R"({"event":"gradients","step":10})", R"({"event":"end","step":10})"});
  const auto read = run();
  EXPECT_EQ(read["begin"], ordered_json::parse(kStart));
  EXPECT_THAT(steps(read["train"]), ElementsAre(5, 10));
  EXPECT_THAT(steps(read["skips"]), ElementsAre(7));
  EXPECT_EQ(read["overflows"][0]["op"], "aten::exp");
  ASSERT_THAT(steps(read["validation"]), ElementsAre(10));
  EXPECT_EQ(read["validation"][0]["test_accuracy"], 0.5);
  EXPECT_EQ(read["end"]["step"], 10);
  EXPECT_EQ(read["unreadable_lines"], 0);
  EXPECT_EQ(read["name"], dir_.path().filename().string());
  EXPECT_EQ(read_run(dir_.path() / "")["name"], read["name"]);
}

TEST_F(Report, LeavesOutWhatAResumedRunHadLost) {
  write_log({kStart, R"({"event":"train","step":5})", R"({"event":"train","step":10})",
             R"({"event":"skip","step":12})", R"({"event":"resume","step":5})",
             R"({"event":"train","step":10,"loss":1.0})", R"({"event":"end","step":10})",
             R"({"event":"resume","step":10})", R"({"event":"train","step":15})"});
  const auto read = run();
  EXPECT_THAT(steps(read["train"]), ElementsAre(5, 10, 15));
  EXPECT_EQ(read["train"][1]["loss"], 1.0);
  EXPECT_TRUE(read["skips"].empty());
  EXPECT_EQ(read["resumed"], ordered_json({5, 10}));
  EXPECT_TRUE(read["end"].is_null()) << "it goes on";
}

TEST_F(Report, TakesTheNewerOfTwoValidationsOfAStep) {
  write_log({kStart, R"({"event":"val","step":10,"test_loss":1})",
             R"({"event":"resume","step":10,"device":"cuda:0"})",
             R"({"event":"val","step":10,"test_loss":2})"});
  ASSERT_EQ(run()["validation"].size(), 1);
  EXPECT_EQ(run()["validation"][0]["test_loss"], 2);
  EXPECT_EQ(run()["begin"]["device"], "cpu");
  EXPECT_EQ(run()["now"]["device"], "cuda:0");
}

TEST_F(Report, ForgetsARunThatBeganAnew) {
  write_log({kStart, R"({"event":"train","step":5})", R"({"event":"end","step":5})", kStart,
             R"({"event":"train","step":2})"});
  EXPECT_THAT(steps(run()["train"]), ElementsAre(2));
  EXPECT_TRUE(run()["end"].is_null());
}

TEST_F(Report, CountsTheLinesThatAKilledProcessLeftBehind) {
  write_log({kStart, R"({"event":"train","st)", "[]", R"({"event":"train"})", R"({"step":1})", "",
             R"({"event":"train","step":"1"})", R"({"event":"train","step":3})"});
  EXPECT_EQ(run()["unreadable_lines"], 5);
  EXPECT_THAT(steps(run()["train"]), ElementsAre(3));
}

TEST_F(Report, TakesConfigAndPrecisionAlong) {
  write_log({kStart});
  EXPECT_EQ(run()["config"], "");
  EXPECT_TRUE(run()["precision"].is_null());
  std::ofstream(dir_.path() / "config.yaml") << "model: {type: Mlp}\n";
  std::ofstream(dir_.path() / "precision_report.json") << R"({"forward":{}})";
  EXPECT_EQ(run()["config"], "model: {type: Mlp}\n");
  EXPECT_EQ(run()["precision"], ordered_json::parse(R"({"forward":{}})"));
}

TEST_F(Report, SaysWhereARunsFolderIsNone) {
  EXPECT_ERROR(run(), UsageError, "[report]", "has none; give the --work-dir of a run");
  write_log({R"({"event":"train","step":3})"});
  EXPECT_ERROR(run(), UsageError, "[report]",
               "must have the line with which a run starts or resumes, but has none");
}

TEST_F(Report, PageHasItsDataWhole) {
  const std::string config = "model: '</script><b>' # <!-- \xff\n";
  write_log({kStart, R"({"event":"train","step":5,"loss":2.5})"});
  std::ofstream(dir_.path() / "config.yaml") << config;
  const auto page = report_page(run());
  EXPECT_THAT(page, HasSubstr("<!doctype html>"));
  EXPECT_THAT(page, Not(HasSubstr("{{RUN}}")));
  EXPECT_THAT(page, HasSubstr("</html>"));
  const auto data = data_in(page);
  ASSERT_TRUE(data.is_object());
  EXPECT_EQ(data["train"], run()["train"]);
  EXPECT_EQ(data["config"], "model: '</script><b>' # <!-- \xef\xbf\xbd\n");
}

TEST_F(Report, PageNeedsNothingElse) {
  write_log({kStart});
  const auto page = report_page(run());
  for (const char* part : {"src=", "href=", "@import", "url(", "fetch("})
    EXPECT_THAT(page, Not(HasSubstr(part)));
}

TEST_F(Report, CommandWritesThePageAndSaysWhere) {
  write_log({kStart, R"({"event":"train","step":5})", R"({"event":"skip","step":7})"});
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(report_command(dir_.path(), ""), 0);
  EXPECT_THAT(::testing::internal::GetCapturedStdout(),
              HasSubstr("report.html: the run in " + dir_.path().string() +
                        ", 1 lines of training, 0 validations, 1 skipped steps"));
  EXPECT_EQ(testing::read_file(dir_.path() / "report.html"), report_page(run()));
}

}  // namespace
}  // namespace halfstep::train
