#include "halfstep/core/nearest.h"

#include <gtest/gtest.h>

namespace halfstep {

TEST(Nearest, FindsMisspellingsOnly) {
  const std::vector<std::string> known{"log_interval", "max_epochs", "lr",     "Adam",
                                       "AdamW",        "betas",      "a_b_c_d"};
  const struct {
    const char *word, *nearest;
  } cases[] = {
      {"max_epoch", "max_epochs"},
      {"maxepochs", "max_epochs"},
      {"max-epochs", "max_epochs"},
      {"mxa_epochs", "max_epochs"},
      {"epochs", "max_epochs"},
      {"MAX_EPOCHS", "max_epochs"},
      {"adam", "Adam"},
      {"adamw", "AdamW"},
      {"Adm", "Adam"},
      {"beta", "betas"},
      {"l", ""},
      {"x", ""},
      {"rl", ""},
      {"momentum", ""},
      {"", ""},
      {"interval_of_epochs_", ""},
      {"LR", "lr"},
      {"adma", "Adam"},
      {"a-b-c-d", "a_b_c_d"},
  };
  for (const auto& c : cases) EXPECT_EQ(nearest(c.word, known), c.nearest) << c.word;
  EXPECT_EQ(nearest("lr", {}), "");
  EXPECT_EQ(nearest(std::string(100000, 'a'), known), "");
}

TEST(Nearest, SuggestionIsASentence) {
  EXPECT_EQ(suggest("max_epoch", {"max_epochs"}), "did you mean 'max_epochs'?");
  EXPECT_EQ(suggest("zzz", {"max_epochs"}), "");
}

}  // namespace halfstep
