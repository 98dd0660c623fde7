#include "halfstep/train/hooks/log_processor.h"

#include "halfstep/train/loop/trainer.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include <c10/core/CachingDeviceAllocator.h>

#include <fmt/format.h>

namespace halfstep::train {

namespace {

bool is_smoothed(std::string_view name) {
  for (const char* part : {"loss", "time", "grad_norm"})
    if (name.find(part) != name.npos && name != "loss_scale") return true;
  return false;
}

// Without the sign that a NaN may have.
double plain(double value) {
  return std::isnan(value) ? std::abs(value) : value;
}

std::string right_aligned(int64_t number, int64_t of) {
  return fmt::format("{:>{}}", number, std::to_string(of).size());
}

}  // namespace

int64_t peak_mebibytes(c10::Device device) {
  const auto index = std::max<c10::DeviceIndex>(device.index(), 0);
  const auto stats = c10::getDeviceAllocator(device.type())->getDeviceStats(index);
  return stats.allocated_bytes[0].peak >> 20;
}

std::string duration_text(double seconds) {
  const auto whole = static_cast<int64_t>(std::max(seconds, 0.0));
  const int64_t days = whole / 86400;
  auto text = fmt::format("{}:{:02}:{:02}", whole / 3600 % 24, whole / 60 % 60, whole % 60);
  if (days > 0) text = fmt::format("{} day{}, {}", days, days == 1 ? "" : "s", text);
  return text;
}

LogProcessor::LogProcessor(Config& config, bool run_by_epoch)
    : window_size_(config.get<int64_t>("window_size", 10)),
      num_digits_(static_cast<int>(config.get<int64_t>("num_digits", 4))),
      by_epoch_(config.get<bool>("by_epoch", run_by_epoch)) {
  if (config.has("type") && config.get<std::string>("type") != "LogProcessor")
    config.fail("type", "must be LogProcessor");
  if (window_size_ < 1 || window_size_ > static_cast<int64_t>(MessageHub::kept))
    config.fail("window_size", fmt::format("must be from 1 to {}", MessageHub::kept));
  if (num_digits_ < 0 || num_digits_ > 17) config.fail("num_digits", "must be from 0 to 17");
  if (!config.has("custom_cfg")) return;
  for (auto& entry : config.children("custom_cfg")) {
    auto custom = read_custom(entry);
    for (const auto& other : custom_)
      if (other.name == custom.name)
        entry.fail(entry.has("log_name") ? "log_name" : "data_src",
                   "must give each line's number once; choose another log_name");
    custom_.push_back(std::move(custom));
  }
}

LogProcessor::Custom LogProcessor::read_custom(Config& config) {
  Custom custom;
  custom.source = config.get<std::string>("data_src");
  custom.method = config.get<std::string>("method_name");
  custom.name = config.get<std::string>("log_name", custom.source);
  if (custom.method == "current") return custom;
  if (custom.method != "mean" && custom.method != "min" && custom.method != "max")
    config.fail("method_name", "must be mean, min, max or current");
  if (!config.is_number("window_size"))
    config.fail(
        "window_size",
        fmt::format("must be a number of values from 1 to {} (no more are kept, so there is "
                    "no 'epoch' and no 'global'; log.jsonl has every line for those)",
                    MessageHub::kept));
  custom.window = config.get<int64_t>("window_size");
  if (custom.window < 1 || custom.window > static_cast<int64_t>(MessageHub::kept))
    config.fail("window_size", fmt::format("must be from 1 to {}", MessageHub::kept));
  return custom;
}

double LogProcessor::value_of(const Trainer& trainer, const std::string& prefix,
                              const Custom& custom) const {
  const auto& hub = trainer.message_hub();
  const auto name = prefix + custom.source;
  if (custom.method == "current") return hub.current(name);
  if (custom.method == "mean") return hub.mean(name, custom.window);
  const auto values = hub.last(name, custom.window);
  return custom.method == "min" ? *std::min_element(values.begin(), values.end())
                                : *std::max_element(values.begin(), values.end());
}

nlohmann::ordered_json LogProcessor::collect(const Trainer& trainer, const std::string& prefix,
                                             int64_t time_window) const {
  auto result = nlohmann::ordered_json::object();
  const auto& hub = trainer.message_hub();
  for (const auto& name : hub.names(prefix)) {
    const auto key = name.substr(prefix.size());
    const bool is_time = key == "time" || key == "data_time";
    // Results of a validation are no series to smooth.
    const bool smooth = is_time || (prefix == "train/" && is_smoothed(key));
    result[key] =
        plain(smooth ? hub.mean(name, is_time ? time_window : window_size_) : hub.current(name));
  }
  for (const auto& custom : custom_)
    if (hub.has(prefix + custom.source))
      result[custom.name] = plain(value_of(trainer, prefix, custom));
  return result;
}

std::string LogProcessor::field(const std::string& name, double value) const {
  return fmt::format("{}: {:.{}f}", name, value, num_digits_);
}

// Takes what it shows out of `left`.
std::string LogProcessor::times(const Trainer& trainer, nlohmann::ordered_json& left) const {
  if (!left.contains("time") || !left.contains("data_time") || !trainer.message_hub().has("eta"))
    return "";
  auto text = fmt::format("eta: {}  {}  {}  ", duration_text(trainer.message_hub().current("eta")),
                          field("time", left["time"].get<double>()),
                          field("data_time", left["data_time"].get<double>()));
  left.erase("time");
  left.erase("data_time");
  return text;
}

std::string LogProcessor::train_header(const Trainer& trainer) const {
  const auto& progress = trainer.progress();
  if (!by_epoch_) {
    const auto steps = trainer.total_steps();
    return fmt::format("Iter(train) [{}/{}]  ", right_aligned(progress.step, steps), steps);
  }
  const auto batches = trainer.parts().train_loader->num_batches();
  const auto epochs = trainer.parts().loop.by_epoch ? trainer.parts().loop.length : 1;
  const auto epoch = fmt::format("[{}]", progress.epoch + 1);
  return fmt::format("Epoch(train){:>{}}[{}/{}]  ", epoch, std::to_string(epochs).size() + 3,
                     right_aligned(progress.batch, batches), batches);
}

std::string LogProcessor::val_header(const Trainer& trainer, int64_t done, bool align) const {
  const auto batches = trainer.parts().test_loader->num_batches();
  const auto count = fmt::format("[{}/{}]  ", right_aligned(done, batches), batches);
  if (!by_epoch_) return "Iter(val) " + count;
  const auto epoch = fmt::format("[{}]", trainer.progress().epoch);
  const auto epochs = trainer.parts().loop.by_epoch ? trainer.parts().loop.length : 1;
  const auto width = align ? std::to_string(epochs).size() + 3 : epoch.size() + 1;
  return fmt::format("Epoch(val){:>{}}{}", epoch, width, count);
}

LogProcessor::Line LogProcessor::after_train_iter(const Trainer& trainer) const {
  auto scalars = collect(trainer, "train/", window_size_);
  auto text = train_header(trainer);
  auto left = scalars;
  std::string rates;
  for (const auto& [name, value] : scalars.items()) {
    if (!name.ends_with("lr")) continue;
    rates += fmt::format("{}{}: {:.{}e}", rates.empty() ? "" : " ", name, value.get<double>(),
                         num_digits_);
    left.erase(name);
  }
  text += rates + "  " + times(trainer, left);
  if (!trainer.device().is_cpu()) {
    const auto memory = peak_mebibytes(trainer.device());
    scalars["memory"] = memory;
    text += fmt::format("memory: {}  ", memory);
  }
  for (const auto& [name, value] : left.items()) text += field(name, value.get<double>()) + "  ";
  const auto& progress = trainer.progress();
  const auto& wrappers = trainer.parts().wrappers;
  for (const auto& parts : wrappers) {
    if (!parts.scaler() || !parts.scaler()->is_enabled()) continue;
    const auto name = parts.named("loss_scale");
    scalars[name] = parts.scaler()->get_scale();
    text += fmt::format("{}: {:g}  ", name, parts.scaler()->get_scale());
  }
  for (size_t i = 0; i < wrappers.size() && wrappers.size() > 1; ++i) {
    const auto name = wrappers[i].named("skipped");
    scalars[name] = trainer.counts(i).skipped_steps;
    text += fmt::format("{}: {}  ", name, trainer.counts(i).skipped_steps);
  }
  scalars["skipped"] = progress.skipped_steps;
  text += fmt::format("skipped: {}", progress.skipped_steps);
  if (by_epoch_) scalars["epoch"] = progress.epoch + 1;
  scalars["iter"] = progress.step;
  scalars["step"] = progress.step;
  return {text, scalars};
}

LogProcessor::Line LogProcessor::after_val_iter(const Trainer& trainer, int64_t number) const {
  auto scalars = collect(trainer, "val/", window_size_);
  auto left = scalars;
  return {val_header(trainer, number + 1, true) + "  " + times(trainer, left), scalars};
}

LogProcessor::Line LogProcessor::after_val_epoch(const Trainer& trainer) const {
  const auto batches = trainer.parts().test_loader->num_batches();
  auto scalars = collect(trainer, "val/", batches);
  auto text = val_header(trainer, batches, false) + "  ";
  // The times last.
  for (const char* name : {"data_time", "time"}) {
    if (!scalars.contains(name)) continue;
    const double value = scalars[name].get<double>();
    scalars.erase(name);
    scalars[name] = value;
  }
  std::string fields;
  for (const auto& [name, value] : scalars.items())
    fields += (fields.empty() ? "" : "  ") + field(name, value.get<double>());
  scalars["step"] = by_epoch_ ? trainer.progress().epoch : trainer.progress().step;
  return {text + fields, scalars};
}

}  // namespace halfstep::train
