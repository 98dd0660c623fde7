#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

namespace halfstep::train {

/// A file to read, from its start or anywhere. Every function throws EnvironmentError that names
/// the file, the system's reason and what to do. Not thread-safe.
class InputFile {
 public:
  /// Opens a regular file. `what` says what it should be in messages: "a checkpoint".
  InputFile(std::filesystem::path file, std::string what);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  /// Its size in bytes when it was opened.
  uint64_t size() const { return size_; }
  const std::filesystem::path& path() const { return file_; }

  /// Reads up to `size` bytes; fewer only at the end of the file.
  size_t read_some(void* data, size_t size);

  /// Reads exactly `size` bytes; throws where the file ends before.
  void read(void* data, size_t size);

  /// Reads exactly `size` bytes from `offset` on, wherever the other functions are; throws where
  /// the file ends before.
  void read_at(uint64_t offset, void* data, size_t size) const;

 private:
  std::filesystem::path file_;
  std::string what_;
  uint64_t size_ = 0;
  int descriptor_ = -1;
};

}  // namespace halfstep::train
