#pragma once
#include <filesystem>

namespace halfstep::train {

/// `halfstep report`: writes the page of the run in `work_dir` to `file` (empty: report.html in
/// it), whole or not at all, and says where it is. Throws as read_run() and write_file() do.
/// Returns the exit status.
int report_command(const std::filesystem::path& work_dir, std::filesystem::path file);

}  // namespace halfstep::train
