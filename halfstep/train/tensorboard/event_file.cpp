#include "halfstep/train/tensorboard/event_file.h"

#include "halfstep/core/error.h"
#include "halfstep/train/tensorboard/event.h"

#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstring>

#include <fmt/format.h>
#include <unistd.h>

namespace halfstep::train {

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string file_name() {
  static std::atomic<int> files = 0;
  char host[HOST_NAME_MAX + 1] = "";
  if (::gethostname(host, sizeof(host)) != 0) host[0] = '\0';
  // TensorBoard reads a folder's files in the order of their names.
  return fmt::format("events.out.tfevents.{:010}.{}.{}.{}", static_cast<int64_t>(now()), host,
                     ::getpid(), files++);
}

}  // namespace

EventFile::EventFile(const std::filesystem::path& folder) : path_(folder / file_name()) {
  std::error_code ignored;  // opening says it
  std::filesystem::create_directories(folder, ignored);
  stream_.open(path_, std::ios::binary | std::ios::trunc);
  HALFSTEP_CHECK_ENVIRONMENT(stream_.is_open(), "TensorBoard", "'", path_.string(),
                             "' must be writable, but opening it failed (", std::strerror(errno),
                             "); choose another --work-dir");
  write(detail::version_event(now()));
}

void EventFile::add_start(int64_t step) {
  write(detail::start_event({step, now()}));
}

void EventFile::add_scalars(int64_t step,
                            const std::vector<std::pair<std::string, double>>& scalars) {
  write(detail::scalars_event({step, now()}, scalars));
}

void EventFile::add_text(int64_t step, const std::string& tag, const std::string& text) {
  write(detail::text_event({step, now()}, tag, text));
}

void EventFile::write(const std::string& event) {
  stream_ << detail::record(event) << std::flush;
  HALFSTEP_CHECK_ENVIRONMENT(stream_.good(), "TensorBoard", "'", path_.string(),
                             "' must take one more event, but writing failed (",
                             std::strerror(errno), "); free some space and go on with --resume");
}

}  // namespace halfstep::train
