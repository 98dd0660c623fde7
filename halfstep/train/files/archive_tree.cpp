#include "halfstep/train/files/archive_tree.h"

#include "halfstep/core/error.h"

#include <cmath>
#include <limits>

#include <torch/csrc/jit/api/module.h>

namespace halfstep::train {
namespace {

using nlohmann::json;
using torch::serialize::InputArchive;
using torch::serialize::OutputArchive;

// An archive is a tree of jit modules that it only gives away as a zip file, which costs several
// copies and checksums of all state (some 0.3 s for 60 MB). So we take the private member, by the
// one place where C++ allows to name it: the arguments of an explicit instantiation.
template <class Tag, typename Tag::Member member>
struct Expose {
  friend typename Tag::Member member_of(Tag) { return member; }
};
struct OutputModule {
  using Member = torch::jit::Module OutputArchive::*;
  friend Member member_of(OutputModule);
};
struct InputModule {
  using Member = torch::jit::Module InputArchive::*;
  friend Member member_of(InputModule);
};
template struct Expose<OutputModule, &OutputArchive::module_>;
template struct Expose<InputModule, &InputArchive::module_>;

ArchiveTree read_node(const torch::jit::Module& module) {
  ArchiveTree tree;
  for (const auto& attribute : module.named_attributes(/*recurse=*/false)) {
    if (attribute.value.isModule())
      tree.children[attribute.name] = read_node(attribute.value.toModule());
    else
      tree.values[attribute.name] = attribute.value;
  }
  return tree;
}

void write_node(const ArchiveTree& tree, OutputArchive& archive) {
  for (const auto& [key, value] : tree.values) archive.write(key, value);
  for (const auto& [key, child] : tree.children) {
    OutputArchive nested(archive.compilation_unit());
    write_node(child, nested);
    archive.write(key, nested);
  }
}

// JSON has no number for these.
json encode_double(double value) {
  if (std::isfinite(value)) return value;
  return {{"float", std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf"}};
}

double decode_double(const json& value) {
  if (value.is_number()) return value.get<double>();
  const auto& word = value.at("float").get_ref<const std::string&>();
  const double infinity = std::numeric_limits<double>::infinity();
  return word == "nan" ? std::nan("") : word == "inf" ? infinity : -infinity;
}

struct Encoder {
  c10::Device device;
  NamedTensors& tensors;

  json tensor(const at::Tensor& value, const std::string& name) const {
    HALFSTEP_CHECK_USAGE(tensors.emplace(name, value.detach()).second, "checkpoint",
                         "each tensor must have its own name, but '", name, "' is taken twice");
    return value.is_cpu() && !device.is_cpu() ? "cpu" : "device";
  }

  json value(const c10::IValue& value, const std::string& name) const {
    if (value.isNone()) return nullptr;
    if (value.isBool()) return value.toBool();
    if (value.isInt()) return value.toInt();
    if (value.isDouble()) return encode_double(value.toDouble());
    if (value.isString()) return value.toStringRef();
    if (value.isTensor() && value.toTensor().defined())
      return {{"tensor", tensor(value.toTensor(), name)}};
    if (value.isTensorList()) {
      json list = json::array();
      for (const at::Tensor& item : value.toTensorVector())
        list.push_back(tensor(item, c10::str(name, ".", list.size())));
      return {{"tensors", list}};
    }
    if (value.isIntList()) return {{"ints", value.toIntVector()}};
    if (value.isBoolList()) {
      json list = json::array();
      for (const bool item : value.toBoolList()) list.push_back(item);
      return {{"bools", list}};
    }
    if (value.isDoubleList()) {
      json list = json::array();
      for (const double item : value.toDoubleVector()) list.push_back(encode_double(item));
      return {{"floats", list}};
    }
    if (value.isTuple()) {
      json list = json::array();
      for (const auto& item : value.toTupleRef().elements())
        list.push_back(this->value(item, c10::str(name, ".", list.size())));
      return {{"tuple", list}};
    }
    halfstep::detail::raise<UsageError>(
        "checkpoint", "'", name,
        "' must be a tensor, a number, a text or a list of tensors or numbers to be kept in a "
        "checkpoint, but is a ",
        value.tagKind(), "; write it as one of these in serialize()");
  }
};

struct Decoder {
  c10::Device device;
  const NamedTensors& tensors;

  at::Tensor tensor(const json& place, const std::string& name) const {
    const auto found = tensors.find(name);
    HALFSTEP_CHECK_ENVIRONMENT(found != tensors.end(), "checkpoint",
                               "a checkpoint must hold every tensor its state names, but lacks '",
                               name, "'; it is damaged: use another one");
    // A copy: the checkpoint must not change with the optimizer's steps.
    const at::Tensor& saved = found->second;
    return place == "cpu" ? saved.clone() : saved.to(device, saved.scalar_type(), false, true);
  }

  c10::IValue value(const json& value, const std::string& name) const {
    if (value.is_null()) return {};
    if (value.is_boolean()) return value.get<bool>();
    if (value.is_number_integer()) return value.get<int64_t>();
    if (value.is_string()) return value.get<std::string>();
    if (value.is_number() || value.contains("float")) return decode_double(value);
    if (value.contains("tensor")) return tensor(value["tensor"], name);
    if (value.contains("ints")) return value["ints"].get<std::vector<int64_t>>();
    if (value.contains("tensors")) {
      std::vector<at::Tensor> list;
      for (const json& place : value["tensors"])
        list.push_back(tensor(place, c10::str(name, ".", list.size())));
      return list;
    }
    if (value.contains("bools")) {
      c10::List<bool> list;
      for (const json& item : value["bools"]) list.push_back(item.get<bool>());
      return list;
    }
    if (value.contains("floats")) {
      std::vector<double> list;
      for (const json& item : value["floats"]) list.push_back(decode_double(item));
      return list;
    }
    std::vector<c10::IValue> items;
    for (const json& item : value.at("tuple"))
      items.push_back(this->value(item, c10::str(name, ".", items.size())));
    return c10::ivalue::Tuple::create(std::move(items));
  }
};

}  // namespace

ArchiveTree read_archive(OutputArchive& archive) {
  return read_node(archive.*member_of(OutputModule()));
}

InputArchive make_archive(const ArchiveTree& tree) {
  OutputArchive archive;
  write_node(tree, archive);
  InputArchive readable;
  readable.*member_of(InputModule()) = archive.*member_of(OutputModule());
  return readable;
}

json encode_tree(const ArchiveTree& tree, const std::string& prefix, c10::Device device,
                 NamedTensors& tensors) {
  const Encoder encoder{device, tensors};
  json result = json::object();
  for (const auto& [key, value] : tree.values)
    result[key] = encoder.value(value, c10::str(prefix, ".", key));
  for (const auto& [key, child] : tree.children)
    result[key] = {{"archive", encode_tree(child, c10::str(prefix, ".", key), device, tensors)}};
  return result;
}

ArchiveTree decode_tree(const json& values, const std::string& prefix, c10::Device device,
                        const NamedTensors& tensors) {
  const Decoder decoder{device, tensors};
  ArchiveTree tree;
  for (const auto& [key, value] : values.items()) {
    const std::string name = c10::str(prefix, ".", key);
    if (value.contains("archive"))
      tree.children[key] = decode_tree(value["archive"], name, device, tensors);
    else
      tree.values[key] = decoder.value(value, name);
  }
  return tree;
}

}  // namespace halfstep::train
