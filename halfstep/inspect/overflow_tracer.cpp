#include "halfstep/inspect/overflow_tracer.h"

#include "halfstep/inspect/call_modules.h"
#include "halfstep/inspect/call_values.h"
#include "halfstep/inspect/op_observer.h"
#include "halfstep/inspect/tensor_ranges.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/function.h>
#include <torch/nn/module.h>

namespace halfstep::inspect {

namespace detail {

namespace {

constexpr int32_t kNone = -1;

/// What a running call keeps for its end.
struct CallNote : OpNote {
  std::vector<int32_t> inputs;  // rows
  bool asks_for_inf = false;
  std::string of;  // backward
};

/// A tensor at one moment of the step: a result, or what came from outside.
struct Row {
  std::string op;  // empty: from outside
  std::string within;
  std::string of;
  std::string module;
  bool backward = false;
  bool may_be_inf = false;
  std::string name;
  c10::ScalarType dtype = c10::ScalarType::Undefined;
  std::vector<int64_t> sizes;
  std::vector<int32_t> inputs;
};

/// A number that is no number among the arguments: masked_fill(x, mask, -inf).
bool asks_for_inf(c10::ArrayRef<c10::IValue> values) {
  return std::any_of(values.begin(), values.end(), [](const c10::IValue& value) {
    return value.isDouble() && !std::isfinite(value.toDouble());
  });
}

bool is_readable(const at::Tensor& tensor) {
  return tensor.layout() == at::kStrided && tensor.is_floating_point() && tensor.numel() > 0 &&
         tensor.has_storage() && (tensor.is_cpu() || tensor.is_cuda());
}

bool has_kernel_of_ops(const c10::OperatorHandle& op) {
  return op.hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd);
}

bool makes_unwritten(std::string_view name) {
  return name.starts_with("empty") || name.starts_with("new_empty") || name.starts_with("_empty") ||
         name.starts_with("resize_");
}

/// Ops that write into their first argument and read nothing of it: it may be new memory.
bool overwrites(std::string_view name) {
  constexpr std::string_view names[] = {"aten::copy_",   "aten::fill_",      "aten::zero_",
                                        "aten::normal_", "aten::uniform_",   "aten::random_",
                                        "aten::set_",    "aten::bernoulli_", "aten::exponential_"};
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

}  // namespace

class OverflowTrace final : public OpRecording {
 public:
  explicit OverflowTrace(const torch::nn::Module* root) : modules_(root) {
    if (root == nullptr) return;
    for (const auto& parameter : root->named_parameters())
      name(parameter.value(), "weight " + parameter.key(), false);
    for (const auto& buffer : root->named_buffers())
      name(buffer.value(), "buffer " + buffer.key(), true);
  }

  void set_open(bool open) { open_ = open; }
  bool is_open() const override { return open_; }

  void begin(OpFrame& frame, const at::RecordFunction& call) override {
    const auto values = call.inputs();
    const std::lock_guard lock(mutex_);
    if (frame.backward)
      tell_backward(frame);
    else
      frame.module = modules_.module_of(frame, values);
    const auto& op = op_of(call);
    // A cast is told as one.
    const bool is_part_of_cast = frame.caller != nullptr && frame.caller->op == "_to_copy";
    if (op.is_left_out || is_part_of_cast) return;
    auto note = std::make_unique<CallNote>();
    note->asks_for_inf = asks_for_inf(values);
    if (frame.backward) note->of = of_;
    const auto end = std::min(op.inputs_end, values.size()), begin = std::min(op.inputs_begin, end);
    for_each_tensor(values.slice(begin, end - begin), [&](const at::Tensor& tensor) {
      if (is_readable(tensor)) note->inputs.push_back(row_of(tensor));
    });
    frame.note = std::move(note);
  }

