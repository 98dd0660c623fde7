#include "halfstep/train/weights/pth_index.h"

#include "halfstep/core/error.h"

#include <algorithm>
#include <array>
#include <limits>
#include <set>
#include <utility>

namespace halfstep::train {
namespace {

using Kind = PickleValue::Kind;
using Dtype = SafetensorsDtype;

constexpr std::string_view kRebuildTensor = "torch._utils._rebuild_tensor_v2";
constexpr std::string_view kRebuildParameter = "torch._utils._rebuild_parameter";
constexpr std::string_view kSize = "torch.Size";

constexpr std::array<std::pair<std::string_view, Dtype>, 10> kStorages{
    {{"torch.DoubleStorage", Dtype::F64},
     {"torch.FloatStorage", Dtype::F32},
     {"torch.HalfStorage", Dtype::F16},
     {"torch.BFloat16Storage", Dtype::BF16},
     {"torch.LongStorage", Dtype::I64},
     {"torch.IntStorage", Dtype::I32},
     {"torch.ShortStorage", Dtype::I16},
     {"torch.CharStorage", Dtype::I8},
     {"torch.ByteStorage", Dtype::U8},
     {"torch.BoolStorage", Dtype::BOOL}}};

constexpr std::array<std::string_view, 8> kUsualKeys{
    "state_dict", "model_state_dict", "model", "module", "params", "weights", "net", "network"};

std::vector<std::string_view> allowed_globals() {
  std::vector<std::string_view> names{"collections.OrderedDict", kRebuildTensor, kRebuildParameter,
                                      kSize};
  for (const auto& [name, dtype] : kStorages) names.push_back(name);
  return names;
}

std::string shorten(const std::string& text) {
  return text.size() <= 80 ? text : c10::str(std::string_view(text).substr(0, 77), "...");
}

class Reader {
 public:
  Reader(const Pickle& pickle, const StorageSize& storage_size, const std::string& file)
      : pickle_(pickle), storage_size_(storage_size), file_(file) {}

  PthIndex read(const std::string& key) const {
    const auto& dict = choose(pickle_.at(pickle_.root), key);
    PthIndex index;
    std::set<std::string_view> names;
    for (size_t i = 0; i + 1 < dict.items.size(); i += 2) {
      const auto& name = pickle_.at(dict.items[i]);
      // What a later entry of the same name would replace in Python.
      if (name.kind == Kind::text)
        check(names.insert(name.text).second, "a name must be given once, but '",
              shorten(name.text), "' is given twice");
      const auto* call = as_tensor(pickle_.at(dict.items[i + 1]));
      if (call == nullptr)
        index.others.push_back(name.kind == Kind::text ? name.text : "an entry without a name");
      else
        index.tensors.push_back(tensor(name, *call));
    }
    return index;
  }

 private:
  template <class... Parts>
  void check(bool condition, const Parts&... parts) const {
    HALFSTEP_CHECK_ENVIRONMENT(condition, "pth", file_, ": ", parts...,
                               "; the file is damaged or not one that torch.save wrote: get it "
                               "again");
  }

  const PickleValue& item(const PickleValue& of, size_t number) const {
    return pickle_.at(of.items.at(number));
  }
  bool calls(const PickleValue& value, std::string_view function) const {
    return value.kind == Kind::call && item(value, 0).text == function;
  }
  // The call that makes a tensor, a Parameter's own too; null for another value.
  const PickleValue* as_tensor(const PickleValue& value) const {
    if (calls(value, kRebuildTensor)) return &value;
    if (!calls(value, kRebuildParameter)) return nullptr;
    const auto& arguments = item(value, 1);
    check(!arguments.items.empty() && calls(item(arguments, 0), kRebuildTensor),
          "a parameter must be a tensor, but is none");
    return &item(arguments, 0);
  }
  bool has_tensors(const PickleValue& dict) const {
    for (size_t i = 1; i < dict.items.size(); i += 2)
      if (as_tensor(pickle_.at(dict.items[i])) != nullptr) return dict.kind == Kind::dict;
    return false;
  }
  // The dict under a key, or, where that holds no tensors, under a usual key of it; else null.
  const PickleValue* under(const PickleValue& dict, std::string_view key, int depth) const {
    for (size_t i = 0; i + 1 < dict.items.size(); i += 2) {
      if (item(dict, i).kind != Kind::text || item(dict, i).text != key) continue;
      const auto& value = item(dict, i + 1);
      if (value.kind != Kind::dict) continue;
      if (has_tensors(value)) return &value;
      for (const auto usual : kUsualKeys)
        if (const auto* found = depth > 0 ? under(value, usual, depth - 1) : nullptr) return found;
    }
    return nullptr;
  }

