// The template language against what Jinja2 rendered (testdata/record_templates.py), and the limits that
// Jinja2 lacks.
#include <fstream>

#include "gmock/gmock.h"
#include "tests/model/tokenizer/testing.h"

namespace clamor {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

class JinjaTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<ChatTemplate>> Load(const std::string& source) {
    files_.contents["chat_template.jinja"] = source;
    return ChatTemplate::Load(files_, tokenizer_.get());
  }

  absl::StatusOr<std::string> Render(const std::string& source, const Json& messages = Json::array(),
                                     const Json& variables = Json::object()) {
    const auto chat_template = Load(source);
    if (!chat_template.ok()) return chat_template.status();
    return (*chat_template)->Render(messages, variables);
  }

  std::string ErrorOf(const std::string& source) { return std::string(Render(source).status().message()); }

  TokenizerFiles files_ = {
      {{"tokenizer.json", testing::FilesOf("tiny-mistral").contents.at("tokenizer.json")}}};
  std::unique_ptr<Tokenizer> tokenizer_ = testing::LoadTokenizer(files_);
};

// Compares with a recorded result: a text, the words of raise_exception, or some other error.
void ExpectRecorded(const absl::StatusOr<std::string>& result, const Json& recorded) {
  if (recorded.contains("text")) {
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(*result, recorded["text"]);
  } else if (recorded.contains("raises")) {
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(std::string(result.status().message()), recorded["raises"]);
  } else {
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << result.value_or("");
    EXPECT_THAT(std::string(result.status().message()), HasSubstr("chat template line "));
  }
}

TEST_F(JinjaTest, CasesRenderAsRecorded) {
  const Json recorded = testing::ReadJson(TOKENIZER_TESTDATA "/template_cases.json");
  ASSERT_GT(recorded["cases"].size(), 500u);
  for (const Json& item : recorded["cases"]) {
    SCOPED_TRACE(item["template"].dump());
    ExpectRecorded(Render(item["template"], recorded["messages"], recorded["variables"]), item);
  }
}

TEST_F(JinjaTest, ConversationsRenderAsRecorded) {
  const Json recorded = testing::ReadJson(TOKENIZER_TESTDATA "/conversations.json");
  ASSERT_GT(recorded["rendered"].size(), 150u);
  for (const Json& item : recorded["rendered"]) {
    SCOPED_TRACE(item.dump());
    const std::string name = item["template"];
    std::ifstream in(TOKENIZER_TESTDATA "/templates/" + name);
    const std::string source(std::istreambuf_iterator<char>(in), {});
    ASSERT_FALSE(source.empty());
    Json variables = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
    variables.update(recorded["options"][item["option"].get<size_t>()]);
    ExpectRecorded(Render(source, recorded["conversations"][item["conversation"].get<size_t>()], variables),
                   item);
  }
}

TEST_F(JinjaTest, ErrorsNameLineAndConstruct) {
  EXPECT_EQ(ErrorOf("a\n\n{{ x | nofilter }}"), "chat template line 3: filter 'nofilter' is not supported");
  EXPECT_EQ(ErrorOf("a\n{% if 1 is notest %}{% endif %}"),
            "chat template line 2: test 'notest' is not supported");
  EXPECT_EQ(ErrorOf("{# a\n#}\n{% include 'x' %}"),
            "chat template line 3: statement 'include' is not supported here");
  EXPECT_EQ(ErrorOf("a\n{% if true %}\n{{ nope.x }}\n{% endif %}"),
            "chat template line 3: 'nope' is undefined");
  EXPECT_EQ(ErrorOf("{{ f(*x) }}"),
            "chat template line 1: found '*', expected an argument; * and ** are not supported");
  EXPECT_EQ(ErrorOf("{% macro m() %}\n\n{{ 1 + 'a' }}{% endmacro %}{{ m() }}"),
            "chat template line 3: unsupported operand type(s) for +: 'int' and 'str'");
  EXPECT_EQ(ErrorOf("{{ 'a'.split('') }}"), "chat template line 1: empty separator");
}

TEST_F(JinjaTest, TheClockIsTheOnlyThingOutside) {
  const auto year = Render("{{ strftime_now('%Y') }}");
  ASSERT_TRUE(year.ok()) << year.status();
  EXPECT_GE(std::stoi(*year), 2024);
  EXPECT_FALSE(Render("{{ strftime_now('" + std::string(1000, 'x') + "') }}").ok());
  for (const char* escape :
       {"{{ ''.__class__ is defined }}", "{{ [].__class__ is defined }}", "{{ cycler is defined }}",
        "{{ self is defined }}", "{{ range.__globals__ is defined }}"}) {
    EXPECT_EQ(Render(escape).value(), "False") << escape;
  }
}

