// What the tests of this folder share: a model directory's texts.
#pragma once

#include <cstdint>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "model/config.h"
#include "model/tokenizer/chat_template.h"
#include "model/tokenizer/tokenizer.h"
#include "model/train/record_encoder.h"

namespace clamor {

inline const std::vector<std::string>& ModelDirectories() {
  static const auto& directories = *new std::vector<std::string>{
      CLAMOR_DEMO_MODEL, CLAMOR_TESTDATA "/tiny-llama", CLAMOR_TESTDATA "/tiny-mistral",
      CLAMOR_TESTDATA "/tiny-qwen2", CLAMOR_TESTDATA "/tiny-qwen3"};
  return directories;
}

// The tokenizer and template of a directory, the template replaced by `jinja` unless that is empty.
struct TestModel {
  explicit TestModel(const std::string& directory, const std::string& jinja = "") {
    auto files = TokenizerFiles::Read(directory);
    EXPECT_TRUE(files.ok()) << files.status();
    if (!jinja.empty()) files->contents["chat_template.jinja"] = jinja;
    auto loaded = Tokenizer::Load(*files);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    tokenizer = *std::move(loaded);
    auto loaded_template = ChatTemplate::Load(*files, tokenizer.get());
    EXPECT_TRUE(loaded_template.ok()) << loaded_template.status();
    chat_template = *std::move(loaded_template);
    auto model = LoadModelDescription(directory);
    EXPECT_TRUE(model.ok()) << model.status();
    texts = {tokenizer.get(), chat_template.get(), model->generation.eos_ids, model->config.vocab_size};
  }

  DatasetTexts WithoutTemplate() const {
    DatasetTexts without = texts;
    without.chat_template = nullptr;
    return without;
  }

  std::vector<int32_t> Ids(std::string_view text, Tokenizer::EncodeOptions options) const {
    auto ids = tokenizer->Encode(text, options);
    EXPECT_TRUE(ids.ok()) << ids.status();
    return *std::move(ids);
  }
  // As the template's own text, as what a user wrote, and as the gateway takes a text.
  std::vector<int32_t> Parsed(std::string_view text) const { return Ids(text, {.add_specials = false}); }
  std::vector<int32_t> Plain(std::string_view text) const {
    return Ids(text, {.add_specials = false, .specials = Tokenizer::Specials::kPlainText});
  }
  std::vector<int32_t> Raw(std::string_view text) const { return Ids(text, {}); }

  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;
  DatasetTexts texts;
};

inline std::vector<int32_t> operator+(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// 0, 1, .. size - 1
inline std::vector<int32_t> Sequence(int32_t size) {
  std::vector<int32_t> ids(size);
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

}  // namespace clamor
