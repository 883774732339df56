// Structured logs on stderr: one line an event, `time=... level=info server=NAME event=started grpc=...`.
// Never the text of prompts or answers.
#pragma once

#include <string>
#include <string_view>

#include "spdlog/spdlog.h"

namespace clamor {

// Sets the form of spdlog's default logger. Call once, before the first log line.
void StartLogging(const std::string& server);

// `value` in double quotes with what would break a line escaped: for values that others choose.
std::string Quoted(std::string_view value);

}  // namespace clamor