  void end(const OpFrame& frame, c10::ScalarType /*dtype*/,
           const at::RecordFunction& call) override {
    const std::lock_guard lock(mutex_);
    if (frame.note == nullptr) {
      forget_unwritten(frame, call);
      return;
    }
    const auto& note = static_cast<const CallNote&>(*frame.note);
    for_each_tensor(call.outputs(), [&](const at::Tensor& tensor) {
      if (!is_readable(tensor)) return;
      Row row;
      row.op = frame.op;
      const auto* outermost = &frame;
      while (outermost->caller != nullptr && outermost->caller->recording != nullptr)
        outermost = outermost->caller;
      if (outermost->op != frame.op) row.within = outermost->op;
      row.of = note.of;
      row.module = frame.module;
      row.backward = frame.backward;
      row.may_be_inf = note.asks_for_inf;
      row.name = frame.op + (frame.backward ? " in backward" : "");
      if (!row.module.empty() && row.module != ".") row.name += " of " + row.module;
      row.inputs = note.inputs;
      const auto at = add(std::move(row), tensor);
      if (!frame.backward && call.seqNr() >= 0)
        forward_[{call.threadId(), static_cast<uint64_t>(call.seqNr())}] = at;
    });
  }

  std::optional<OverflowFinding> end_step() {
    const std::lock_guard lock(mutex_);
    const auto ranges = ranges_.take();
    auto rows = std::exchange(rows_, {});
    last_.clear();
    forward_.clear();
    for (size_t i = 0; i < rows.size(); ++i) {
      const auto& range = ranges[i];
      if (std::isfinite(range.min) && std::isfinite(range.max)) {
        rows[i].may_be_inf = false;
        continue;
      }
      if (std::isnan(range.min) || std::isnan(range.max) || !allows_inf(rows, i))
        return finding(rows, ranges, i);
      rows[i].may_be_inf = true;
    }
    return std::nullopt;
  }

 private:
  struct KnownOp {
    bool is_left_out = true;  // what is none of the dispatcher's, or only calls others
    size_t inputs_begin = 0;  // of the arguments those that it reads
    size_t inputs_end = 0;
  };
  struct Named {
    c10::weak_intrusive_ptr<c10::StorageImpl> alive;  // keeps the address from being used again
    std::string name;
    bool may_be_inf;
  };
  struct Last {
    c10::weak_intrusive_ptr<c10::StorageImpl> alive;
    int32_t row;
  };

  static c10::StorageImpl* storage_of(const at::Tensor& tensor) {
    return tensor.storage().unsafeGetStorageImpl();
  }
  static c10::weak_intrusive_ptr<c10::StorageImpl> weak(const at::Tensor& tensor) {
    return tensor.storage().getWeakStorageImpl();
  }

  void name(const at::Tensor& tensor, const std::string& name, bool may_be_inf) {
    if (tensor.defined() && tensor.has_storage())
      named_.insert({storage_of(tensor), {weak(tensor), name, may_be_inf}});
  }

  const KnownOp& op_of(const at::RecordFunction& call) {
    const auto [found, is_new] = ops_.try_emplace({call.name(), call.overload_name()});
    auto& [key, known] = *found;
    if (!is_new) return known;
    const auto op = c10::Dispatcher::singleton().findSchema(key);
    if (!op) return known;
    const std::string_view name(key.name);
    known.is_left_out = is_view(op->schema()) || has_kernel_of_ops(*op) ||
                        makes_unwritten(name.substr(name.rfind(':') + 1));
    known.inputs_begin = overwrites(name) ? 1 : 0;
    // `out` is no input.
    const auto& arguments = op->schema().arguments();
    known.inputs_end = static_cast<size_t>(std::find_if(arguments.begin(), arguments.end(),
                                                        [](const c10::Argument& argument) {
                                                          return argument.kwarg_only() &&
                                                                 argument.alias_info() != nullptr &&
                                                                 argument.alias_info()->isWrite();
                                                        }) -
                                           arguments.begin());
    return known;
  }

  /// Memory that was handed out again is nobody's result yet.
  void forget_unwritten(const OpFrame& frame, const at::RecordFunction& call) {
    if (!makes_unwritten(frame.op)) return;
    for_each_tensor(call.outputs(), [&](const at::Tensor& tensor) {
      if (is_readable(tensor))
        last_.insert_or_assign(storage_of(tensor), Last{weak(tensor), kNone});
    });
  }

