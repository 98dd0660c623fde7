#include "halfstep/train/model_commands.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/train/predict/classify.h"
#include "halfstep/train/registry/registry.h"
#include "halfstep/train/weights/export_weights.h"
#include "halfstep/train/weights/load_weights.h"

#include <cstdio>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace halfstep::train {

namespace {

// The mapping of the data set whose examples the inputs are like.
Config read_dataset(Config& config) {
  for (const char* key : {"test_dataloader", "val_dataloader"})
    if (config.has(key)) return config.child(key).child("dataset");
  return config.child("train_dataloader").child("dataset");
}

// Names and texts need not be UTF-8.
void print_line(const nlohmann::json& line) {
  fmt::print("{}\n", line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

int continue_texts(BaseModel& model, const AmpSettings& amp, const std::vector<std::string>& inputs,
                   const PredictOptions& predict) {
  auto* gpt = dynamic_cast<Gpt*>(&model);
  HALFSTEP_CHECK_USAGE(gpt != nullptr, "predict",
                       "the model of a TextFile must be a Gpt to continue a text, but is another; "
                       "write a program around its forward (examples/inference.cpp)");
  for (const auto& input : inputs) {
    const auto text = generate(*gpt, input, predict.text, amp);
    if (predict.json)
      print_line({{"input", input}, {"continuation", text}});
    else
      fmt::print("{}{}\n", input, text);
  }
  return 0;
}

int classify_files(BaseModel& model, const InputReader& reader, const AmpSettings& amp,
                   const std::vector<std::string>& inputs, const PredictOptions& predict) {
  const auto print = [&](const Classification& result) {
    const auto input = result.input.string();
    if (!result.error.empty()) {
      std::fflush(stdout);
      fmt::print(stderr, "error: {}\n", result.error);
      if (predict.json) print_line({{"input", input}, {"error", result.error}});
    } else if (predict.json) {
      print_line({{"input", input},
                  {"class", result.name},
                  {"number", result.number},
                  {"probability", result.probability}});
    } else {
      fmt::print("{}: {} {:.4f}\n", input, result.name, result.probability);
    }
  };
  const std::vector<std::filesystem::path> files(inputs.begin(), inputs.end());
  return classify(model, reader, files, predict.batch_size, amp, print) == 0 ? 0 : 1;
}

}  // namespace

int export_command(Config config, const RunOptions& options,
                   const std::filesystem::path& checkpoint, const std::string& dtype,
                   const std::filesystem::path& file, bool allow_overflow) {
  const bool known = dtype == "float16" || dtype == "bfloat16" || dtype == "float32";
  HALFSTEP_CHECK_USAGE(known, "command line",
                       "--dtype must be float16, bfloat16 or float32, but got '", dtype,
                       "'; bfloat16 has float32's range, float16 more digits");
  const auto parts = build_inference(config, options);
  load_weights(*parts.model, checkpoint);
  const auto report = export_weights(
      *parts.model, file, {.dtype = parse_dtype(dtype), .allow_overflow = allow_overflow});
  fmt::print("{}: {} tensors, {:.1f} MiB in {}\n", file.string(), report.tensors,
             static_cast<double>(report.bytes) / (1 << 20), dtype);
  if (report.overflowed > 0)
    fmt::print("{} values became infinite: they are beyond the range of {}\n", report.overflowed,
               dtype);
  if (report.vanished > 0)
    fmt::print("{} values became 0: they are too small for {}\n", report.vanished, dtype);
  return 0;
}

int predict_command(Config config, const RunOptions& options,
                    const std::filesystem::path& checkpoint, const std::vector<std::string>& inputs,
                    const PredictOptions& predict) {
  HALFSTEP_CHECK_USAGE(predict.batch_size >= 1, "command line",
                       "--batch-size must be at least 1, but got ", predict.batch_size,
                       "; 32 is the default");
  auto dataset = read_dataset(config);
  const bool is_text = dataset.get<std::string>("type") == "TextFile";
  const auto reader = is_text ? nullptr : input_readers().build(dataset);
  const auto parts = build_inference(config, options);
  load_weights(*parts.model, checkpoint);
  return is_text ? continue_texts(*parts.model, parts.amp(), inputs, predict)
                 : classify_files(*parts.model, *reader, parts.amp(), inputs, predict);
}

}  // namespace halfstep::train
