#include "tests/scaling/dialect_models.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

namespace halfstep::testing {

namespace {

class Torch : public ScalerModel {
 public:
  Torch(double init, double growth, double backoff, int interval)
      : scale_(static_cast<float>(init)), growth_(growth), backoff_(backoff), interval_(interval) {}

  bool iterate(bool found_inf) override {
    if (found_inf) {
      scale_ = static_cast<float>(scale_ * backoff_);
      growth_tracker_ = 0;
      return false;
    }
    const int successful = growth_tracker_ + 1;
    if (successful == interval_) {
      const auto new_scale = static_cast<float>(scale_ * growth_);
      if (std::isfinite(new_scale)) scale_ = new_scale;
      growth_tracker_ = 0;
    } else {
      growth_tracker_ = successful;
    }
    return true;
  }
  double scale() const override { return scale_; }

 private:
  float scale_;
  double growth_, backoff_;
  int interval_;
  int growth_tracker_ = 0;
};

class Mmcv : public ScalerModel {
 public:
  Mmcv(double init, double factor, int window)
      : cur_scale_(init), scale_factor_(factor), scale_window_(window) {}

  bool iterate(bool overflow) override {
    if (overflow) {
      cur_scale_ = std::max(cur_scale_ / scale_factor_, 1.0);
      last_overflow_iter_ = cur_iter_;
    } else if ((cur_iter_ - last_overflow_iter_) % scale_window_ == 0) {
      cur_scale_ *= scale_factor_;
    }
    ++cur_iter_;
    return !overflow;
  }
  double scale() const override { return cur_scale_; }

 private:
  double cur_scale_, scale_factor_;
  int scale_window_;
  int cur_iter_ = 0, last_overflow_iter_ = -1;
};

class Apex : public ScalerModel {
 public:
  Apex(double init, int window, std::optional<double> min, double max)
      : loss_scale_(std::min(max, init)), min_(min), max_(max), scale_seq_len_(window) {}

  bool iterate(bool has_overflow) override {
    if (has_overflow) {
      loss_scale_ = min_ ? std::max(*min_, loss_scale_ / 2.0) : loss_scale_ / 2.0;
      unskipped_ = 0;
    } else {
      unskipped_ += 1;
    }
    if (unskipped_ == scale_seq_len_) {
      loss_scale_ = std::min(max_, loss_scale_ * 2.0);
      unskipped_ = 0;
    }
    return !has_overflow;
  }
  double scale() const override { return loss_scale_; }

 private:
  double loss_scale_;
  std::optional<double> min_;
  double max_;
  int scale_seq_len_;
  int unskipped_ = 0;
};

class ApexHysteresis : public ScalerModel {
 public:
  ApexHysteresis(double init, double growth, double backoff, int interval, int hysteresis)
      : current_scale_(static_cast<float>(init)),
        growth_factor_(growth),
        backoff_factor_(backoff),
        growth_interval_(interval),
        hysteresis_(hysteresis),
        hysteresis_tracker_(hysteresis) {}

  bool iterate(bool found_inf) override {
    if (found_inf) {
      hysteresis_tracker_ -= 1;
      growth_tracker_ = 0;
      if (hysteresis_tracker_ > 0) return false;
      current_scale_ = static_cast<float>(current_scale_ * backoff_factor_);
      return false;
    }
    growth_tracker_ += 1;
    if (growth_tracker_ == growth_interval_) {
      const auto new_scale = static_cast<float>(current_scale_ * growth_factor_);
      if (std::isfinite(new_scale)) current_scale_ = new_scale;
      growth_tracker_ = 0;
    }
    hysteresis_tracker_ = hysteresis_;
    return true;
  }
  double scale() const override { return current_scale_; }

 private:
  float current_scale_;
  double growth_factor_, backoff_factor_;
  int growth_interval_, hysteresis_, hysteresis_tracker_;
  int growth_tracker_ = 0;
};

class Oneflow : public ScalerModel {
 public:
  Oneflow(double init, double growth, int64_t period)
      : loss_scale_(static_cast<float>(init)),
        multiplier_(static_cast<float>(growth)),
        increment_period_(period) {}

