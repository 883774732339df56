#include "services/cli/answer_printer.h"

#include <algorithm>
#include <cstdio>

namespace clamor::cli {
namespace {

constexpr std::string_view kDrafted = "\033[32m", kPlain = "\033[0m";

}  // namespace

std::string AnswerPrinter::Render(const Delta& delta) {
  if (!show_drafts_) return delta.text;
  for (size_t i = 0; i < delta.text_bytes.size() && i < delta.sources.size(); ++i) {
    const bool drafted = delta.sources[i] != Source::kNone;
    if (runs_.empty() || runs_.back().drafted != drafted) runs_.push_back({0, drafted});
    runs_.back().bytes += delta.text_bytes[i];
  }
  std::string rendered;
  std::string_view rest = delta.text;
  while (!rest.empty() && !runs_.empty()) {
    Run& run = runs_.front();
    const std::string_view piece = rest.substr(0, run.bytes);
    const bool green = run.drafted && !piece.empty();
    if (green) rendered += kDrafted;
    rendered += piece;
    if (green) rendered += kPlain;
    rest.remove_prefix(piece.size());
    run.bytes -= piece.size();
    if (run.bytes == 0) runs_.pop_front();
  }
  rendered += rest;
  return rendered;
}

void AnswerPrinter::Print(const Delta& delta) {
  const std::string rendered = Render(delta);
  std::fwrite(rendered.data(), 1, rendered.size(), stdout);
  std::fflush(stdout);
}

}  // namespace clamor::cli
