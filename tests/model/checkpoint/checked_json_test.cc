#include "model/checked_json.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace clamor {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using ::testing::StartsWith;

std::string ParseError(const std::string& text) {
  const absl::StatusOr<json> parsed = ParseJson(text, "f.json");
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << text.substr(0, 100);
  return std::string(parsed.status().message());
}

std::string Nested(int levels) { return std::string(levels, '[') + std::string(levels, ']'); }

TEST(ParseJson, SaysWhereATextStopsBeingJson) {
  EXPECT_THAT(ParseError("{\"a\": 1,\n \"b\": tru}"),
              AllOf(StartsWith("f.json: not JSON: "), HasSubstr("line 2, column")));
  for (const char* text :
       {"", " ", "{", "[1,]", "NaN", "[Infinity]", "{\"a\" 1}", "\"\xff\"", "1e999", "[1] 2"}) {
    EXPECT_THAT(ParseError(text), StartsWith("f.json: not JSON: ")) << text;
  }
}

TEST(ParseJson, DoesNotQuoteAHugeToken) {
  EXPECT_THAT(ParseError("\"" + std::string(1 << 20, 'x')).size(), ::testing::Lt(300));
  EXPECT_THAT(ParseError(std::string(1 << 20, '9') + "e999999").size(), ::testing::Lt(300));
}

TEST(ParseJson, BoundsDepth) {
  EXPECT_TRUE(ParseJson(Nested(kMaxJsonDepth), "f").ok());
  EXPECT_EQ(ParseError(Nested(kMaxJsonDepth + 1)), "f.json: JSON nested 65 levels deep, limit is 64");
  EXPECT_THAT(ParseError(std::string(8 << 20, '[')), HasSubstr("8388608 levels deep"));
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  EXPECT_THAT(ParseError(objects), HasSubstr("100000 levels deep"));
}

TEST(ParseJson, BracketsInStringsAreNotDepth) {
  const std::string many(1000, '[');
  const absl::StatusOr<json> parsed = ParseJson("[\"" + many + "\\\"" + many + "\\\\\", \"{\"]", "f");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ((*parsed)[0], many + "\"" + many + "\\");
}

TEST(Quote, IsShortAndPrintable) {
  EXPECT_EQ(Quote("a\nb\xc3\xa9"), "\"a\\nb\\u00e9\"");
  EXPECT_EQ(Quote(std::string("bad \xff")), "\"bad \\ufffd\"");
  EXPECT_EQ(Quote({{"a", 1}}), "{\"a\":1}");
  EXPECT_THAT(Quote(std::string(1 << 20, 'x')), SizeIs(103));
}

class FieldsTest : public ::testing::Test {
 protected:
  template <typename T>
  static std::string Error(const absl::StatusOr<T>& value) {
    EXPECT_EQ(value.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(value.status().message());
  }

  const json object_ = json::parse(R"({"n": 7, "x": 0.5, "b": true, "null": null, "s": "t", "o": {"m": 3},
                                       "huge": 18446744073709551615, "minus": -1})");
  const JsonFields fields_{object_, "f: "};
};

TEST_F(FieldsTest, Reads) {
  EXPECT_EQ(*fields_.Int("n", 7, 7), 7);
  EXPECT_EQ(*fields_.Number("x", 0, 1), 0.5);
  EXPECT_EQ(*fields_.Number("n", 0, 10), 7.0);
  EXPECT_EQ(*fields_.Bool("b", false), true);
  EXPECT_EQ(*fields_.Object("o")->Int("m", 0, 9), 3);
}

TEST_F(FieldsTest, NullIsAbsent) {
  for (const char* key : {"null", "nowhere"}) {
    EXPECT_EQ(fields_.Find(key), nullptr);
    EXPECT_EQ(*fields_.Int(key, 0, 9, 5), 5);
    EXPECT_EQ(*fields_.Number(key, 0, 9, 0.25), 0.25);
    EXPECT_EQ(*fields_.Bool(key, true), true);
    EXPECT_TRUE(fields_.Object(key)->object().empty());
    EXPECT_EQ(Error(fields_.Int(key, 0, 9)), std::string("f: ") + key + " is missing");
    EXPECT_EQ(Error(fields_.Number(key, 0, 9)), std::string("f: ") + key + " is missing");
  }
  EXPECT_TRUE(fields_.IsNull("null"));
  EXPECT_FALSE(fields_.IsNull("nowhere"));
  EXPECT_FALSE(fields_.IsNull("n"));
}

TEST_F(FieldsTest, ErrorsNameFieldAndValueAndRange) {
  EXPECT_EQ(Error(fields_.Int("n", 8, 9)), "f: n is 7, must be a whole number from 8 to 9");
  EXPECT_EQ(Error(fields_.Int("n", 0, 6)), "f: n is 7, must be a whole number from 0 to 6");
  EXPECT_EQ(Error(fields_.Int("x", 0, 9)), "f: x is 0.5, must be a whole number from 0 to 9");
  EXPECT_EQ(Error(fields_.Int("s", 0, 9, 1)), "f: s is \"t\", must be a whole number from 0 to 9");
  EXPECT_THAT(Error(fields_.Int("huge", 0, 9)), HasSubstr("18446744073709551615"));
  EXPECT_THAT(Error(fields_.Int("minus", 0, 9)), HasSubstr("-1"));
  EXPECT_EQ(Error(fields_.Number("x", 1, 2)), "f: x is 0.5, must be a number from 1 to 2");
  EXPECT_EQ(Error(fields_.Number("b", 1, 2)), "f: b is true, must be a number from 1 to 2");
  EXPECT_EQ(Error(fields_.Bool("n", true)), "f: n is 7, must be true or false");
  EXPECT_EQ(Error(fields_.Object("n")), "f: n is 7, must be an object");
  EXPECT_EQ(Error(fields_.Object("o")->Int("m", 4, 9)), "f: o.m is 3, must be a whole number from 4 to 9");
}

}  // namespace
}  // namespace clamor