// Each of these would take gigabytes, hours or the whole stack.
TEST_F(JinjaTest, LimitsEndHostileTemplates) {
  const std::string double_it = "{% set ns.x = ns.x + ns.x %}";
  const std::string nest_it = "{% set ns.x = [ns.x, ns.x] %}";
  const std::string many = "{% for i in range(1000000) %}";
  const std::pair<std::string, std::string> hostile[] = {
      {"{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}",
       "limit is 268435456"},
      {"{% set l = range(10000) | list %}{% for i in l %}{{ -1 in l }}{% endfor %}", "steps"},
      {many + "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}", "limit is 16777216"},
      {"{{ range(10000000000) | length }}", "limit is 1000000"},
      {"{{ 'abc' * 1000000000 }}", "limit is 16777216"},
      {"{{ [1, 2] * 10000000 }}", "limit is 1000000"},
      {"{{ 'x' | indent(1000000000000) }}", "limit is 16777216"},
      {"{{ 'xx' | replace('', 'y' * 10000000) }}", "limit is 16777216"},
      {"{{ (['y' * 1000000] * 100) | join }}", "limit is 16777216"},
      {"{{ [[[]]] | tojson(indent='y' * 10000000) }}", "limit is 16777216"},
      {"{{ ('a ' * 4000000).split() | length }}", "limit is 1000000"},
      {"{{ ('a' * 4000000) | list | length }}", "limit is 1000000"},
      {"{% set ns = namespace(x='x') %}{% for i in range(100) %}" + double_it + "{% endfor %}",
       "limit is 16777216"},
      {"{% set ns = namespace(x=[1]) %}{% for i in range(100) %}" + double_it + "{% endfor %}",
       "limit is 1000000"},
      {"{% set ns = namespace(x='x' * 10000000) %}{% for i in range(100) %}{% set ns.y = ns.x ~ i %}{% "
       "endfor %}",
       "limit is 268435456"},
      {"{% set ns = namespace(x=[1]) %}{% for i in range(60) %}" + nest_it + "{% endfor %}{{ ns.x }}",
       "limit is 16777216"},
      {"{% set ns = namespace(x=[1]) %}{% for i in range(60) %}" + nest_it +
           "{% endfor %}{{ ns.x | tojson }}",
       "limit is 16777216"},
      {"{% set ns = namespace(x=[1]) %}{% set o = namespace(x=[1]) %}{% for i in range(60) %}" + nest_it +
           "{% set o.x = [o.x, o.x] %}{% endfor %}{{ ns.x == o.x }}",
       "steps"},
      {"{% set ns = namespace(x=[1]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x "
       "}}",
       "nested deeper"},
      {"{% set ns = namespace(x=[1]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x "
       "== [ns.x] }}",
       "too deep"},
      {"{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}", "nested deeper"},
      {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion deeper than"},
      {"{% set a = 'a' * 8000000 %}{% for i in range(1000000) %}{{ 'b' in a }}{% endfor %}", "steps"},
      {"{% set a = 'a' * 8000000 %}{% for i in range(1000000) %}{% if a == a ~ '' %}{% endif %}{% endfor %}",
       "limit is"},
      {"{% for i in range(1000000) %}{% set a = ('ab' * 3000000)[1] %}{% endfor %}", "limit is"},
  };
  for (const auto& [source, limit] : hostile) {
    const auto result = Render(source);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kResourceExhausted) << source << "\n"
                                                                            << result.status();
    EXPECT_THAT(std::string(result.status().message()), HasSubstr(limit)) << source;
  }
}

TEST_F(JinjaTest, DeepNestingIsRefusedWhenParsed) {
  const auto repeat = [](const std::string& text, int n) {
    std::string all;
    for (int i = 0; i < n; ++i) all += text;
    return all;
  };
  constexpr int kMany = 10'000;
  const std::string hostile[] = {
      "{{ " + repeat("(", kMany) + "1" + repeat(")", kMany) + " }}",
      "{{ " + repeat("[", kMany) + repeat("]", kMany) + " }}",
      "{{ " + repeat("{'a':", kMany) + "1" + repeat("}", kMany) + " }}",
      "{{ " + repeat("not ", kMany) + "1 }}",
      "{{ " + repeat("- ", kMany) + "1 }}",
      "{{ 1" + repeat(" + 1", kMany) + " }}",
      "{{ 1" + repeat(" ~ 1", kMany) + " }}",
      "{{ 1" + repeat(" and 1", kMany) + " }}",
      "{{ x" + repeat(".x", kMany) + " }}",
      "{{ x" + repeat("[0]", kMany) + " }}",
      "{{ x" + repeat("()", kMany) + " }}",
      "{{ x" + repeat(" | trim", kMany) + " }}",
      "{{ x" + repeat(" is none", kMany) + " }}",
      "{{ 1" + repeat(" if 1", kMany) + " }}",
      "{{ 1" + repeat(" if 1 else 1", kMany) + " }}",
      repeat("{% if 1 %}", kMany),
      repeat("{% for i in x %}", kMany),
      "{% for " + repeat("(", kMany) + "i" + repeat(")", kMany) + " in x %}{% endfor %}",
  };
  for (const std::string& source : hostile) {
    EXPECT_THAT(std::string(Load(source).status().message()), HasSubstr(" levels")) << source.substr(0, 40);
  }
  EXPECT_EQ(Render("{{ 1" + repeat(" == 1", kMany) + " }}").value(), "True");
  EXPECT_EQ(Render("{% if 0 %}" + repeat("{% elif 0 %}", kMany) + "{% else %}x{% endif %}").value(), "x");
  EXPECT_EQ(Render("{{ " + repeat("(", 40) + "1" + repeat(")", 40) + " }}").value(), "1");
}

TEST_F(JinjaTest, TemplatesAndValuesOutOfBoundsAreRefused) {
  EXPECT_THAT(std::string(Load(std::string(2 << 20, 'x')).status().message()), HasSubstr("limit is 262144"));
  EXPECT_THAT(std::string(Load("a\xFF").status().message()), HasSubstr("not valid UTF-8 at byte 1"));
  Json deep = 1;
  for (int i = 0; i < 200; ++i) deep = Json::array({deep});
  EXPECT_EQ(Render("x", deep).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Render("x", Json::array(), {{"v", "\x80"}}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Render("{{ v }}", Json::array(), {{"v", UINT64_MAX}}).value(), "1.8446744073709552e+19");
}

}  // namespace
}  // namespace clamor
