#include "halfstep/train/loop/work_dir.h"

#include "halfstep/core/error.h"

#include <algorithm>

#include <fmt/format.h>
#include <unistd.h>

namespace halfstep::train {

namespace fs = std::filesystem;

WorkDir::WorkDir(fs::path root) : root_(std::move(root)) {
  std::error_code error;
  fs::create_directories(root_ / "checkpoints", error);
  HALFSTEP_CHECK_ENVIRONMENT(!error, "work dir", "a run needs a folder it can write to, but '",
                             root_.string(), "' can't be made (", error.message(),
                             "); choose another with --work-dir");
  HALFSTEP_CHECK_ENVIRONMENT(
      ::access((root_ / "checkpoints").c_str(), W_OK) == 0, "work dir",
      "a run needs a folder it can write to, but '", root_.string(),
      "' is not writable; change its permissions or choose another with --work-dir");
}

std::optional<fs::path> WorkDir::put_earlier_run_aside() {
  if (checkpoints().empty() && !fs::exists(log_file())) return std::nullopt;
  int number = 1;
  while (fs::exists(root_ / fmt::format("previous_{}", number))) ++number;
  const fs::path aside = root_ / fmt::format("previous_{}", number);
  std::error_code error;
  fs::create_directory(aside, error);
  for (const auto& entry : {root_ / "checkpoints", log_file(), config_file()})
    if (!error && fs::exists(entry)) fs::rename(entry, aside / entry.filename(), error);
  if (!error) fs::create_directory(root_ / "checkpoints", error);
  HALFSTEP_CHECK_ENVIRONMENT(!error, "work dir", "the earlier run in '", root_.string(),
                             "' must be moved to '", aside.string(), "', but that fails (",
                             error.message(), "); choose another --work-dir");
  return aside;
}

fs::path WorkDir::checkpoint_file(int64_t step) const {
  return root_ / "checkpoints" / fmt::format("step_{:08}.safetensors", step);
}

std::vector<fs::path> list_checkpoints(const fs::path& work_dir) {
  std::vector<fs::path> files;
  if (!fs::is_directory(work_dir / "checkpoints")) return files;
  for (const auto& entry : fs::directory_iterator(work_dir / "checkpoints")) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("step_") && name.ends_with(".safetensors")) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace halfstep::train
