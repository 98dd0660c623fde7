#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace halfstep::train {

/// Writes a file whole or not at all.
///
/// The bytes go to a temporary file in the same folder; commit() syncs it, renames it over the
/// target and syncs the folder. Whatever stops the program before the rename (an error, kill -9, a
/// power cut) leaves the old file as it was. The temporary file is locked while it is written, so
/// that files of dead processes can be told apart: each construction removes those it finds in the
/// folder.
///
/// Every function throws EnvironmentError that names the file, the system's reason and what to do.
/// A symbolic link of the target's name is replaced, not followed. Not thread-safe; any number of
/// objects, also in other processes, may write the same file: the last commit() stays.
///
///   AtomicFile out("work_dirs/run/last.safetensors", bytes.size());
///   out.write(bytes.data(), bytes.size());
///   out.commit();
class AtomicFile {
 public:
  /// Opens the temporary file. `size`: how many bytes will be written.
  AtomicFile(std::filesystem::path file, uint64_t size);

  /// Removes the temporary file unless commit() was reached.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Appends bytes. Throws UsageError past the announced size.
  void write(const void* data, size_t size);

  /// Makes the file appear under its name. Throws UsageError unless all `size` bytes were written.
  void commit();

 private:
  void open_temporary();
  void discard();
  void write_part(const char* data, size_t size);
  [[noreturn]] void fail(const char* doing, int error);

  std::filesystem::path file_;
  std::filesystem::path folder_;
  std::filesystem::path temporary_;
  uint64_t size_;
  uint64_t written_ = 0;
  int descriptor_ = -1;
};

/// The whole of a small file at once.
void write_file(const std::filesystem::path& file, std::string_view bytes);

namespace detail {

/// What to do about a failed system call on a file, as the last part of a message.
std::string file_remedy(int error, const std::filesystem::path& file);

/// For tests: `hook` is called in each AtomicFile with "begin" (the temporary file is open),
/// "half_written", "written", "synced", "renamed" and "done" (the folder is synced). nullptr turns
/// it off. Set it before threads start.
using FaultHook = void (*)(const char* point);
void set_fault_hook(FaultHook hook);

}  // namespace detail
}  // namespace halfstep::train
