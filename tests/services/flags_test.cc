#include "services/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace clamor {
namespace {

using ::testing::HasSubstr;
using ::testing::internal::CaptureStderr;
using ::testing::internal::CaptureStdout;
using ::testing::internal::GetCapturedStderr;
using ::testing::internal::GetCapturedStdout;

struct Parsed {
  std::optional<int> exit_status;
  ServerOptions options{.name = "clamor-test", .listen = "127.0.0.1:1", .http = "127.0.0.1:2"};
};

Parsed Parse(std::vector<std::string> words) {
  Parsed parsed;
  CLI::App app("A test.", parsed.options.name);
  AddServerFlags(app, parsed.options);
  words.insert(words.begin(), "clamor-test");
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  parsed.exit_status = ParseFlags(app, static_cast<int>(arguments.size()), arguments.data());
  return parsed;
}

TEST(FlagsTest, CommandLineBeatsConfigBeatsEnvironmentBeatsDefault) {
  const std::string config = std::filesystem::path(::testing::TempDir()) / "flags_test.conf";
  std::ofstream(config) << "http=127.0.0.1:20\ngrace=3\n";
  setenv("CLAMOR_LISTEN", "127.0.0.1:30", 1);
  setenv("CLAMOR_HTTP", "127.0.0.1:31", 1);
  setenv("CLAMOR_PORT_FILE", "/tmp/p", 1);
  const Parsed parsed = Parse({"--config", config, "--grace", "7"});
  for (const char* name : {"CLAMOR_LISTEN", "CLAMOR_HTTP", "CLAMOR_PORT_FILE"}) unsetenv(name);
  EXPECT_EQ(parsed.exit_status, std::nullopt);
  EXPECT_EQ(parsed.options.grace_seconds, 7);
  EXPECT_EQ(parsed.options.http, "127.0.0.1:20");
  EXPECT_EQ(parsed.options.listen, "127.0.0.1:30");
  EXPECT_EQ(parsed.options.port_file, "/tmp/p");
  EXPECT_EQ(parsed.options.max_concurrent_streams, ServerOptions{}.max_concurrent_streams);
}

TEST(FlagsTest, WrongUsageIsOneLineThatNamesTheFlag) {
  const std::string config = std::filesystem::path(::testing::TempDir()) / "flags_test_wrong.conf";
  std::ofstream(config) << "no-such-flag=1\n";
  struct Case {
    std::vector<std::string> words;
    const char* named;
  };
  for (const Case& wrong : {Case{{"--no-such-flag"}, "--no-such-flag"}, Case{{"--grace", "soon"}, "--grace"},
                            Case{{"--grace", "-1"}, "--grace"}, Case{{"--max-streams", "0"}, "--max-streams"},
                            Case{{"--config", "/does/not/exist"}, "/does/not/exist"},
                            Case{{"--otlp-endpoint", "collector"}, "--otlp-endpoint"},
                            Case{{"--otlp-endpoint", "http://collector:4317"}, "--otlp-endpoint"},
                            Case{{"--otlp-endpoint", "collector:4317", "--otlp-tls"}, "--tls-ca"},
                            Case{{"--config", config}, "no-such-flag"}}) {
    CaptureStderr();
    EXPECT_EQ(Parse(wrong.words).exit_status, 2) << wrong.named;
    const std::string said = GetCapturedStderr();
    EXPECT_THAT(said, HasSubstr(wrong.named));
    EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
  }
}

TEST(FlagsTest, ConfigFileFromTheEnvironment) {
  const std::string config = std::filesystem::path(::testing::TempDir()) / "flags_test_env.conf";
  std::ofstream(config) << "grace=11\n";
  setenv("CLAMOR_CONFIG", config.c_str(), 1);
  const Parsed parsed = Parse({});
  setenv("CLAMOR_CONFIG", "/does/not/exist", 1);
  CaptureStderr();
  const Parsed missing = Parse({});
  EXPECT_THAT(GetCapturedStderr(), HasSubstr("/does/not/exist"));
  unsetenv("CLAMOR_CONFIG");
  EXPECT_EQ(parsed.options.grace_seconds, 11);
  EXPECT_EQ(missing.exit_status, 2);
}

TEST(FlagsTest, HelpAndVersionEndWell) {
  for (const char* flag : {"--help", "--version"}) {
    CaptureStdout();
    EXPECT_EQ(Parse({flag}).exit_status, 0);
    EXPECT_THAT(GetCapturedStdout(),
                HasSubstr(flag == std::string("--help") ? "--port-file" : "clamor-test "));
  }
}

}  // namespace
}  // namespace clamor
