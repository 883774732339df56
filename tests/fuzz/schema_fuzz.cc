// A JSON schema of any bytes is refused, or its grammar reads the text after its NUL; texts that it calls
// complete are JSON.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "absl/status/status.h"
#include "model/grammar/json_schema.h"
#include "nlohmann/json.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace clamor;  // NOLINT
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const size_t cut = std::min(bytes.find('\0'), size);
  const auto compiled = CompileJsonSchema(bytes.substr(0, cut));
  if (!compiled.ok() && !absl::IsInvalidArgument(compiled.status())) std::abort();
  const Grammar any = AnyJsonObject();
  const Grammar& grammar = compiled.ok() ? *compiled : any;

  const std::string_view text = cut < size ? bytes.substr(cut + 1) : std::string_view();
  GrammarState state = grammar.Start();
  size_t read = 0;
  for (; read < text.size(); ++read) {
    GrammarState next = state;
    if (!grammar.Advance(&next, static_cast<unsigned char>(text[read]))) break;
    state = next;
    if (grammar.AtEnd(state) && !nlohmann::json::accept(text.substr(0, read + 1))) std::abort();
  }
  // Every state that is alive can be continued.
  bool goes_on = grammar.AtEnd(state);
  for (int byte = 0; byte < 256 && !goes_on; ++byte) {
    GrammarState next = state;
    goes_on = grammar.Advance(&next, static_cast<unsigned char>(byte));
  }
  if (!goes_on) std::abort();
  return 0;
}
