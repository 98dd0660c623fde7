#include "halfstep/train/main.h"

#include "halfstep/core/build_info.h"
#include "halfstep/core/device.h"
#include "halfstep/core/error.h"
#include "halfstep/core/version.h"
#include "halfstep/train/command_line.h"
#include "halfstep/train/commands.h"
#include "halfstep/train/doctor/doctor_command.h"
#include "halfstep/train/launch/launch_commands.h"
#include "halfstep/train/launch/requeue.h"
#include "halfstep/train/loop/rank_files.h"
#include "halfstep/train/model_commands.h"
#include "halfstep/train/report/report_command.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <sstream>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <unistd.h>

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
  std::string launcher = "auto";
  std::string local_rank;
  std::string ranks;
  detail::SlurmTrain slurm;
  bool requeue = false;
  bool dry_run = false;
  bool amp = false;
  bool precision_report = false;
  bool trace_overflow = false;
  bool auto_scale_lr = false;
  bool resolved = false;
  std::string dtype;
  std::string output;
  bool allow_overflow = false;
  std::vector<std::string> inputs;
  PredictOptions predict;
  DoctorOptions doctor;
};

constexpr const char* kConfig = "YAML file that describes the run (see docs/config.md)";

void add_device(CLI::App& command, Arguments& arguments) {
  command
      .add_option("--device", arguments.device,
                  "auto (CUDA if it works, else CPU), cpu, cuda or cuda:N")
      ->capture_default_str();
}

void add_overrides(CLI::App& command, Arguments& arguments) {
  command
      .add_option("--cfg-options", arguments.overrides,
                  "Change config values: key.key=value … (docs/config.md)")
      ->type_name("K=V")
      ->expected(1, -1);
}

void add_common(CLI::App& command, Arguments& arguments) {
  command.add_option("CONFIG", arguments.config, kConfig)->required();
  command.add_flag(
      "--amp", arguments.amp,
      "Automatic mixed precision: autocast, and a dynamic loss scale where the dtype is float16");
  add_device(command, arguments);
  add_overrides(command, arguments);
}

// All of `train` but where it puts its files.
void add_training(CLI::App& command, Arguments& arguments) {
  command
      .add_option("--resume", arguments.resume,
                  "Go on from FILE, or from the newest checkpoint of the work dir")
      ->type_name("[FILE.safetensors]")
      ->expected(0, 1);
  command
      .add_option("--load-from", arguments.load_from,
                  "Begin with the weights of FILE, .safetensors or .pth (instead of load_from)")
      ->type_name("FILE");
  command.add_option("--seed", arguments.seed,
                     "Seed of weights, shuffling and dropout (instead of randomness.seed)");
  command.add_flag("--precision-report", arguments.precision_report,
                   "Print at the end in which dtype each op of the second step ran, and what was "
                   "cast; also in the work dir, as precision_report.json");
  command.add_flag("--trace-overflow", arguments.trace_overflow,
                   "Name the first op, module and direction of each step that gave an inf or NaN, "
                   "and what it was given; at the end, how large gradients are");
  command.add_flag("--auto-scale-lr", arguments.auto_scale_lr,
                   "Multiply learning rates by the examples of a step over "
                   "auto_scale_lr.base_batch_size");
  command.add_flag("--requeue", arguments.requeue,
                   "When SIGUSR1 has stopped the run, let Slurm start it again where it was "
                   "(docs/scaling.md)");
}

void add_work_dir(CLI::App& command, Arguments& arguments) {
  command.add_option("--work-dir", arguments.work_dir,
                     "Folder for checkpoints and logs (default: work_dirs/<config name>)");
}

CLI::App* add_dist_train(CLI::App& app, Arguments& arguments) {
  auto* command = app.add_subcommand("dist-train",
                                     "Train what CONFIG describes on N processes of this machine");
  add_common(*command, arguments);
  command->add_option("N", arguments.ranks, "Processes on this machine (one for each of its GPUs)")
      ->required();
  add_work_dir(*command, arguments);
  add_training(*command, arguments);
  command->footer(
      "On several machines, on each: NNODES (how many), NODE_RANK (which, from 0), MASTER_ADDR "
      "(number 0,\n"
      "as all reach it) and PORT (default: 29500; on one machine any free one) in the "
      "environment.");
  return command;
}

CLI::App* add_slurm_train(CLI::App& app, Arguments& arguments) {
  auto* command = app.add_subcommand("slurm-train", "Train on a Slurm cluster, by srun");
  command->add_option("PARTITION", arguments.slurm.partition, "Slurm's partition")->required();
  command->add_option("JOB_NAME", arguments.slurm.job_name, "Name of the job")->required();
  add_common(*command, arguments);
  command->add_option("WORK_DIR", arguments.work_dir, "Folder for checkpoints and logs")
      ->required();
  add_training(*command, arguments);
  command->add_flag("--dry-run", arguments.dry_run, "Print srun's command line only");
  command->footer(
      "In the environment: GPUS (processes, default 8), GPUS_PER_NODE (default: GPUS, at most 8; 0 "
      "on\n"
      "machines without), CPUS_PER_TASK (default 5), SRUN_ARGS (more options of srun).");
  return command;
}

