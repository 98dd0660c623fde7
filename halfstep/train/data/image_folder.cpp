#include "halfstep/train/data/image_folder.h"

#include "halfstep/core/error.h"

#include <algorithm>
#include <cctype>
#include <optional>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

namespace halfstep::train {
namespace {

namespace fs = std::filesystem;
constexpr const char* kImageFolderWhere = "ImageFolder";

// Calls `use` with each entry; throws EnvironmentError where the folder can't be read.
template <class Iterator, class Use>
void for_each_entry(const fs::path& folder, const Use& use) {
  std::error_code error;
  auto entry = Iterator(folder, error);
  for (; !error && entry != Iterator(); entry.increment(error)) use(*entry);
  HALFSTEP_CHECK_ENVIRONMENT(!error, kImageFolderWhere, folder.string(),
                             " must be a folder that can be read, but got '", error.message(),
                             "'; check root and its permissions");
}

std::vector<std::string> find_classes(const fs::path& root) {
  std::vector<std::string> classes;
  for_each_entry<fs::directory_iterator>(root, [&](const auto& entry) {
    const auto name = entry.path().filename().string();
    std::error_code ignored;
    if (entry.is_directory(ignored) && !name.starts_with('.')) classes.push_back(name);
  });
  std::sort(classes.begin(), classes.end());
  HALFSTEP_CHECK_ENVIRONMENT(!classes.empty(), kImageFolderWhere, root.string(),
                             " must have a folder for each class, but has none; put each class's "
                             "images into a folder of its name");
  return classes;
}

bool is_image_name(const fs::path& file) {
  auto extension = file.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char letter) { return std::tolower(letter); });
  return extension == ".png" || extension == ".jpg" || extension == ".jpeg";
}

std::vector<fs::path> find_images(const fs::path& folder) {
  std::vector<fs::path> files;
  for_each_entry<fs::recursive_directory_iterator>(folder, [&](const auto& entry) {
    std::error_code ignored;
    if (entry.is_regular_file(ignored) && is_image_name(entry.path()))
      files.push_back(entry.path());
  });
  std::sort(files.begin(), files.end());
  HALFSTEP_CHECK_ENVIRONMENT(!files.empty(), kImageFolderWhere, folder.string(),
                             " must have images, but no file in it ends in .png, .jpg or .jpeg; "
                             "put some in, or leave the class out of classes");
  return files;
}

// What a transform refuses is told with the file's name.
at::Tensor read_example(const fs::path& file, ImageColor color, const ImageTransforms& transforms,
                        ExampleRandom random) {
  const auto image = read_image(file, color);
  try {
    return transforms.apply(image, random);
  } catch (const UsageError& error) {
    throw UsageError(error.what() + std::string(" (") + file.string() + ")");
  }
}

ImageFolder::Options read_options(Config& config, bool must_exist) {
  ImageFolder::Options options;
  options.root = config.get<std::string>("root");
  const auto color = config.get<std::string>("color", "rgb");
  if (color != "rgb" && color != "gray") config.fail("color", "must be rgb or gray");
  options.color = color == "rgb" ? ImageColor::rgb : ImageColor::gray;
  options.transforms = ImageTransforms(config);
  // The names go into the config that a run saves, so that it can do without the folder.
  std::error_code ignored;
  const bool find = !config.has("classes") && (must_exist || fs::exists(options.root, ignored));
  options.classes = find ? config.get("classes", find_classes(options.root))
                         : config.get<std::vector<std::string>>("classes", {});
  auto sorted = options.classes;
  std::sort(sorted.begin(), sorted.end());
  if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end())
    config.fail("classes", "must name each class once");
  return options;
}

class ImageFolderReader : public InputReader {
 public:
  explicit ImageFolderReader(Config& config) : options_(read_options(config, false)) {}

  at::Tensor read(const fs::path& file) const override {
    return read_example(file, options_.color, options_.transforms, ExampleRandom(0));
  }
  std::vector<std::string> classes() const override { return options_.classes; }

 private:
  ImageFolder::Options options_;
};

}  // namespace

ImageFolder::ImageFolder(Options options) : options_(std::move(options)) {
  if (options_.classes.empty()) options_.classes = find_classes(options_.root);
  for (size_t number = 0; number < options_.classes.size(); ++number)
    for (auto& file : find_images(options_.root / options_.classes[number]))
      files_.emplace_back(std::move(file), static_cast<int64_t>(number));
}

Batch ImageFolder::draw_batch(const at::Tensor& indices, uint64_t draw) const {
  HALFSTEP_CHECK_USAGE(indices.dim() == 1 && indices.scalar_type() == at::kLong &&
                           indices.is_cpu() && indices.numel() > 0,
                       "ImageFolder::get_batch",
                       "indices must be a non-empty int64 CPU tensor of 1 dimension, but got ",
                       indices.toString(), " ", indices.sizes(), "; take them from a Loader");
  const auto order = indices.contiguous();
  const auto* index = order.const_data_ptr<int64_t>();
  const auto count = order.numel();
  auto target = at::empty({count}, at::kLong);
  auto* labels = target.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < count; ++i) {
    HALFSTEP_CHECK_USAGE(index[i] >= 0 && index[i] < size(), "ImageFolder::get_batch",
                         "indices must be from 0 to ", size() - 1, ", but got ", index[i],
                         "; take them from a Loader");
    labels[i] = files_[static_cast<size_t>(index[i])].second;
  }
  const auto file_of = [&](int64_t i) { return files_[static_cast<size_t>(index[i])].first; };
  const auto read = [&](int64_t i) {
    const ExampleRandom random(draw ^ (static_cast<uint64_t>(index[i]) * 0xd1342543de82ef95));
    return read_example(file_of(i), options_.color, options_.transforms, random);
  };
  const auto first = read(0);
  std::vector<int64_t> shape = first.sizes().vec();
  shape.insert(shape.begin(), count);
  auto data = at::empty(shape, at::kFloat);
  data.select(0, 0).copy_(first);
  at::parallel_for(1, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto example = read(i);
      HALFSTEP_CHECK_USAGE(example.sizes() == first.sizes(), kImageFolderWhere,
                           "all images must have one size after the transforms, but ",
                           file_of(0).string(), " has ", first.sizes(), " and ",
                           file_of(i).string(), " ", example.sizes(),
                           "; end with Resize or a crop to [height, width]");
      data.select(0, i).copy_(example);
    }
  });
  return {data, target};
}

std::shared_ptr<Dataset> make_image_folder(Config& config) {
  return std::make_shared<ImageFolder>(read_options(config, true));
}

std::unique_ptr<InputReader> make_image_folder_reader(Config& config) {
  return std::make_unique<ImageFolderReader>(config);
}

}  // namespace halfstep::train
