#pragma once
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

namespace halfstep::train {

/// A new event file of TensorBoard's in a folder: events.out.tfevents.TIME.HOST.PROCESS, which no
/// other process writes. The system has each event when its function returns. Not thread-safe.
///
///   EventFile file("work_dirs/run/vis_data");
///   file.add_scalars(100, {{"train/loss", 0.5}});
///
/// All functions throw EnvironmentError where the file can't be made or written.
class EventFile {
 public:
  /// Makes the folder, where it is missing, and the file.
  explicit EventFile(const std::filesystem::path& folder);

  /// The run goes on from here: what earlier files of the folder have from `step` on counts no
  /// more.
  void add_start(int64_t step);
  /// Numbers by tag; TensorBoard keeps float32.
  void add_scalars(int64_t step, const std::vector<std::pair<std::string, double>>& scalars);
  /// A text, in Markdown.
  void add_text(int64_t step, const std::string& tag, const std::string& text);

  const std::filesystem::path& path() const { return path_; }

 private:
  void write(const std::string& event);

  std::filesystem::path path_;
  std::ofstream stream_;
};

}  // namespace halfstep::train
