// The files of page/ as the build put them into the binary (embed.cmake).
#pragma once

namespace clamor::edge {

extern const char kPageHtml[];
extern const char kPageCss[];
extern const char kPageScript[];

}  // namespace clamor::edge
