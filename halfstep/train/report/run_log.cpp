#include "halfstep/train/report/run_log.h"

#include "halfstep/core/error.h"
#include "halfstep/train/files/input_file.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <sstream>
#include <string>

namespace halfstep::train {

namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

std::string read_text(const fs::path& path, const char* what) {
  InputFile file(path, what);
  std::string text(static_cast<size_t>(file.size()), '\0');
  text.resize(file.read_some(text.data(), text.size()));
  return text;
}

std::string text_if_there(const fs::path& path, const char* what) {
  std::error_code error;
  return fs::exists(path, error) ? read_text(path, what) : "";
}

// The member of the document that an event's lines are in; empty: in none.
std::string list_of(const std::string& event) {
  static const std::map<std::string, std::string> lists{
      {"train", "train"}, {"epoch", "validation"},   {"val", "validation"},
      {"skip", "skips"},  {"overflow", "overflows"}, {"gradient_exponents", "gradient_exponents"}};
  const auto found = lists.find(event);
  return found == lists.end() ? "" : found->second;
}

class Reader {
 public:
  Reader() { clear(); }

  void add(const std::string& line) {
    const auto json = ordered_json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains("event") || !json["event"].is_string() ||
        !json.contains("step") || !json["step"].is_number_integer()) {
      ++unreadable_;
      return;
    }
    const auto event = json["event"].get<std::string>();
    if (event == "start") {
      clear();
      run_["begin"] = run_["now"] = json;
    } else if (event == "resume") {
      resume(json);
    } else if (event == "end" || event == "error") {
      run_["end"] = json;
    } else if (const auto list = list_of(event); list == "validation") {
      add_validation(json);
    } else if (!list.empty()) {
      run_[list].push_back(json);
    }
  }

  ordered_json take() {
    run_["unreadable_lines"] = unreadable_;
    return std::move(run_);
  }

 private:
  void clear() {
    run_ = {{"name", ""}, {"begin", nullptr}, {"now", nullptr}, {"resumed", ordered_json::array()}};
    for (const char* list : kLists) run_[list] = ordered_json::array();
    run_["end"] = nullptr;
  }

  // An epoch's line may come without results.
  void add_validation(const ordered_json& line) {
    const auto items = line.items();
    if (std::none_of(items.begin(), items.end(),
                     [](const auto& item) { return item.key().starts_with("test_"); }))
      return;
    auto& list = run_["validation"];
    if (!list.empty() && list.back()["step"] == line["step"])
      list.back() = line;
    else
      list.push_back(line);
  }

  void resume(const ordered_json& line) {
    if (run_["begin"].is_null()) run_["begin"] = line;
    run_["now"] = line;
    const auto step = line["step"].get<int64_t>();
    run_["resumed"].push_back(step);
    run_["end"] = nullptr;
    for (const char* name : kLists) {
      auto kept = ordered_json::array();
      for (auto& entry : run_[name])
        if (entry["step"].get<int64_t>() <= step) kept.push_back(std::move(entry));
      run_[name] = std::move(kept);
    }
  }

  static constexpr const char* kLists[] = {"train", "validation", "skips", "overflows",
                                           "gradient_exponents"};
  ordered_json run_;
  int64_t unreadable_ = 0;
};

}  // namespace

ordered_json read_run(const fs::path& work_dir) {
  const auto log = work_dir / "log.jsonl";
  std::error_code error;
  HALFSTEP_CHECK_USAGE(fs::exists(log, error), "report",
                       "WORK_DIR must be the folder of a run, with its log.jsonl, but '",
                       work_dir.string(),
                       "' has none; give the --work-dir of a run (work_dirs/CONFIG_NAME)");
  Reader reader;
  std::istringstream lines(read_text(log, "the log of a run"));
  for (std::string line; std::getline(lines, line);)
    if (!line.empty()) reader.add(line);
  auto run = reader.take();
  HALFSTEP_CHECK_USAGE(!run["begin"].is_null(), "report", "'", log.string(),
                       "' must have the line with which a run starts or resumes, but has none; "
                       "give the --work-dir of a run");
  // "runs/x/" is named x, too.
  const auto folder = fs::absolute(work_dir / "").lexically_normal().parent_path();
  run["name"] = folder.filename().string();
  run["config"] = text_if_there(work_dir / "config.yaml", "the config of a run");
  const auto precision = ordered_json::parse(
      text_if_there(work_dir / "precision_report.json", "a precision report"), nullptr, false);
  run["precision"] = precision.is_object() ? precision : ordered_json(nullptr);
  return run;
}

}  // namespace halfstep::train
