#include "halfstep/train/loop/rank_files.h"

#include "halfstep/core/error.h"
#include "halfstep/dist/rank_watch.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

namespace halfstep::train {

namespace fs = std::filesystem;

namespace {
int error_stream = STDERR_FILENO;
}  // namespace

fs::path rank_folder(const fs::path& work_dir, int rank, bool resume) {
  if (rank == 0) return work_dir;
  auto folder = work_dir / "ranks" / fmt::format("rank_{}", rank);
  std::error_code error;
  if (!resume) fs::remove(folder / "log.jsonl", error);
  if (!resume) fs::remove_all(folder / "vis_data", error);
  return folder;
}

std::string shared_settings(const Config& config, const RunOptions& options) {
  auto settings = config.to_json();
  for (auto& [key, value] : settings.items())
    if (key.ends_with("_dataloader") && value.is_object() && value.contains("dataset") &&
        value["dataset"].is_object())
      value["dataset"].erase("root");
  return fmt::format("device {}\namp {}\n{}\n", options.device.is_cpu() ? "cpu" : "cuda",
                     options.amp, settings.dump(2));
}

void redirect_output(const fs::path& folder) {
  std::error_code ignored;
  fs::create_directories(folder, ignored);  // opening the file says it
  const auto file = folder / "output.log";
  const int descriptor = ::open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  HALFSTEP_CHECK_ENVIRONMENT(descriptor >= 0, "log", "'", file.string(),
                             "' must be writable, but opening it failed (", std::strerror(errno),
                             "); choose another --work-dir");
  std::fflush(nullptr);
  error_stream = ::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
  halfstep::detail::also_write_last_words_to(error_stream);
  ::dup2(descriptor, STDOUT_FILENO);
  ::dup2(descriptor, STDERR_FILENO);
  ::close(descriptor);
}

int original_error() {
  return error_stream;
}

}  // namespace halfstep::train