  bool iterate(bool not_finite) override {
    const double old_loss_scale = loss_scale_;
    if (not_finite) {
      good_step_counter_ = 0;
      loss_scale_ = static_cast<float>(std::max(old_loss_scale / multiplier_, 1.0));
      return false;
    }
    good_step_counter_ += 1;
    if (good_step_counter_ >= increment_period_) {
      loss_scale_ =
          static_cast<float>(std::min(old_loss_scale * multiplier_, static_cast<double>(FLT_MAX)));
      good_step_counter_ = 0;
    }
    return true;
  }
  double scale() const override { return loss_scale_; }

 private:
  float loss_scale_, multiplier_;
  int64_t increment_period_, good_step_counter_ = 0;
};

class Keras : public ScalerModel {
 public:
  Keras(double init, int steps)
      : dynamic_scale_(static_cast<float>(init)), dynamic_growth_steps_(steps) {}

  bool iterate(bool infinite) override {
    if (infinite) {
      step_counter_ = 0;
      dynamic_scale_ *= 0.5f;
    } else if (step_counter_ == dynamic_growth_steps_ - 1) {
      step_counter_ = 0;
      dynamic_scale_ *= 2.0f;
    } else {
      step_counter_ += 1;
    }
    return !infinite;
  }
  double scale() const override { return dynamic_scale_; }

 private:
  float dynamic_scale_;
  int dynamic_growth_steps_, step_counter_ = 0;
};

class TfKeras : public ScalerModel {
 public:
  TfKeras(double init, int steps)
      : current_loss_scale_(static_cast<float>(init)), growth_steps_(steps) {}

  bool iterate(bool infinite) override {
    constexpr float multiplier = 2.0f;
    if (infinite) {
      current_loss_scale_ = std::max(current_loss_scale_ / multiplier, 1.0f);
      good_steps_ = 0;
    } else if (good_steps_ + 1 >= growth_steps_) {
      if (std::isfinite(current_loss_scale_ * multiplier)) current_loss_scale_ *= multiplier;
      good_steps_ = 0;
    } else {
      good_steps_ += 1;
    }
    return !infinite;
  }
  double scale() const override { return current_loss_scale_; }

 private:
  float current_loss_scale_;
  int64_t growth_steps_, good_steps_ = 0;
};

class Jmp : public ScalerModel {
 public:
  Jmp(double init, int period, int factor, double min)
      : loss_scale_(static_cast<float>(init)),
        factor_(static_cast<float>(factor)),
        min_loss_scale_(static_cast<float>(min)),
        period_(period) {}

  bool iterate(bool overflow) override {
    const bool grads_finite = !overflow;
    const float larger = loss_scale_ * factor_;
    const float grown =
        counter_ == period_ - 1 ? (std::isfinite(larger) ? larger : loss_scale_) : loss_scale_;
    loss_scale_ = grads_finite ? grown : std::max(min_loss_scale_, loss_scale_ / factor_);
    counter_ = ((counter_ + 1) % period_) * (grads_finite ? 1 : 0);
    return grads_finite;
  }
  double scale() const override { return loss_scale_; }

 private:
  float loss_scale_, factor_, min_loss_scale_;
  int period_, counter_ = 0;
};

class Deepspeed : public ScalerModel {
 public:
  explicit Deepspeed(const DeepspeedSettings& settings)
      : is_(settings), cur_scale_(settings.init_scale), cur_hysteresis_(settings.delayed_shift) {}

  bool iterate(bool overflow) override {
    if (overflow) {
      if (is_.delayed_shift == 1 || cur_hysteresis_ == 1) {
        if (cur_scale_ == is_.min_scale && is_.raise_error_at_min_scale) throw AtMinimum();
        cur_scale_ = std::max(cur_scale_ / 2.0, is_.min_scale);
      } else {
        cur_hysteresis_ -= 1;
      }
      last_overflow_iter_ = cur_iter_;
    } else {
      if (is_.consecutive_hysteresis) cur_hysteresis_ = is_.delayed_shift;
      const int stable_interval = (cur_iter_ - last_overflow_iter_) - 1;
      if (stable_interval > 0 && stable_interval % is_.scale_window == 0) {
        if (!is_.consecutive_hysteresis) cur_hysteresis_ = is_.delayed_shift;
        cur_scale_ *= 2.0;
      }
    }
    cur_iter_ += 1;
    return !overflow;
  }
  double scale() const override { return cur_scale_; }

