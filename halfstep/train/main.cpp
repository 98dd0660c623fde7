#include "halfstep/train/main.h"

#include "halfstep/core/device.h"
#include "halfstep/core/error.h"
#include "halfstep/core/version.h"
#include "halfstep/train/command_line.h"
#include "halfstep/train/commands.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iostream>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

namespace halfstep::train {

namespace {

struct Arguments {
  std::string config;
  std::string checkpoint;
  std::string work_dir;
  std::string device = "auto";
  std::vector<std::string> overrides;
  std::vector<std::string> resume;
  std::string seed;
  std::string load_from;
  bool amp = false;
  bool precision_report = false;
  bool resolved = false;
};

void add_common(CLI::App& command, Arguments& arguments) {
  command
      .add_option("CONFIG", arguments.config,
                  "YAML file that describes the run (see docs/config.md)")
      ->required();
  command.add_flag(
      "--amp", arguments.amp,
      "Automatic mixed precision: autocast, and a dynamic loss scale where the dtype is float16");
  command
      .add_option("--device", arguments.device,
                  "auto (CUDA if it works, else CPU), cpu, cuda or cuda:N")
      ->capture_default_str();
  command
      .add_option("--cfg-options", arguments.overrides,
                  "Change config values: key.key=value … (docs/config.md)")
      ->type_name("K=V")
      ->expected(1, -1);
}

RunOptions run_options(const Arguments& arguments) {
  RunOptions options;
  options.work_dir = arguments.work_dir.empty()
                         ? "work_dirs/" + std::filesystem::path(arguments.config).stem().string()
                         : arguments.work_dir;
  options.device = parse_device(arguments.device);
  options.amp = arguments.amp;
  options.precision_report = arguments.precision_report;
  if (!arguments.seed.empty()) options.seed = detail::parse_seed(arguments.seed);
  return options;
}

Config read_config(const Arguments& arguments) {
  auto config = Config::load(arguments.config);
  for (const auto& assignment : arguments.overrides) config.override_with(assignment);
  return config;
}

int run(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("halfstep: train neural networks in automatic mixed precision", "halfstep");
  app.set_version_flag("--version",
                       fmt::format("halfstep {}, LibTorch {}", version(), torch_version()));
  app.require_subcommand(1);

  auto* train = app.add_subcommand("train", "Train what CONFIG describes");
  add_common(*train, arguments);
  train->add_option("--work-dir", arguments.work_dir,
                    "Folder for checkpoints and logs (default: work_dirs/<config name>)");
  train
      ->add_option("--resume", arguments.resume,
                   "Go on from FILE, or from the newest checkpoint of the work dir")
      ->type_name("[FILE.safetensors]")
      ->expected(0, 1);
  train
      ->add_option("--load-from", arguments.load_from,
                   "Begin with the weights of FILE (instead of load_from)")
      ->type_name("FILE.safetensors");
  train->add_option("--seed", arguments.seed,
                    "Seed of weights, shuffling and dropout (instead of randomness.seed)");
  train->add_flag("--precision-report", arguments.precision_report,
                  "Print at the end in which dtype each op of the second step ran, and what was "
                  "cast; also in the work dir, as precision_report.json");

  auto* test =
      app.add_subcommand("test", "Measure a CHECKPOINT's accuracy on the test data of CONFIG");
  add_common(*test, arguments);
  test->add_option("CHECKPOINT", arguments.checkpoint, "A step_N.safetensors of a run")->required();

  auto* print = app.add_subcommand(
      "print-config",
      "Print CONFIG with its _base_ files, environment, --cfg-options and --amp applied; keys are "
      "checked and defaults filled in with --resolved only");
  add_common(*print, arguments);
  print->add_flag(
      "--resolved", arguments.resolved,
      "Build the run's parts (this opens its data sets) and print the config that a run "
      "would save: every default filled in, every key checked");

  try {
    auto words = detail::arrange_arguments({argv + 1, argv + argc});
    // CLI11 takes them from the back.
    std::reverse(words.begin(), words.end());
    app.parse(std::move(words));
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    throw UsageError(detail::explain(app, error));
  }
  if (*print)
    return print_config_command(read_config(arguments), run_options(arguments), arguments.resolved);
  if (*test)
    return test_command(read_config(arguments), run_options(arguments), arguments.checkpoint);

  auto options = run_options(arguments);
  options.resume = train->count("--resume") > 0;
  options.load_from = arguments.load_from;
  if (!arguments.resume.empty()) options.resume_from = arguments.resume.front();
  return train_command(read_config(arguments), options, arguments.config, argv[0]);
}

}  // namespace

int main(int argc, char** argv) {
  const auto fail = [](const std::string& message, int status) {
    std::fflush(stdout);
    std::cerr << "error: " << message << std::endl;
    return status;
  };
  try {
    detail::open_closed_streams();
    const int status = run(argc, argv);
    errno = 0;
    const bool written = std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
    HALFSTEP_CHECK_ENVIRONMENT(
        written, "output", "standard output must take what is printed, but writing failed (",
        errno == 0 ? "earlier" : std::strerror(errno), "); the run itself ended as it should");
    return status;
  } catch (const UsageError& error) {
    return fail(error.what(), 2);
  } catch (const c10::Error& error) {
    // what() would add LibTorch's own stack trace.
    return fail(error.what_without_backtrace(), 1);
  } catch (const std::exception& error) {
    return fail(error.what(), 1);
  }
}

}  // namespace halfstep::train
