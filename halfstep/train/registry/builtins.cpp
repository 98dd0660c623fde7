#include "halfstep/train/data/image_folder.h"
#include "halfstep/train/data/mnist.h"
#include "halfstep/train/data/text_file.h"
#include "halfstep/train/hooks/checkpoint_hook.h"
#include "halfstep/train/hooks/early_stopping_hook.h"
#include "halfstep/train/hooks/ema_hook.h"
#include "halfstep/train/hooks/gradient_statistics_hook.h"
#include "halfstep/train/hooks/iter_timer_hook.h"
#include "halfstep/train/hooks/logger_hook.h"
#include "halfstep/train/hooks/overflow_trace_hook.h"
#include "halfstep/train/hooks/param_scheduler_hook.h"
#include "halfstep/train/hooks/runtime_info_hook.h"
#include "halfstep/train/hooks/sample_grid_hook.h"
#include "halfstep/train/hooks/tensorboard_hook.h"
#include "halfstep/train/losses/losses.h"
#include "halfstep/train/metrics/accuracy.h"
#include "halfstep/train/metrics/language.h"
#include "halfstep/train/metrics/mean_error.h"
#include "halfstep/train/models/conv_net.h"
#include "halfstep/train/models/dcgan.h"
#include "halfstep/train/models/dcgan_networks.h"
#include "halfstep/train/models/gpt.h"
#include "halfstep/train/models/mlp.h"
#include "halfstep/train/models/resnet.h"
#include "halfstep/train/optim/optimizers.h"
#include "halfstep/train/optim/schedulers.h"
#include "halfstep/train/registry/registry.h"

#include <utility>

namespace halfstep::train {
namespace {

// Called by the accessors, not by static objects: a linker drops those of an archive.
template <class R>
R filled(std::string kind,
         std::initializer_list<std::pair<const char*, typename R::Factory>> builtins) {
  R registry(std::move(kind));
  for (const auto& [name, factory] : builtins) registry.add(name, factory);
  return registry;
}

template <class T>
std::unique_ptr<Hook> make_hook(Config& config) {
  return std::make_unique<T>(config);
}

std::unique_ptr<Metric> make_accuracy(Config& config) {
  return std::make_unique<Accuracy>(config);
}

template <MeanError::Kind kind>
std::unique_ptr<Metric> make_mean_error(Config& config) {
  return std::make_unique<MeanError>(config, kind);
}

template <LanguageMetric::Kind kind>
std::unique_ptr<Metric> make_language_metric(Config& config) {
  return std::make_unique<LanguageMetric>(config, kind);
}

}  // namespace

ModelRegistry& models() {
  static auto registry =
      filled<ModelRegistry>("model", {
                                         {"Mlp", make_mlp},
                                         {"ConvNet", make_conv_net},
                                         {"ResNet18", make_resnet18},
                                         {"Gpt", make_gpt},
                                         {"Dcgan", make_dcgan},
                                         {"DcganGenerator", make_dcgan_generator},
                                         {"DcganDiscriminator", make_dcgan_discriminator},
                                     });
  return registry;
}

DatasetRegistry& datasets() {
  static auto registry = filled<DatasetRegistry>(
      "data set",
      {{"ImageFolder", make_image_folder}, {"Mnist", make_mnist}, {"TextFile", make_text_file}});
  return registry;
}

LossRegistry& losses() {
  static auto registry = filled<LossRegistry>("loss", {
                                                          {"CrossEntropyLoss", make_cross_entropy},
                                                          {"NLLLoss", make_nll},
                                                          {"MSELoss", make_mse},
                                                      });
  return registry;
}

OptimizerRegistry& optimizers() {
  static auto registry = filled<OptimizerRegistry>("optimizer", {
                                                                    {"Adam", make_adam},
                                                                    {"AdamW", make_adamw},
                                                                    {"SGD", make_sgd},
                                                                    {"RMSprop", make_rmsprop},
                                                                    {"Adagrad", make_adagrad},
                                                                });
  return registry;
}

SchedulerRegistry& schedulers() {
  static auto registry = filled<SchedulerRegistry>(
      "scheduler", {{"StepLR", make_step_lr},
                    {"MultiStepLR", make_multi_step_lr},
                    {"ExponentialLR", make_exponential_lr},
                    {"ConstantLR", make_constant_lr},
                    {"LinearLR", make_linear_lr},
                    {"PolynomialLR", make_polynomial_lr},
                    {"CosineAnnealingLR", make_cosine_annealing_lr},
                    {"CosineAnnealingWarmRestarts", make_cosine_annealing_warm_restarts},
                    {"CosineRestartLR", make_cosine_restart_lr},
                    {"PolyLR", make_poly_lr},
                    {"ReduceOnPlateauLR", make_reduce_on_plateau_lr},
                    {"OneCycleLR", make_one_cycle_lr},
                    {"SequentialLR", make_sequential_lr},
                    {"ChainedScheduler", make_chained_scheduler}});
  return registry;
}

HookRegistry& hooks() {
  static auto registry =
      filled<HookRegistry>("hook", {{"CheckpointHook", make_hook<CheckpointHook>},
                                    {"EMAHook", make_hook<EMAHook>},
                                    {"EarlyStoppingHook", make_hook<EarlyStoppingHook>},
                                    {"GradientStatisticsHook", make_hook<GradientStatisticsHook>},
                                    {"IterTimerHook", make_hook<IterTimerHook>},
                                    {"LoggerHook", make_hook<LoggerHook>},
                                    {"OverflowTraceHook", make_hook<OverflowTraceHook>},
                                    {"ParamSchedulerHook", make_hook<ParamSchedulerHook>},
                                    {"RuntimeInfoHook", make_hook<RuntimeInfoHook>},
                                    {"SampleGridHook", make_hook<SampleGridHook>},
                                    {"TensorboardHook", make_hook<TensorboardHook>}});
  return registry;
}

MetricRegistry& metrics() {
  static auto registry = filled<MetricRegistry>(
      "metric",
      {{"Accuracy", make_accuracy},
       {"MAE", make_mean_error<MeanError::Kind::absolute>},
       {"MSE", make_mean_error<MeanError::Kind::squared>},
       {"Perplexity", make_language_metric<LanguageMetric::Kind::perplexity>},
       {"BitsPerCharacter", make_language_metric<LanguageMetric::Kind::bits_per_character>}});
  return registry;
}

InputReaderRegistry& input_readers() {
  static auto registry = filled<InputReaderRegistry>(
      "data set with an input reader",
      {{"ImageFolder", make_image_folder_reader}, {"Mnist", make_mnist_reader}});
  return registry;
}

}  // namespace halfstep::train
