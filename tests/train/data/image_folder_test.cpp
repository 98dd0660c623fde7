#include "halfstep/train/data/image_folder.h"

#include "halfstep/core/error.h"
#include "halfstep/train/data/loader.h"
#include "halfstep/train/registry/registry.h"

#include <ATen/ATen.h>

#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tolerance.h"

namespace halfstep::train {
namespace {

namespace fs = std::filesystem;
using halfstep::testing::expect_same_bits;
using halfstep::testing::TempFolder;
using ::testing::ElementsAre;

const fs::path kGoldenFolder = HALFSTEP_TEST_SOURCES "/golden";

class ImageFolderTest : public ::testing::Test {
 protected:
  ImageFolderTest() {
    put("rgb.png", "dog/b.PNG");
    put("rgb.jpg", "dog/deep/c.jpeg");
    put("gray.png", "cat/a.png");
    fs::create_directories(folder_.path() / ".hidden");
    std::ofstream(folder_.path() / "dog/notes.txt") << "no image";
  }

  void put(const char* golden, const fs::path& name) const {
    fs::create_directories((folder_.path() / name).parent_path());
    fs::copy_file(kGoldenFolder / golden, folder_.path() / name);
  }
  Config config(const std::string& more = "") const {
    return Config::parse("type: ImageFolder\nroot: " + folder_.path().string() + "\n" + more,
                         "x.yaml");
  }
  std::shared_ptr<Dataset> build(const std::string& more = "") const {
    auto mapping = config(more);
    auto result = datasets().build(mapping);
    mapping.finish();
    return result;
  }

  TempFolder folder_;
};

}  // namespace

TEST_F(ImageFolderTest, NumbersClassesAndFilesByName) {
  const auto data = build();
  ASSERT_EQ(data->size(), 3);
  const auto batch = data->get_batch(at::tensor({int64_t{2}, int64_t{0}, int64_t{1}}));
  expect_same_bits(batch.target, at::tensor({int64_t{1}, int64_t{0}, int64_t{1}}));
  ASSERT_EQ(batch.data.sizes(), (std::vector<int64_t>{3, 3, 13, 17}));
  expect_same_bits(batch.data[2],
                   read_image(kGoldenFolder / "rgb.png", ImageColor::rgb).to(at::kFloat).div(255));
  expect_same_bits(batch.data[1],
                   read_image(kGoldenFolder / "gray.png", ImageColor::rgb).to(at::kFloat).div(255));
  EXPECT_EQ(build("color: gray")->get_batch(at::zeros({1}, at::kLong)).data.size(1), 1);
}

TEST_F(ImageFolderTest, TheSavedConfigHasTheClasses) {
  auto mapping = config();
  datasets().build(mapping);
  EXPECT_THAT(mapping.resolved(), ::testing::HasSubstr("classes: [cat, dog]"));
  EXPECT_THAT(dynamic_cast<ImageFolder&>(*build("classes: [dog]")).classes(), ElementsAre("dog"));
  EXPECT_EQ(build("classes: [dog]")->size(), 2);
  EXPECT_ERROR(build("classes: [dog, dog]"), UsageError, "must name each class once");
  EXPECT_ERROR(build("color: red"), UsageError, "must be rgb or gray");
  // So whoever predicts can do without the images.
  auto elsewhere = Config::parse("{type: ImageFolder, root: /none, classes: [cat, dog]}");
  EXPECT_THAT(input_readers().build(elsewhere)->classes(), ElementsAre("cat", "dog"));
}

TEST_F(ImageFolderTest, RandomTransformsFollowTheDraw) {
  const auto data = build("transforms: [{type: RandomCrop, size: 5}]");
  const auto all = at::arange(3);
  const auto first = data->draw_batch(all, 1).data;
  expect_same_bits(data->draw_batch(all, 1).data, first);
  expect_same_bits(data->draw_batch(all.slice(0, 2), 1).data[0], first[2]);
  EXPECT_FALSE(data->draw_batch(all, 2).data.equal(first));
  Loader loader(data, {.batch_size = 3, .seed = 5});
  const auto epoch_0 = loader.batch(0).data;
  loader.set_epoch(1);
  EXPECT_FALSE(loader.batch(0).data.equal(epoch_0));
  loader.set_epoch(0);
  expect_same_bits(loader.batch(0).data, epoch_0);
}

TEST_F(ImageFolderTest, ErrorsNameTheFileOrFolder) {
  std::ofstream(folder_.path() / "dog/broken.png") << "no image";
  EXPECT_ERROR(build()->get_batch(at::arange(4)), EnvironmentError, "dog/broken.png",
               "must be a PNG or JPEG file");
  fs::remove(folder_.path() / "dog/broken.png");
  EXPECT_ERROR(build("transforms: [{type: RandomCrop, size: 15}]")->get_batch(at::arange(3)),
               UsageError, "but got 13x17", "a.png)");
  EXPECT_ERROR(build("transforms: [{type: Resize, size: 5}]")->get_batch(at::tensor({int64_t{9}})),
               UsageError, "indices must be from 0 to 2, but got 9");
  put("palette.png", "cat/z.png");
  fs::create_directories(folder_.path() / "empty");
  EXPECT_ERROR(build(), EnvironmentError, "empty must have images", "leave the class out");
  EXPECT_ERROR(ImageFolder({.root = folder_.path() / "none"}), EnvironmentError, "none",
               "No such file");
  EXPECT_ERROR(ImageFolder({.root = folder_.path() / "cat"}), EnvironmentError,
               "must have a folder for each class");
}

TEST_F(ImageFolderTest, ImagesOfSeveralSizesAreRefused) {
  // A PNG of one pixel.
  const auto small = std::string(
      "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0:~\x9bU\0\0\0\nIDATx\x9c"
      "c`\0\0\0\x02\0\x01H\xaf\xa4q\0\0\0\0IEND\xae"
      "B`\x82",
      67);
  std::ofstream(folder_.path() / "cat/small.png", std::ios::binary) << small;
  EXPECT_ERROR(build()->get_batch(at::arange(4)), UsageError,
               "all images must have one size after the transforms", "small.png",
               "end with Resize or a crop");
  EXPECT_NO_THROW(build("transforms: [{type: Resize, size: [4, 4]}]")->get_batch(at::arange(4)));
}

}  // namespace halfstep::train