constexpr const char* kWeights =
    "A step_N.safetensors of a run, or weights in a .safetensors or .pth file";

CLI::App* add_export(CLI::App& app, Arguments& arguments) {
  auto* command = app.add_subcommand(
      "export", "Write the weights of a CHECKPOINT as a safetensors file, in the dtype chosen");
  add_common(*command, arguments);
  command->add_option("CHECKPOINT", arguments.checkpoint, kWeights)->required();
  command->add_option("--dtype", arguments.dtype, "float16, bfloat16 or float32")->required();
  command->add_option("-o,--output", arguments.output, "The file to write")->required();
  command->add_flag("--allow-overflow", arguments.allow_overflow,
                    "Let values beyond the dtype's range become inf");
  return command;
}

CLI::App* add_predict(CLI::App& app, Arguments& arguments) {
  auto* command = app.add_subcommand(
      "predict",
      "Print what the model of a CHECKPOINT says of each INPUT: a classifier of image "
      "files the class and its probability, a language model of texts how they go on");
  add_common(*command, arguments);
  command->add_option("CHECKPOINT", arguments.checkpoint, kWeights)->required();
  command->add_option("INPUT", arguments.inputs, "PNG or JPEG files, or texts to continue")
      ->required();
  auto& predict = arguments.predict;
  command->add_flag("--json", predict.json, "Print a JSON object for each input");
  command->add_option("--batch-size", predict.batch_size, "Images at once")->capture_default_str();
  command->add_option("--length", predict.text.length, "Characters to add to a text")
      ->capture_default_str();
  command
      ->add_option("--temperature", predict.text.temperature,
                   "Of a text: 0 takes the most likely character, more than 1 dares more")
      ->capture_default_str();
  command->add_option("--seed", arguments.seed, "Of the draw of a text's characters");
  return command;
}

CLI::App* add_doctor(CLI::App& app, Arguments& arguments) {
  auto* command = app.add_subcommand(
      "doctor",
      "Say what this machine can do, how fast it computes in float32, bfloat16 and float16, and "
      "which to train in; with a CONFIG by what its steps take");
  command->add_option("CONFIG", arguments.config, kConfig);
  add_device(*command, arguments);
  add_overrides(*command, arguments);
  auto& doctor = arguments.doctor;
  command->add_option("--steps", doctor.steps, "Steps of CONFIG to measure, in each precision")
      ->capture_default_str();
  // Of the processes that it starts.
  command->add_option("--trial-dtype", doctor.trial_dtype)->group("");
  command->add_option("--trial-folder", doctor.trial_folder)->group("");
  return command;
}

CLI::App* add_report(CLI::App& app, Arguments& arguments) {
  auto* command = app.add_subcommand(
      "report", "Make one page of HTML of the run in WORK_DIR, also while it goes on");
  command->add_option("WORK_DIR", arguments.work_dir, "The folder of a run")->required();
  command->add_option("-o,--output", arguments.output, "The page (default: WORK_DIR/report.html)")
      ->type_name("FILE.html");
  return command;
}

// The words after the command's own `places`, which must come first, for another command.
std::vector<std::string> words_behind(const std::vector<std::string>& words,
                                      const std::vector<std::string>& places) {
  const bool first =
      words.size() > places.size() && std::equal(places.begin(), places.end(), words.begin() + 1);
  HALFSTEP_CHECK_USAGE(first, "command line", words.front(), " must have its ", places.size(),
                       " arguments before all options, but they are not; see halfstep ",
                       words.front(), " --help");
  return {words.begin() + 1 + static_cast<std::ptrdiff_t>(places.size()), words.end()};
}

RunOptions run_options(const Arguments& arguments) {
  RunOptions options;
  options.work_dir = arguments.work_dir.empty()
                         ? "work_dirs/" + std::filesystem::path(arguments.config).stem().string()
                         : arguments.work_dir;
  options.device = parse_device(arguments.device);
  options.amp = arguments.amp;
  options.precision_report = arguments.precision_report;
  options.trace_overflow = arguments.trace_overflow;
  options.requeue = arguments.requeue;
  options.auto_scale_lr = arguments.auto_scale_lr;
  if (!arguments.seed.empty()) options.seed = detail::parse_seed(arguments.seed);
  return options;
}

dist::LaunchEnvironment read_launch(const Arguments& arguments) {
  auto variables = dist::process_variables();
  if (!arguments.local_rank.empty()) variables.emplace("LOCAL_RANK", arguments.local_rank);
  return dist::launch_environment(dist::parse_launcher(arguments.launcher), variables);
}

Config read_config(const Arguments& arguments) {
  auto config = Config::load(arguments.config);
  for (const auto& assignment : arguments.overrides) config.override_with(assignment);
  return config;
}

// The first line is for scripts.
std::string version_text() {
  std::ostringstream text;
  text << "halfstep " << version() << ", LibTorch " << torch_version() << "\n" << build_info();
  auto lines = text.str();
  lines.pop_back();  // CLI11 ends the last one
  return lines;
}