 private:
  DeepspeedSettings is_;
  double cur_scale_;
  int cur_hysteresis_;
  int cur_iter_ = 0, last_overflow_iter_ = -1;
};

class DeepspeedOptimizer : public ScalerModel {
 public:
  DeepspeedOptimizer(double init, int window, double min)
      : cur_scale_(init), min_loss_scale_(min), scale_window_(window) {}

  bool iterate(bool skip) override {
    if (skip) {
      cur_scale_ = std::max(cur_scale_ / 2.0, min_loss_scale_);
      last_overflow_iter_ = cur_iter_;
    } else {
      const int stable_interval = (cur_iter_ - last_overflow_iter_) - 1;
      if (stable_interval > 0 && stable_interval % scale_window_ == 0) cur_scale_ *= 2.0;
    }
    cur_iter_ += 1;
    return !skip;
  }
  double scale() const override { return cur_scale_; }

 private:
  double cur_scale_, min_loss_scale_;
  int scale_window_;
  int cur_iter_ = 0, last_overflow_iter_ = -1;
};

class Megatron : public ScalerModel {
 public:
  Megatron(double init, double min, double growth, double backoff, int interval, int hysteresis)
      : scale_(static_cast<float>(init)),
        min_scale_(static_cast<float>(min)),
        growth_factor_(static_cast<float>(growth)),
        backoff_factor_(static_cast<float>(backoff)),
        growth_interval_(interval),
        hysteresis_(hysteresis),
        hysteresis_tracker_(hysteresis) {}

  bool iterate(bool found_inf) override {
    if (found_inf) {
      growth_tracker_ = 0;
      hysteresis_tracker_ -= 1;
      if (hysteresis_tracker_ <= 0) scale_ = std::max(scale_ * backoff_factor_, min_scale_);
    } else {
      growth_tracker_ += 1;
      if (growth_tracker_ == growth_interval_) {
        growth_tracker_ = 0;
        hysteresis_tracker_ = hysteresis_;
        scale_ = scale_ * growth_factor_;
      }
    }
    return !found_inf;
  }
  double scale() const override { return scale_; }

 private:
  float scale_, min_scale_, growth_factor_, backoff_factor_;
  int growth_interval_, hysteresis_, hysteresis_tracker_;
  int growth_tracker_ = 0;
};

class Static : public ScalerModel {
 public:
  Static(double scale, bool skips) : scale_(scale), skips_(skips) {}
  bool iterate(bool overflow) override { return !(overflow && skips_); }
  double scale() const override { return scale_; }

 private:
  double scale_;
  bool skips_;
};

}  // namespace

ModelPointer torch_model(double init, double growth, double backoff, int interval) {
  return std::make_unique<Torch>(init, growth, backoff, interval);
}
ModelPointer mmcv_model(double init, double scale_factor, int scale_window) {
  return std::make_unique<Mmcv>(init, scale_factor, scale_window);
}
ModelPointer apex_model(double init, int scale_window, std::optional<double> min, double max) {
  return std::make_unique<Apex>(init, scale_window, min, max);
}
ModelPointer apex_hysteresis_model(double init, double growth, double backoff, int interval,
                                   int hysteresis) {
  return std::make_unique<ApexHysteresis>(init, growth, backoff, interval, hysteresis);
}
ModelPointer oneflow_model(double init, double growth, int64_t period) {
  return std::make_unique<Oneflow>(init, growth, period);
}
ModelPointer keras_model(double init, int growth_steps) {
  return std::make_unique<Keras>(init, growth_steps);
}
ModelPointer tf_keras_model(double init, int growth_steps) {
  return std::make_unique<TfKeras>(init, growth_steps);
}
ModelPointer jmp_model(double init, int period, int factor, double min) {
  return std::make_unique<Jmp>(init, period, factor, min);
}
ModelPointer deepspeed_model(const DeepspeedSettings& settings) {
  return std::make_unique<Deepspeed>(settings);
}
ModelPointer deepspeed_optimizer_model(double init, int window, double min) {
  return std::make_unique<DeepspeedOptimizer>(init, window, min);
}
ModelPointer megatron_model(double init, double min, double growth, double backoff, int interval,
                            int hysteresis) {
  return std::make_unique<Megatron>(init, min, growth, backoff, interval, hysteresis);
}
ModelPointer static_model(double scale, bool skips) {
  return std::make_unique<Static>(scale, skips);
}

}  // namespace halfstep::testing
