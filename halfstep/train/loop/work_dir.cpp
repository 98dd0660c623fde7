#include "halfstep/train/loop/work_dir.h"

#include "halfstep/core/error.h"

#include <cerrno>
#include <charconv>
#include <map>
#include <string_view>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

namespace halfstep::train {

namespace fs = std::filesystem;

namespace {

// The folder itself is locked, so no file is left behind; the lock goes with the process, whatever
// ends it. A file system without locks is taken as it is.
std::shared_ptr<const int> lock_folder(const fs::path& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return nullptr;
  std::shared_ptr<const int> lock(new int(descriptor), [](const int* held) {
    ::close(*held);
    delete held;
  });
  HALFSTEP_CHECK_ENVIRONMENT(
      ::flock(descriptor, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK, "work dir", "'",
      folder.string(),
      "' must belong to one run at a time, but another process is training in it; wait for its "
      "end, or choose another with --work-dir");
  return lock;
}

// The N of step_N.safetensors, nothing for any other name.
std::optional<int64_t> step_of(std::string_view name) {
  constexpr std::string_view prefix = "step_";
  constexpr std::string_view suffix = ".safetensors";
  if (name.size() <= prefix.size() + suffix.size() || !name.starts_with(prefix) ||
      !name.ends_with(suffix) || name[prefix.size()] == '-')
    return std::nullopt;
  const char* end = name.data() + name.size() - suffix.size();
  int64_t step = 0;
  const auto result = std::from_chars(name.data() + prefix.size(), end, step);
  return result.ec == std::errc() && result.ptr == end ? std::optional(step) : std::nullopt;
}

bool is_best(const fs::path& file) {
  return file.filename().string().starts_with("best_");
}

// Also of best_METRIC_step_N.safetensors.
std::optional<int64_t> step_of_any(const std::string& name) {
  if (!is_best(name)) return step_of(name);
  const auto place = name.rfind("step_");
  return place == name.npos ? std::nullopt : step_of(std::string_view(name).substr(place));
}

std::multimap<int64_t, fs::path> files_by_step(const fs::path& work_dir) {
  const fs::path folder = work_dir / "checkpoints";
  std::multimap<int64_t, fs::path> files;
  std::error_code error;
  fs::directory_iterator entry(folder, error);
  for (const fs::directory_iterator end; !error && entry != end; entry.increment(error))
    if (const auto step = step_of_any(entry->path().filename().string()))
      files.emplace(*step, entry->path());
  HALFSTEP_CHECK_ENVIRONMENT(!error || error == std::errc::no_such_file_or_directory, "work dir",
                             "'", folder.string(), "' must be a folder that can be read, but ",
                             error.message(),
                             "; change its permissions or choose another with --work-dir");
  return files;
}

void check_moved(const std::error_code& error, const fs::path& root, const fs::path& aside) {
  HALFSTEP_CHECK_ENVIRONMENT(!error, "work dir", "the earlier run in '", root.string(),
                             "' must be moved to '", aside.string(), "', but that fails (",
                             error.message(), "); choose another --work-dir");
}

}  // namespace

WorkDir::WorkDir(fs::path root) : root_(std::move(root)) {
  std::error_code error;
  fs::create_directories(checkpoint_folder(), error);
  HALFSTEP_CHECK_ENVIRONMENT(!error, "work dir", "a run needs a folder it can write to, but '",
                             root_.string(), "' can't be made (", error.message(),
                             "); choose another with --work-dir");
  HALFSTEP_CHECK_ENVIRONMENT(
      ::access(root_.c_str(), W_OK | X_OK) == 0 &&
          ::access(checkpoint_folder().c_str(), W_OK | X_OK) == 0,
      "work dir", "a run needs a folder it can write to, but '", root_.string(),
      "' is not writable; change its permissions or choose another with --work-dir");
  lock_ = lock_folder(root_);
}

fs::path WorkDir::make_aside_folder() const {
  int number = 1;
  std::error_code error;
  while (fs::exists(root_ / fmt::format("previous_{}", number), error)) ++number;
  fs::path aside = root_ / fmt::format("previous_{}", number);
  fs::create_directory(aside, error);
  check_moved(error, root_, aside);
  return aside;
}

std::optional<fs::path> WorkDir::put_earlier_run_aside() {
  if (checkpoints().empty()) return std::nullopt;
  const fs::path aside = make_aside_folder();
  std::error_code error;
  for (const auto& entry : {checkpoint_folder(), log_file(), scalars_file().parent_path(),
                            config_file(), precision_report_file(), report_file()}) {
    std::error_code missing;
    if (!error && fs::exists(entry, missing)) fs::rename(entry, aside / entry.filename(), error);
  }
  if (!error) fs::create_directory(checkpoint_folder(), error);
  check_moved(error, root_, aside);
  return aside;
}

std::optional<fs::path> WorkDir::put_later_checkpoints_aside(int64_t step) {
  std::vector<fs::path> later;
  for (const auto& [number, file] : files_by_step(root_))
    if (number > step) later.push_back(file);
  if (later.empty()) return std::nullopt;
  const fs::path aside = make_aside_folder();
  std::error_code error;
  fs::create_directory(aside / "checkpoints", error);
  for (const auto& file : later)
    if (!error) fs::rename(file, aside / "checkpoints" / file.filename(), error);
  check_moved(error, root_, aside);
  return aside;
}

fs::path WorkDir::checkpoint_file(int64_t step) const {
  return checkpoint_folder() / fmt::format("step_{:08}.safetensors", step);
}

std::vector<fs::path> list_checkpoints(const fs::path& work_dir) {
  std::vector<fs::path> files;
  for (const auto& [step, file] : files_by_step(work_dir))
    if (!is_best(file)) files.push_back(file);
  return files;
}

}  // namespace halfstep::train
