#include "services/log.h"

#include <memory>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "grpc/support/log.h"
#include "spdlog/sinks/stdout_sinks.h"

namespace clamor {

void StartLogging(const std::string& server) {
  auto logger = std::make_shared<spdlog::logger>(server, std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern(absl::StrCat("time=%Y-%m-%dT%H:%M:%S.%e%z level=%l server=", server, " %v"));
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
  gpr_set_log_function([](gpr_log_func_args* line) {  // gRPC's own lines, in our form
    const auto level = line->severity == GPR_LOG_SEVERITY_ERROR ? spdlog::level::warn : spdlog::level::debug;
    spdlog::log(level, "event=grpc message={}", Quoted(line->message));
  });
}

std::string Quoted(std::string_view value) {
  return absl::StrCat("\"", absl::CEscape({value.data(), value.size()}), "\"");
}

}  // namespace clamor
