#include "halfstep/train/doctor/doctor_command.h"

#include "halfstep/core/build_info.h"
#include "halfstep/core/device.h"
#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/core/low_precision_support.h"
#include "halfstep/core/machine.h"
#include "halfstep/core/version.h"
#include "halfstep/train/doctor/advice.h"
#include "halfstep/train/loop/amp_settings.h"
#include "halfstep/train/loop/stop_signal.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include <c10/core/CachingDeviceAllocator.h>

#include <fmt/format.h>

namespace halfstep::train {

namespace {

namespace fs = std::filesystem;

// A folder of its own, gone with this object.
class Scratch {
 public:
  Scratch() {
    std::string name = (fs::temp_directory_path() / "halfstep-doctor-XXXXXX").string();
    HALFSTEP_CHECK_ENVIRONMENT(::mkdtemp(name.data()) != nullptr, "doctor", "'", name,
                               "' must be a folder that can be made, but that fails (",
                               std::strerror(errno), "); set TMPDIR to a folder with some space");
    path_ = name;
  }
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

void print_now(const std::string& text) {
  fmt::print("{}", text);
  std::fflush(stdout);
}

void print_machine(c10::Device device) {
  const auto machine = this_machine();
  const auto support = low_precision_support(device);
  std::ostringstream build;
  build << build_info();
  print_now(fmt::format("halfstep {}, LibTorch {}\n{}\n", version(), torch_version(), build.str()));
  print_now(fmt::format(
      "machine: {}, {} cores, {:.1f} GiB; LibTorch computes with {} here\n", machine.cpu,
      machine.cores, static_cast<double>(machine.memory_bytes) / (1 << 30), machine.instructions));
  const auto has = [](bool yes) { return yes ? "yes" : "no"; };
  print_now(
      fmt::format("device {}: instructions for bfloat16 products {}, for float16 products {}\n",
                  describe_device(device), has(support.bfloat16), has(support.float16)));
}

std::string name_of(const PrecisionFigures& figures) {
  return dtype_name(figures.dtype) + (figures.rehearsed ? " (rehearsed)" : "");
}

std::string rate_text(double operations) {
  return operations >= 1e12
             ? fmt::format("{:.1f} TFLOP/s", operations * 1e-12)
             : fmt::format("{:.{}f} GFLOP/s", operations * 1e-9, operations < 1e10 ? 1 : 0);
}

std::vector<PrecisionFigures> measure(c10::Device device) {
  print_now(fmt::format("\n{:<22}{:>20}{:>22}\n", "", "products", "convolutions"));
  std::vector<PrecisionFigures> figures;
  for (const auto dtype : {c10::kFloat, c10::kBFloat16, c10::kHalf}) {
    PrecisionFigures each{.dtype = dtype, .rehearsed = device.is_cpu() && dtype == c10::kHalf};
    each.rates = measure_rates(device, dtype);
    figures.push_back(each);
    const auto& plain = figures.front().rates;
    const auto with_ratio = [](double rate, double of) {
      return fmt::format("{} {:>7}", rate_text(rate), fmt::format("{:.2f} x", rate / of));
    };
    print_now(fmt::format("{:<22}{:>20}{:>22}\n", name_of(each),
                          with_ratio(each.rates.product, plain.product),
                          with_ratio(each.rates.convolution, plain.convolution)));
  }
  print_now(fmt::format("memory: {:.1f} GB/s read and written by a copy\n",
                        measure_memory_rate(device) * 1e-9));
  // The trials' processes want the memory.
  if (!device.is_cpu()) c10::getDeviceAllocator(device.type())->emptyCache();
  return figures;
}

// Returns whether a trial ran through; stops before the next one where a signal came.
bool try_config(const DoctorOptions& doctor, std::vector<PrecisionFigures>& figures,
                const StopSignal& signal) {
  print_now(fmt::format("\nsteps of {}:\n{:<22}{:>12}{:>12}{:>16}{:>10}\n", doctor.config, "",
                        "a step", "", "memory", "skipped"));
  bool any = false;
  for (auto& each : figures) {
    const Scratch scratch;
    std::vector<std::string> words{fs::read_symlink("/proc/self/exe").string(),
                                   "doctor",
                                   doctor.config,
                                   "--device",
                                   doctor.device,
                                   "--steps",
                                   std::to_string(doctor.steps),
                                   "--trial-dtype",
                                   dtype_name(each.dtype),
                                   "--trial-folder",
                                   scratch.path().string()};
    if (!doctor.overrides.empty()) words.emplace_back("--cfg-options");
    words.insert(words.end(), doctor.overrides.begin(), doctor.overrides.end());
    const auto trial = try_in_process(words, scratch.path() / "trial.json",
                                      [&] { return signal.received() != 0; });
    if (signal.received() != 0) return any;
    each.trial = trial;
    if (!trial.error.empty()) {
      print_now(fmt::format("{:<22}failed: {}\n", name_of(each), trial.error));
      continue;
    }
    any = true;
    const auto& plain = figures.front().trial;
    const auto ratio = plain->error.empty() && trial.seconds > 0
                           ? fmt::format("{:.2f} x", plain->seconds / trial.seconds)
                           : std::string();
    print_now(fmt::format("{:<22}{:>12}{:>12}{:>16}{:>10}\n", name_of(each),
                          fmt::format("{:.4g} ms", trial.seconds * 1e3), ratio,
                          fmt::format("{} MiB", trial.memory), trial.skipped));
  }
  return any;
}

// What must stand before a dtype so that every optimizer of the config trains in it.
std::vector<std::string> dtype_options(Config config) {
  if (config.has("fp16")) return {"fp16=null optim_wrapper.dtype="};
  std::vector<std::string> options;
  if (config.has("optim_wrapper")) {
    auto optim_wrapper = config.child("optim_wrapper");
    for (const auto& name : wrapper_names(optim_wrapper))
      options.push_back(fmt::format("optim_wrapper.{}.dtype=", name));
  }
  if (options.empty()) options.emplace_back("optim_wrapper.dtype=");
  return options;
}

}  // namespace

int doctor_command(const DoctorOptions& doctor, const RunOptions& options) {
  HALFSTEP_CHECK_USAGE(doctor.steps >= 1, "command line", "--steps must be at least 1, but got ",
                       doctor.steps, "; 20 is the default");
  const auto load = [&] {
    auto config = Config::load(doctor.config);
    for (const auto& assignment : doctor.overrides) config.override_with(assignment);
    return config;
  };
  if (!doctor.trial_dtype.empty()) {
    auto scratch = options;
    scratch.work_dir = doctor.trial_folder / "run";
    run_trial(load(), scratch, parse_dtype(doctor.trial_dtype), doctor.steps,
              doctor.trial_folder / "trial.json");
    return 0;
  }
  // What is wrong with the file is told before anything is measured.
  const auto dtypes = doctor.config.empty() ? std::vector<std::string>{"optim_wrapper.dtype="}
                                            : dtype_options(load());
  print_machine(options.device);
  auto figures = measure(options.device);
  const StopSignal signal;
  const bool works = doctor.config.empty() || try_config(doctor, figures, signal);
  if (signal.received() != 0) return 128 + signal.received();
  print_now(works ? "\n" + advice(figures, dtypes) + "\n"
                  : std::string("\nThe config ran in no precision.\n"));
  return works ? 0 : 1;
}

}  // namespace halfstep::train
