#include "halfstep/train/files/atomic_file.h"

#include "halfstep/core/error.h"

#include <atomic>
#include <cerrno>
#include <system_error>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace halfstep::train {
namespace {

constexpr std::string_view kPrefix = ".halfstep-";
constexpr std::string_view kSuffix = ".tmp";
std::atomic<detail::FaultHook> fault_hook{nullptr};

void reach(const char* point) {
  if (const auto hook = fault_hook.load(std::memory_order_relaxed)) hook(point);
}

// The lock goes with its process, whatever ends it, so a temporary file that can be locked is
// nobody's. A folder that can't be listed or a file that can't be removed costs room, not
// correctness.
void remove_stale(const std::filesystem::path& folder) {
  std::error_code ignored;
  for (std::filesystem::directory_iterator entry(folder, ignored), end; entry != end;
       entry.increment(ignored)) {
    const std::string name = entry->path().filename().string();
    if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) continue;
    const int descriptor =
        ::open(entry->path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (descriptor < 0) continue;
    if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) ::unlink(entry->path().c_str());
    ::close(descriptor);
  }
}

}  // namespace

AtomicFile::AtomicFile(std::filesystem::path file, uint64_t size)
    : file_(std::move(file)),
      folder_(file_.has_parent_path() ? file_.parent_path() : "."),
      size_(size) {
  remove_stale(folder_);
  open_temporary();
  try {
    reach("begin");
  } catch (...) {
    discard();
    throw;
  }
}

AtomicFile::~AtomicFile() {
  discard();
}

void AtomicFile::discard() {
  if (descriptor_ < 0) return;
  ::unlink(temporary_.c_str());
  ::close(descriptor_);
  descriptor_ = -1;
}

void AtomicFile::open_temporary() {
  static std::atomic<uint64_t> counter{0};
  while (true) {
    temporary_ = folder_ / c10::str(kPrefix, ::getpid(), "-", counter++, kSuffix);
    const int descriptor =
        ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (descriptor < 0) {
      if (errno == EEXIST) continue;
      fail("be opened for writing", errno);
    }
    // Another process may take the file for a stale one before it is locked: then try another name.
    // A file system without locks is fine: there nobody else can lock it either.
    struct stat status {};
    const bool taken = ::flock(descriptor, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    if (!taken && ::fstat(descriptor, &status) == 0 && status.st_nlink > 0) {
      descriptor_ = descriptor;
      return;
    }
    ::close(descriptor);
  }
}

void AtomicFile::write(const void* data, size_t size) {
  HALFSTEP_CHECK_USAGE(size <= size_ - written_, "AtomicFile::write", "at most ", size_,
                       " bytes were announced for ", file_.string(), ", but got ", written_ + size);
  const auto* bytes = static_cast<const char*>(data);
  const uint64_t half = size_ / 2;
  if (written_ <= half && written_ + size > half) {
    const auto first = static_cast<size_t>(half - written_);
    write_part(bytes, first);
    reach("half_written");
    bytes += first;
    size -= first;
  }
  write_part(bytes, size);
}

void AtomicFile::write_part(const char* data, size_t size) {
  while (size > 0) {
    const ssize_t count = ::write(descriptor_, data, size);
    if (count < 0) {
      if (errno == EINTR) continue;
      fail("be written", errno);
    }
    data += count;
    size -= static_cast<size_t>(count);
    written_ += static_cast<uint64_t>(count);
  }
}

void AtomicFile::commit() {
  HALFSTEP_CHECK_USAGE(descriptor_ >= 0 && written_ == size_, "AtomicFile::commit", "all ", size_,
                       " bytes of ", file_.string(), " must be written before one commit, but got ",
                       written_, "; write the rest first and commit once");
  reach("written");
  if (::fsync(descriptor_) != 0) fail("be synced to the disk", errno);
  reach("synced");
  if (::rename(temporary_.c_str(), file_.c_str()) != 0) fail("be put in its place", errno);
  ::close(descriptor_);
  descriptor_ = -1;
  reach("renamed");

  // Without this the new name may be lost in a power cut, though never half of the file.
  const int folder = ::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const int synced = folder < 0 ? -1 : ::fsync(folder);
  const int error = errno;
  if (folder >= 0) ::close(folder);
  // EINVAL: a file system that has nothing to sync for a folder.
  HALFSTEP_CHECK_ENVIRONMENT(synced == 0 || error == EINVAL, "AtomicFile", file_.string(),
                             " is written, but its folder must be synced to outlast a power cut, "
                             "but got '",
                             std::generic_category().message(error), "'; check the disk");
  reach("done");
}

void AtomicFile::fail(const char* doing, int error) {
  halfstep::detail::raise<EnvironmentError>(
      "AtomicFile", file_.string(), " must ", doing, ", but got '",
      std::generic_category().message(error), "' after ", written_, " of ", size_, " bytes; ",
      detail::file_remedy(error, file_), " (an older file of that name is unchanged)");
}

void write_file(const std::filesystem::path& file, std::string_view bytes) {
  AtomicFile out(file, bytes.size());
  out.write(bytes.data(), bytes.size());
  out.commit();
}

namespace detail {

std::string file_remedy(int error, const std::filesystem::path& file) {
  const std::string folder = file.has_parent_path() ? file.parent_path().string() : ".";
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return c10::str("free some room on the disk of ", folder, " or choose another folder");
    case EACCES:
    case EPERM:
    case EROFS:
      return c10::str("make ", folder, " writable or choose another folder");
    case ENOENT:
    case ENOTDIR:
      return c10::str("make the folder ", folder, " first or choose another one");
    case EISDIR:
      return "a folder has that name: remove it or choose another name";
    case EFBIG:
      return "raise the limit on file sizes (ulimit -f) or choose a disk that takes such a file";
    case ENAMETOOLONG:
      return "choose a shorter name";
    case EMFILE:
    case ENFILE:
      return "raise the limit on open files (ulimit -n)";
    default:
      return c10::str("check the disk of ", folder);
  }
}

void set_fault_hook(FaultHook hook) {
  fault_hook.store(hook);
}

}  // namespace detail
}  // namespace halfstep::train
