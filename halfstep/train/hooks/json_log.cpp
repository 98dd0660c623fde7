#include "halfstep/train/hooks/json_log.h"

#include "halfstep/core/error.h"

#include <cerrno>
#include <cstring>

namespace halfstep::train {

namespace {
bool ends_inside_a_line(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary | std::ios::ate);
  if (!stream || stream.tellg() == 0) return false;
  stream.seekg(-1, std::ios::end);
  return stream.get() != '\n';
}
}  // namespace

JsonLog::JsonLog(const std::filesystem::path& file) : path_(file) {
  const bool torn = ends_inside_a_line(file);
  stream_.open(file, std::ios::app | std::ios::binary);
  HALFSTEP_CHECK_ENVIRONMENT(stream_.is_open(), "log", "'", file.string(),
                             "' must be writable, but opening it failed (", std::strerror(errno),
                             "); choose another --work-dir");
  if (torn) stream_ << '\n';
}

void JsonLog::write(const nlohmann::ordered_json& line) {
  stream_ << line.dump() + "\n" << std::flush;
  HALFSTEP_CHECK_ENVIRONMENT(stream_.good(), "log", "'", path_.string(),
                             "' must take one more line, but writing failed (",
                             std::strerror(errno), "); free some space and go on with --resume");
}

}  // namespace halfstep::train
