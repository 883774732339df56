#include "services/tracing/trace_context.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace clamor {
namespace {

constexpr char kTraceparent[] = "traceparent", kTracestate[] = "tracestate";
constexpr size_t kMaxState = 512;

template <size_t N>
std::string Hex(const std::array<uint8_t, N>& bytes) {
  return absl::BytesToHexString({reinterpret_cast<const char*>(bytes.data()), N});
}

// 2 N lower-case digits.
template <size_t N>
bool ParseHex(absl::string_view digits, std::array<uint8_t, N>* bytes) {
  const auto is_digit = [](char c) { return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f'); };
  if (digits.size() != 2 * N || !std::all_of(digits.begin(), digits.end(), is_digit)) return false;
  const std::string value = absl::HexStringToBytes(digits);
  std::copy(value.begin(), value.end(), bytes->begin());
  return true;
}

bool IsState(absl::string_view state) {
  return state.size() <= kMaxState && std::all_of(state.begin(), state.end(), absl::ascii_isprint);
}

}  // namespace

std::string TraceContext::TraceIdText() const { return valid() ? Hex(trace_id) : "-"; }

std::string TraceContext::Traceparent() const {
  return absl::StrCat("00-", Hex(trace_id), "-", Hex(span_id), sampled ? "-01" : "-00");
}

// version "-" trace id "-" parent id "-" flags; a later version than 00 may have more after another "-".
std::optional<TraceContext> ParseTraceContext(absl::string_view traceparent, absl::string_view tracestate) {
  constexpr size_t kSize = 55;
  if (traceparent.size() < kSize) return std::nullopt;
  std::array<uint8_t, 1> version, flags;
  TraceContext trace;
  const bool well_formed = ParseHex(traceparent.substr(0, 2), &version) && traceparent[2] == '-' &&
                           ParseHex(traceparent.substr(3, 32), &trace.trace_id) && traceparent[35] == '-' &&
                           ParseHex(traceparent.substr(36, 16), &trace.span_id) && traceparent[52] == '-' &&
                           ParseHex(traceparent.substr(53, 2), &flags);
  if (!well_formed || version[0] == 0xff) return std::nullopt;
  if (traceparent.size() > kSize && (version[0] == 0 || traceparent[kSize] != '-')) return std::nullopt;
  if (!trace.valid() || trace.span_id == std::array<uint8_t, 8>{}) return std::nullopt;
  trace.sampled = (flags[0] & 1) != 0;
  if (IsState(tracestate)) trace.state = std::string(tracestate);
  return trace;
}

TraceContext TraceContextOf(const grpc::ServerContextBase& call) {
  const auto& metadata = call.client_metadata();
  if (metadata.count(kTraceparent) != 1) return {};
  const grpc::string_ref parent = metadata.find(kTraceparent)->second;
  std::string state;
  const auto [begin, end] = metadata.equal_range(kTracestate);
  for (auto entry = begin; entry != end && state.size() <= kMaxState; ++entry) {
    absl::StrAppend(&state, state.empty() ? "" : ",",
                    absl::string_view(entry->second.data(), entry->second.size()));
  }
  return ParseTraceContext({parent.data(), parent.size()}, state).value_or(TraceContext());
}

void AddTraceContext(const TraceContext& trace, grpc::ClientContext* call) {
  if (!trace.valid()) return;
  call->AddMetadata(kTraceparent, trace.Traceparent());
  if (!trace.state.empty()) call->AddMetadata(kTracestate, trace.state);
}

}  // namespace clamor
