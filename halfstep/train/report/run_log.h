#pragma once
#include <filesystem>

#include <nlohmann/json.hpp>

namespace halfstep::train {

/// What the files of a work dir tell of its run, for a report: as one run, however often it was
/// resumed.
///
///   {"name": "mnist_mlp",     // of the folder
///    "begin": {…},            // the first line: versions, machine, dtype, seed
///    "now": {…},              // the same of the process that wrote last
///    "resumed": [50, …],      // after which steps it was
///    "train": [{…}, …],       // the lines of each event, oldest first
///    "validation": […],       // one a step: made again after a resume, it is the newer one
///    "skips": […], "overflows": […], "gradient_exponents": […],
///    "end": {…} or null,      // of an event "end" or "error"; null: it runs still or was killed
///    "unreadable_lines": 0,   // a process that is killed may leave half a line
///    "config": "…",           // config.yaml, empty where there is none
///    "precision": {…} or null}
///
/// A line after the step from which the run was resumed belongs to what was lost, and is left out;
/// so is all before the last `start`. Throws UsageError where the folder has no log or it does not
/// begin as a run's; EnvironmentError where a file can't be read.
nlohmann::ordered_json read_run(const std::filesystem::path& work_dir);

}  // namespace halfstep::train