  int32_t add(Row row, const at::Tensor& tensor) {
    row.dtype = tensor.scalar_type();
    row.sizes = tensor.sizes().vec();
    ranges_.add(tensor);
    rows_.push_back(std::move(row));
    const auto at = static_cast<int32_t>(rows_.size() - 1);
    last_.insert_or_assign(storage_of(tensor), Last{weak(tensor), at});
    return at;
  }

  /// The tensor's row, a new one where it comes from outside.
  int32_t row_of(const at::Tensor& tensor) {
    const auto found = last_.find(storage_of(tensor));
    if (found != last_.end()) return found->second.row;
    Row row;
    const auto named = named_.find(storage_of(tensor));
    const bool is_number = tensor.unsafeGetTensorImpl()->is_wrapped_number();
    row.name = named != named_.end() ? named->second.name : is_number ? "number" : "input";
    row.may_be_inf = named == named_.end() ? tensor.dim() == 0 : named->second.may_be_inf;
    return add(std::move(row), tensor);
  }

  void tell_backward(OpFrame& frame) {
    const auto node = torch::autograd::get_current_node();
    of_.clear();
    if (!node) return;
    const auto row = forward_.find({node->thread_id(), node->sequence_nr()});
    if (row == forward_.end()) {
      of_ = node->name();
      return;
    }
    const auto& forward = rows_[static_cast<size_t>(row->second)];
    frame.module = forward.module;
    of_ = forward.op;
  }

  static bool allows_inf(const std::vector<Row>& rows, size_t i) {
    return rows[i].may_be_inf ||
           std::any_of(rows[i].inputs.begin(), rows[i].inputs.end(), [&](int32_t input) {
             return input != kNone && rows[static_cast<size_t>(input)].may_be_inf;
           });
  }

  static TensorRange range_of(const Row& row, const TensorRanges::Range& range) {
    return {row.name, row.dtype, row.sizes, range.min, range.max};
  }

  static OverflowFinding finding(const std::vector<Row>& rows,
                                 const std::vector<TensorRanges::Range>& ranges, size_t i) {
    const auto& row = rows[i];
    OverflowFinding found{row.op.empty(),
                          row.backward,
                          row.op,
                          row.within,
                          row.of,
                          row.module,
                          range_of(row, ranges[i]),
                          {}};
    for (const auto input : row.inputs) {
      if (input == kNone) continue;
      const auto at = static_cast<size_t>(input);
      found.inputs.push_back(range_of(rows[at], ranges[at]));
    }
    return found;
  }

  std::atomic<bool> open_ = true;
  CallModules modules_;
  std::unordered_map<const c10::StorageImpl*, Named> named_;

  std::mutex mutex_;
  // Not by a view of the name: that of a call outside the dispatcher ends with the call.
  std::unordered_map<c10::OperatorName, KnownOp> ops_;
  std::vector<Row> rows_;
  TensorRanges ranges_;  // one for each row
  std::unordered_map<const c10::StorageImpl*, Last> last_;
  std::map<std::pair<uint64_t, uint64_t>, int32_t> forward_;  // by thread and autograd's number
  std::string of_;
};

}  // namespace detail

OverflowTracer::OverflowTracer() : OverflowTracer(nullptr) {}

OverflowTracer::OverflowTracer(const torch::nn::Module& root) : OverflowTracer(&root) {}

OverflowTracer::OverflowTracer(const torch::nn::Module* root)
    : trace_(std::make_shared<detail::OverflowTrace>(root)),
      guard_(std::make_unique<detail::OpRecordingGuard>(trace_)) {}

OverflowTracer::~OverflowTracer() {
  trace_->set_open(false);
}

void OverflowTracer::pause() {
  trace_->set_open(false);
}

void OverflowTracer::resume() {
  trace_->set_open(true);
}

std::optional<OverflowFinding> OverflowTracer::end_step() {
  return trace_->end_step();
}

}  // namespace halfstep::inspect