int run(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("halfstep: train neural networks in automatic mixed precision", "halfstep");
  app.set_version_flag("--version", version_text);
  app.require_subcommand(1);

  auto* train = app.add_subcommand("train", "Train what CONFIG describes");
  add_common(*train, arguments);
  add_work_dir(*train, arguments);
  add_training(*train, arguments);
  train
      ->add_option("--launcher", arguments.launcher,
                   "Who starts the job's processes: auto (find out), none, pytorch (torchrun), "
                   "slurm (srun) or mpi (mpirun)")
      ->capture_default_str();
  // As torch.distributed.launch, older than torchrun, gives it.
  train->add_option("--local-rank,--local_rank", arguments.local_rank)->group("");
  const auto* dist_train = add_dist_train(app, arguments);
  const auto* slurm_train = add_slurm_train(app, arguments);
  const auto* dist_run = app.add_subcommand(
      "dist-run", "dist-run N PROGRAM …: run PROGRAM as the N processes of a job");

  auto* test =
      app.add_subcommand("test", "Measure a CHECKPOINT's accuracy on the test data of CONFIG");
  add_common(*test, arguments);
  test->add_option("CHECKPOINT", arguments.checkpoint, kWeights)->required();

  const auto* export_weights = add_export(app, arguments);
  const auto* predict = add_predict(app, arguments);
  const auto* report = add_report(app, arguments);
  const auto* doctor = add_doctor(app, arguments);

  auto* print = app.add_subcommand(
      "print-config",
      "Print CONFIG with its _base_ files, environment, --cfg-options and --amp applied; keys are "
      "checked and defaults filled in with --resolved only");
  add_common(*print, arguments);
  print->add_flag(
      "--resolved", arguments.resolved,
      "Build the run's parts (this opens its data sets) and print the config that a run "
      "would save: every default filled in, every key checked");

  const std::vector<std::string> typed(argv + 1, argv + argc);
  // What follows is another program's: nothing of it is ours to read.
  if (typed.size() > 2 && typed.front() == "dist-run")
    return dist_run_command(typed[1], {typed.begin() + 2, typed.end()});
  try {
    auto words = detail::arrange_arguments(typed);
    // CLI11 takes them from the back.
    std::reverse(words.begin(), words.end());
    app.parse(std::move(words));
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    throw UsageError(detail::explain(app, error));
  }
  if (*doctor) {
    arguments.doctor.config = arguments.config;
    arguments.doctor.overrides = arguments.overrides;
    arguments.doctor.device = arguments.device;
    return doctor_command(arguments.doctor, run_options(arguments));
  }
  if (*report) return report_command(arguments.work_dir, arguments.output);
  if (*print)
    return print_config_command(read_config(arguments), run_options(arguments), arguments.resolved);
  if (*test)
    return test_command(read_config(arguments), run_options(arguments), arguments.checkpoint);
  if (*export_weights)
    return export_command(read_config(arguments), run_options(arguments), arguments.checkpoint,
                          arguments.dtype, arguments.output, arguments.allow_overflow);
  if (*predict) {
    const auto options = run_options(arguments);
    arguments.predict.text.seed = options.seed.value_or(0);
    return predict_command(read_config(arguments), options, arguments.checkpoint, arguments.inputs,
                           arguments.predict);
  }
  HALFSTEP_CHECK_USAGE(!*dist_run, "command line",
                       "dist-run must be given N and a PROGRAM, but is not; halfstep dist-run 2 "
                       "./my_program runs it twice, with the variables of torchrun");
  if (*dist_train) {
    const auto more = words_behind(typed, {arguments.config, arguments.ranks});
    return dist_train_command(arguments.config, arguments.ranks, more, argv[0]);
  }
  if (*slurm_train) {
    auto& slurm = arguments.slurm;
    slurm.config = arguments.config;
    slurm.work_dir = arguments.work_dir;
    slurm.more =
        words_behind(typed, {slurm.partition, slurm.job_name, slurm.config, slurm.work_dir});
    std::erase_if(slurm.more,
                  [](const auto& word) { return word == "--dry-run" || word == "--requeue"; });
    return slurm_train_command(slurm, arguments.dry_run, arguments.requeue);
  }

  auto options = run_options(arguments);
  options.launch = read_launch(arguments);
  options.resume = train->count("--resume") > 0;
  options.load_from = arguments.load_from;
  if (!arguments.resume.empty()) options.resume_from = arguments.resume.front();
  if (options.requeue && detail::is_requeued_job(dist::process_variables())) {
    options.resume = true;
    options.resume_from.clear();
  }
  return train_command(read_config(arguments), options, arguments.config, argv[0]);
}

}  // namespace

int main(int argc, char** argv) {
  const auto fail = [](const std::string& message, int status) {
    std::fflush(stdout);
    std::cerr << "error: " << message << std::endl;
    // A rank but the first one prints into a file of its own.
    if (const int original = original_error(); original != STDERR_FILENO) {
      const auto line = "error: " + message + "\n";
      [[maybe_unused]] const auto written = ::write(original, line.data(), line.size());
    }
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
