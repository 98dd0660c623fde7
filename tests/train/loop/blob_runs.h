#pragma once
#include "halfstep/train/loop/trainer.h"

#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/temp_folder.h"
#include "tests/train/loop/blobs.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace halfstep::train::testing {

/// The objects of a file with one JSON object a line.
inline std::vector<nlohmann::ordered_json> lines_of(const std::filesystem::path& file) {
  std::vector<nlohmann::ordered_json> lines;
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line);)
    lines.push_back(nlohmann::ordered_json::parse(line));
  return lines;
}

/// Runs of blobs_config, changed as --cfg-options does, in a folder of the test's own.
class BlobRuns : public ::testing::Test {
 protected:
  void SetUp() override { register_blobs(); }
  static Config config(const std::vector<std::string>& overrides) {
    auto config = Config::parse(blobs_config, "blobs.yaml");
    for (const auto& assignment : overrides) config.override_with(assignment);
    return config;
  }
  std::unique_ptr<Trainer> trainer(const std::vector<std::string>& overrides,
                                   RunOptions options = {}) const {
    options.work_dir = dir_.path();
    return std::make_unique<Trainer>(config(overrides), options);
  }
  /// The lines of log.jsonl.
  std::vector<nlohmann::ordered_json> log() const { return lines_of(dir_.path() / "log.jsonl"); }

  halfstep::testing::TempFolder dir_;
};

}  // namespace halfstep::train::testing
