#include "halfstep/train/report/report_command.h"

#include "halfstep/train/files/atomic_file.h"
#include "halfstep/train/report/report_page.h"
#include "halfstep/train/report/run_log.h"

#include <fmt/format.h>

namespace halfstep::train {

int report_command(const std::filesystem::path& work_dir, std::filesystem::path file) {
  const auto run = read_run(work_dir);
  if (file.empty()) file = work_dir / "report.html";
  write_file(file, report_page(run));
  fmt::print("{}: the run in {}, {} lines of training, {} validations, {} skipped steps\n",
             file.string(), work_dir.string(), run["train"].size(), run["validation"].size(),
             run["skips"].size());
  return 0;
}

}  // namespace halfstep::train
