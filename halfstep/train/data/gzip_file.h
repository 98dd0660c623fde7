#pragma once
#include "halfstep/train/files/input_file.h"

#include <memory>

namespace halfstep::train {

/// A file to read from its start, unpacked on the way if it is gzipped (which its first bytes tell,
/// not its name). Throws EnvironmentError for a file that can't be read and for gzip data that are
/// damaged or cut off. Not thread-safe.
class GzipFile {
 public:
  /// `what` names the kind of file in messages.
  GzipFile(const std::filesystem::path& file, const std::string& what);
  ~GzipFile();

  /// The most bytes the file can hold when unpacked: its size, or 1032 times that for gzip, which
  /// can't do better.
  uint64_t max_size() const;

  /// Reads up to `size` bytes of content; fewer only at its end.
  size_t read_some(void* data, size_t size);

 private:
  struct Inflater;
  InputFile file_;
  std::unique_ptr<Inflater> inflater_;  // none for a plain file
};

}  // namespace halfstep::train
