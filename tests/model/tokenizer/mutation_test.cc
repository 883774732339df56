// Files that nobody wrote: bytes flipped, cut out, doubled and moved. Loading may fail, and so may what is
// loaded; nothing may crash, hang or decode to invalid UTF-8. Meant to run under sanitizers.
#include <random>

#include "model/tokenizer/utf8.h"
#include "tests/model/tokenizer/testing.h"

namespace clamor {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kRounds = 150;
#else
constexpr int kRounds = 600;
#endif

class Mutator {
 public:
  explicit Mutator(uint32_t seed) : random_(seed) {}

  std::string operator()(std::string text) {
    for (auto n = 1 + random_() % 4; n > 0 && !text.empty(); --n) {
      const size_t at = random_() % text.size();
      const size_t size = 1 + random_() % 12;
      switch (random_() % 6) {
        case 0:
          text[at] = static_cast<char>(random_());
          break;
        case 1:
          text[at] = kTelling[random_() % kTelling.size()];
          break;
        case 2:
          text.erase(at, size);
          break;
        case 3:
          text.insert(at, text.substr(random_() % text.size(), size));
          break;
        case 4:
          text.insert(at, kWords[random_() % std::size(kWords)]);
          break;
        case 5:
          if (random_() % 8 == 0) text.resize(at);
          break;
      }
    }
    return text;
  }

 private:
  static constexpr std::string_view kTelling = "{}[]()\"'\\,:%#|-+.*0159\n \x80\xE2\xFF";
  static constexpr const char* kWords[] = {"null",  "-1",     "1e999",  "4194303",  "99999999999999999999",
                                           "\"\"",  "{%",     "%}",     "{{",       "}}",
                                           "{#",    "raw",    "endfor", "loop",     "ns.",
                                           " if ",  " in ",   "not ",   "|tojson",  "|list",
                                           "|join", "[::-1]", "**",     "range(9)", "\\s",
                                           "(?:",   ")+"};
  std::mt19937 random_;
};

void Exercise(const Tokenizer& tokenizer) {
  const std::string text = "The <|im_end|> price, 日本 e\u0301  12345 <s>\n's";
  for (const auto specials : {Tokenizer::Specials::kParse, Tokenizer::Specials::kPlainText}) {
    const auto ids = tokenizer.Encode(text, {.specials = specials});
    if (!ids.ok()) continue;
    const auto decoded = tokenizer.Decode(*ids, false);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    ASSERT_FALSE(FindInvalidUtf8(*decoded).has_value());
  }
}

TEST(MutationTest, TokenizerFiles) {
  int loaded = 0;
  int refused = 0;
  for (const std::string& model : testing::GoldenModels()) {
    const TokenizerFiles good = testing::FilesOf(model);
    // A small vocabulary, so that mutations hit the other fields often enough.
    auto json = nlohmann::json::parse(good.contents.at("tokenizer.json"));
    auto& merges = json["model"]["merges"];
    merges.erase(merges.begin() + 5, merges.end());
    const std::string source = json.dump();
    Mutator mutate(11);
    for (int round = 0; round < kRounds; ++round) {
      TokenizerFiles files = good;
      files.contents["tokenizer.json"] = mutate(source);
      if (round % 5 == 0)
        files.contents["tokenizer_config.json"] = mutate(good.contents.at("tokenizer_config.json"));
      const auto tokenizer = Tokenizer::Load(files);
      tokenizer.ok() ? ++loaded : ++refused;
      if (tokenizer.ok()) Exercise(**tokenizer);
    }
  }
  EXPECT_GT(loaded, kRounds / 10);
  EXPECT_GT(refused, kRounds / 10);
}

TEST(MutationTest, Templates) {
  const auto tokenizer = testing::LoadTokenizer("tiny-llama");
  const auto recorded = testing::ReadJson(TOKENIZER_TESTDATA "/conversations.json");
  const auto cases = testing::ReadJson(TOKENIZER_TESTDATA "/template_cases.json");
  std::vector<std::string> sources;
  for (const auto& item : cases["cases"]) sources.push_back(item["template"]);
  for (const auto& item : recorded["rendered"]) {
    std::ifstream in(TOKENIZER_TESTDATA "/templates/" + item["template"].get<std::string>());
    sources.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  }
  Mutator mutate(12);
  int rendered = 0;
  int refused = 0;
  for (int round = 0; round < 10 * kRounds; ++round) {
    const std::string source = mutate(sources[static_cast<size_t>(round) % sources.size()]);
    const auto chat_template = ChatTemplate::Load({{{"chat_template.jinja", source}}}, tokenizer.get());
    if (!chat_template.ok()) {
      ++refused;
      continue;
    }
    const auto& messages =
        recorded["conversations"][static_cast<size_t>(round) % recorded["conversations"].size()];
    const auto text = (*chat_template)->Render(messages, cases["variables"]);
    if (!text.ok()) continue;
    ++rendered;
    ASSERT_FALSE(FindInvalidUtf8(*text).has_value()) << source;
    const auto ids = (*chat_template)->Encode({{"user", "a <|im_end|> b"}});
    if (ids.ok()) {
      ASSERT_TRUE(tokenizer->Decode(*ids, false).ok());
    }
  }
  EXPECT_GT(rendered, kRounds);
  EXPECT_GT(refused, kRounds);
}

}  // namespace
}  // namespace clamor