  std::string keys_of(const PickleValue& dict) const {
    std::string list;
    for (size_t i = 0; i + 1 < dict.items.size(); i += 2)
      if (item(dict, i).kind == Kind::text && list.size() < 300)
        list += (list.empty() ? "" : ", ") + shorten(item(dict, i).text);
    return list.empty() ? "none" : list;
  }

  const PickleValue& choose(const PickleValue& root, const std::string& key) const {
    HALFSTEP_CHECK_ENVIRONMENT(root.kind == Kind::dict, "pth", file_,
                               " must hold a dict of tensors, but holds no dict; in Python save "
                               "the state dict: torch.save(model.state_dict(), FILE)");
    if (!key.empty()) {
      const auto* found = under(root, key, 1);
      HALFSTEP_CHECK_USAGE(found != nullptr, "pth", file_,
                           " must hold a dict of tensors under the key '", key,
                           "', but its keys are ", keys_of(root), "; choose one of them");
      return *found;
    }
    for (const auto usual : kUsualKeys)
      if (const auto* found = under(root, usual, 1)) return *found;
    if (has_tensors(root)) return root;
    std::vector<const PickleValue*> dicts;
    for (size_t i = 1; i < root.items.size(); i += 2)
      if (const auto& value = pickle_.at(root.items[i]); has_tensors(value))
        dicts.push_back(&value);
    HALFSTEP_CHECK_USAGE(dicts.size() == 1, "pth", file_, " must hold ",
                         dicts.empty() ? "tensors" : "one dict of tensors, or its key must be said",
                         ", but its keys are ", keys_of(root), "; ",
                         dicts.empty() ? "save the state dict: torch.save(model.state_dict(), FILE)"
                                       : "choose one by LoadWeightsOptions::key");
    return *dicts.front();
  }

  uint64_t size(const PickleValue& value, const std::string& name) const {
    check(value.kind == Kind::integer && value.integer >= 0, "sizes of '", shorten(name),
          "' must be whole numbers from 0 on, but one is not");
    return static_cast<uint64_t>(value.integer);
  }
  std::vector<int64_t> sizes(const PickleValue& value, const std::string& name) const {
    // A torch.Size is a call with the tuple in a tuple.
    const auto* tuple = &value;
    if (calls(value, kSize) && item(value, 1).items.size() == 1) tuple = &item(item(value, 1), 0);
    check(tuple->kind == Kind::tuple && tuple->items.size() <= 64, "shape and strides of '",
          shorten(name), "' must be tuples of at most 64 numbers, but are not");
    std::vector<int64_t> result;
    for (const auto number : tuple->items)
      result.push_back(static_cast<int64_t>(size(pickle_.at(number), name)));
    return result;
  }

  // Fills in dtype and storage from a persistent id; gives the storage's number of elements.
  uint64_t storage(const PickleValue& value, PthTensor& into) const {
    check(value.kind == Kind::persistent, "'", shorten(into.name),
          "' must have a storage, but has none");
    const auto& id = item(value, 0);
    const bool is_storage = id.kind == Kind::tuple && id.items.size() == 5 &&
                            item(id, 0).kind == Kind::text && item(id, 0).text == "storage" &&
                            item(id, 1).kind == Kind::global && item(id, 2).kind == Kind::text;
    check(is_storage, "the storage of '", shorten(into.name), "' can't be read");
    const auto& type = item(id, 1).text;
    const auto* known = std::find_if(kStorages.begin(), kStorages.end(),
                                     [&](const auto& pair) { return pair.first == type; });
    check(known != kStorages.end(), "the storage of '", shorten(into.name), "' is a ", type);
    into.dtype = known->second;
    into.storage = item(id, 2).text;
    const auto elements = size(item(id, 4), into.name);
    const auto bytes = storage_size_(into.storage);
    check(bytes.has_value(), "the storage of '", shorten(into.name),
          "' must be in the file, but there is no data/", shorten(into.storage));
    check(elements <= *bytes / size_of(into.dtype), "the storage of '", shorten(into.name),
          "' must have ", elements, " elements, but has only ", *bytes, " bytes");
    return elements;
  }

