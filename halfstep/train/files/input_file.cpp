#include "halfstep/train/files/input_file.h"

#include "halfstep/core/error.h"

#include <cerrno>
#include <system_error>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace halfstep::train {

InputFile::InputFile(std::filesystem::path file, std::string what)
    : file_(std::move(file)), what_(std::move(what)) {
  // Without O_NONBLOCK a pipe of that name would wait for a writer.
  descriptor_ = ::open(file_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  const int error = errno;
  HALFSTEP_CHECK_ENVIRONMENT(descriptor_ >= 0, "InputFile", file_.string(), " must be ", what_,
                             " that can be read, but got '", std::generic_category().message(error),
                             "'; check the path and its permissions");
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(descriptor_);
    halfstep::detail::raise<EnvironmentError>("InputFile", file_.string(), " must be ", what_,
                                              ", but is no regular file; give the path of a file");
  }
  size_ = static_cast<uint64_t>(status.st_size);
}

InputFile::~InputFile() {
  ::close(descriptor_);
}

size_t InputFile::read_some(void* data, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t count = ::read(descriptor_, static_cast<char*>(data) + done, size - done);
    if (count < 0 && errno == EINTR) continue;
    const int error = errno;
    HALFSTEP_CHECK_ENVIRONMENT(count >= 0, "InputFile", file_.string(),
                               " must be readable, but got '",
                               std::generic_category().message(error), "'; check the disk");
    if (count == 0) break;
    done += static_cast<size_t>(count);
  }
  return done;
}

void InputFile::read(void* data, size_t size) {
  const size_t count = read_some(data, size);
  HALFSTEP_CHECK_ENVIRONMENT(count == size, "InputFile", file_.string(), " must have ", size,
                             " more bytes as its header says, but has ", count,
                             "; it was cut off: get it again");
}

void InputFile::read_at(uint64_t offset, void* data, size_t size) const {
  size_t done = 0;
  while (done < size) {
    const ssize_t count = ::pread(descriptor_, static_cast<char*>(data) + done, size - done,
                                  static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    const int error = errno;
    HALFSTEP_CHECK_ENVIRONMENT(count >= 0, "InputFile", file_.string(),
                               " must be readable, but got '",
                               std::generic_category().message(error), "'; check the disk");
    HALFSTEP_CHECK_ENVIRONMENT(count > 0, "InputFile", file_.string(), " must have ", size,
                               " bytes from ", offset, " on, but has ", done,
                               "; it was cut off: get it again");
    done += static_cast<size_t>(count);
  }
}

}  // namespace halfstep::train
