#pragma once
#include <filesystem>
#include <fstream>

#include <nlohmann/json.hpp>

namespace halfstep::train {

/// A JSON-lines file: one object a line, each line written at once. Appends to what is there, on a
/// line of its own even where an earlier process was killed inside one.
class JsonLog {
 public:
  /// Throws EnvironmentError where the file can't be opened.
  explicit JsonLog(const std::filesystem::path& file);

  /// Throws EnvironmentError where the disk refuses the line.
  void write(const nlohmann::ordered_json& line);

 private:
  std::filesystem::path path_;
  std::ofstream stream_;
};

}  // namespace halfstep::train
