#include "tests/simt/report.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <utility>
#include <vector>

namespace clamor::simt {
namespace {

struct Frame {
  std::string function, place;
};

std::string ReadLine(FILE* from) {
  std::string line;
  for (int c; (c = std::fgetc(from)) != EOF && c != '\n';) line += static_cast<char>(c);
  return line;
}

// Innermost first: a function inlined into another comes before it.
std::vector<Frame> FramesOf(const void* address) {
  Dl_info module;
  if (dladdr(address, &module) == 0) return {};
  const uintptr_t offset =
      reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(module.dli_fbase);
  char command[1024];
  std::snprintf(command, sizeof(command), "addr2line -e '%s' -f -C -i 0x%zx 2>/dev/null", module.dli_fname,
                static_cast<size_t>(offset));
  unsetenv("LD_PRELOAD");  // it is meant for this process only
  FILE* const pipe = popen(command, "r");
  if (pipe == nullptr) return {};
  std::vector<Frame> frames;
  for (std::string function; !(function = ReadLine(pipe)).empty();) {
    std::string place = ReadLine(pipe);
    place.resize(std::min(place.size(), place.find(" (discriminator")));
    // Places are compiled in as relative to the project, by -ffile-prefix-map=...=. and addr2line puts the
    // compiler's folder before them.
    if (const size_t at = place.rfind("/./"); at != std::string::npos) place.erase(0, at + 3);
    frames.push_back({std::move(function), std::move(place)});
  }
  pclose(pipe);
  return frames;
}

bool IsWrapper(std::string_view place) {
  for (const std::string_view part : {"tests/simt/include/", "kernels/cuda/gpu.h", "/usr/", "?"}) {
    if (place.find(part) != std::string_view::npos) return true;
  }
  return false;
}

std::string Hex(const void* address) {
  char text[32];
  std::snprintf(text, sizeof(text), "%p", address);
  return text;
}

}  // namespace

std::string PlaceOf(const void* return_address) {
  if (return_address == nullptr) return "an unknown place";
  const void* const call = static_cast<const char*>(return_address) - 1;
  for (const Frame& frame : FramesOf(call)) {
    if (!IsWrapper(frame.place)) return frame.place;
  }
  Dl_info symbol;
  if (dladdr(call, &symbol) != 0 && symbol.dli_sname != nullptr) return symbol.dli_sname;
  return Hex(return_address);
}

std::string NameOf(const void* function) {
  const std::vector<Frame> frames = FramesOf(function);
  if (frames.empty()) return Hex(function);
  std::string name = frames.back().function;
  constexpr std::string_view kAnonymous = "(anonymous namespace)::";
  for (size_t at; (at = name.find(kAnonymous)) != std::string::npos;) name.erase(at, kAnonymous.size());
  name.resize(std::min(name.size(), name.find_first_of("<(")));
  const size_t space = name.rfind(' ');  // the return type of a template
  if (space != std::string::npos) name.erase(0, space + 1);
  const size_t scope = name.rfind("::");
  if (scope != std::string::npos) name.erase(0, scope + 2);
  return name;
}

void Fail(const std::string& what) {
  std::fflush(nullptr);
  std::fprintf(stderr, "simt: %s\n", what.c_str());
  std::fflush(stderr);
  _exit(86);
}

}  // namespace clamor::simt
