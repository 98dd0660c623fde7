#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/loop/run_parts.h"

#include <filesystem>
#include <string>

namespace halfstep::train {

/// `halfstep train`: says what will run, trains, says what ran. `program` is what was typed to
/// start it. Returns the exit status.
int train_command(Config config, RunOptions options, const std::string& config_name,
                  const std::string& program);

/// `halfstep test`: prints the results of a checkpoint's weights, or of those in any file that
/// load_weights() takes, on the test data. Returns the exit status.
int test_command(Config config, const RunOptions& options, const std::filesystem::path& checkpoint);

/// `halfstep print-config`: prints the config as YAML, with what it inherits, the environment, the
/// options and --amp applied. With `resolved` it builds the run's parts, data sets too, and prints
/// what a run would save: every default filled in and every key checked. Returns the exit status.
int print_config_command(Config config, const RunOptions& options, bool resolved);

}  // namespace halfstep::train