  PthTensor tensor(const PickleValue& name, const PickleValue& call) const {
    check(name.kind == Kind::text, "a tensor's name must be a text, but is none");
    PthTensor result;
    result.name = name.text;
    const auto& arguments = item(call, 1);
    // storage, offset, shape, strides, requires_grad, hooks, and later ones' flags (neg, conj).
    check(arguments.items.size() >= 4, "'", shorten(result.name),
          "' must have storage, offset, shape and strides, but has not");
    HALFSTEP_CHECK_ENVIRONMENT(arguments.items.size() < 7 || item(arguments, 6).items.empty(),
                               "pth", file_, ": '", shorten(result.name),
                               "' must be a plain tensor, but is a negated or conjugated view; in "
                               "Python save its clone()");
    const auto elements = storage(item(arguments, 0), result);
    result.offset = size(item(arguments, 1), result.name);
    result.shape = sizes(item(arguments, 2), result.name);
    result.strides = sizes(item(arguments, 3), result.name);
    check(fits(result, elements), "'", shorten(result.name), "' must lie in its storage of ",
          elements, " elements, but does not");
    return result;
  }

  static bool fits(const PthTensor& tensor, uint64_t elements) {
    if (tensor.shape.size() != tensor.strides.size() || tensor.offset > elements) return false;
    uint64_t last = tensor.offset;
    int64_t count = 1;
    bool overflow = false;
    bool empty = false;
    for (size_t i = 0; i < tensor.shape.size(); ++i) {
      // LibTorch multiplies the other sizes of an empty tensor too.
      overflow =
          overflow || __builtin_mul_overflow(count, std::max<int64_t>(tensor.shape[i], 1), &count);
      empty = empty || tensor.shape[i] == 0;
      if (tensor.shape[i] < 2) continue;
      uint64_t reach = 0;
      overflow = overflow ||
                 __builtin_mul_overflow(static_cast<uint64_t>(tensor.shape[i] - 1),
                                        static_cast<uint64_t>(tensor.strides[i]), &reach) ||
                 __builtin_add_overflow(last, reach, &last);
    }
    // Bytes are counted in int64, too.
    overflow = overflow || count > std::numeric_limits<int64_t>::max() / 8;
    return !overflow && (empty || last < elements);
  }

  const Pickle& pickle_;
  const StorageSize& storage_size_;
  const std::string& file_;
};

}  // namespace

PthIndex read_state_dict(std::string_view pickle, const std::string& key,
                         const StorageSize& storage_size, const std::string& file) {
  const auto parsed = parse_pickle(pickle, allowed_globals(), file);
  return Reader(parsed, storage_size, file).read(key);
}

std::string pth_root(const std::map<std::string, ZipEntry>& entries, const std::string& file) {
  constexpr std::string_view pickle = "/data.pkl";
  for (const auto& [name, entry] : entries)
    if (name.ends_with(pickle) && name.find('/') == name.size() - pickle.size()) {
      auto root = name.substr(0, name.size() - pickle.size());
      HALFSTEP_CHECK_ENVIRONMENT(
          !entries.contains(root + "/constants.pkl"), "pth", file,
          " must hold tensors, but is a TorchScript program; in Python save "
          "its state dict: torch.save(torch.jit.load(FILE).state_dict(), …)");
      return root;
    }
  halfstep::detail::raise<EnvironmentError>(
      "pth", file,
      " must hold a data.pkl, as torch.save writes it, but has none; it is another "
      "kind of zip archive: give the .pth file");
}

PthIndex read_pth_index(const std::string& file, const std::map<std::string, ZipEntry>& entries,
                        const std::string& key,
                        const std::function<std::string(const std::string&)>& read) {
  const auto root = pth_root(entries, file);
  HALFSTEP_CHECK_ENVIRONMENT(entries.at(root + "/data.pkl").size <= kMaxPickle, "pth", file,
                             ": data.pkl must have at most ", kMaxPickle, " bytes, but has ",
                             entries.at(root + "/data.pkl").size,
                             "; in Python save the state dict alone");
  if (const auto order = entries.find(root + "/byteorder"); order != entries.end())
    HALFSTEP_CHECK_ENVIRONMENT(order->second.size == 6 && read(order->first) == "little", "pth",
                               file,
                               " must hold little-endian data, but does not; save it again "
                               "on a machine like this one");
  const auto storage_size = [&](const std::string& storage) -> std::optional<uint64_t> {
    const auto found = entries.find(root + "/data/" + storage);
    return found == entries.end() ? std::nullopt : std::optional(found->second.size);
  };
  return read_state_dict(read(root + "/data.pkl"), key, storage_size, file);
}

}  // namespace halfstep::train
