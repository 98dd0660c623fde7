#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/loop/run_parts.h"

#include <filesystem>
#include <string>

namespace halfstep::train {

/// The folder a rank keeps its files in: the work dir itself of the first one, its
/// ranks/rank_N of another. What an earlier run left there is removed unless `resume`.
std::filesystem::path rank_folder(const std::filesystem::path& work_dir, int rank, bool resume);

/// What all ranks of a run must have in common, as a text with a line for each value: the config
/// but for the folders of data, and the options that change it.
std::string shared_settings(const Config& config, const RunOptions& options);

/// Sends what a rank prints, on standard output and standard error, to output.log in its folder.
/// Errors that end it are printed on the standard error it had (see original_error).
void redirect_output(const std::filesystem::path& folder);

/// A descriptor of the standard error this process was started with.
int original_error();

}  // namespace halfstep::train
