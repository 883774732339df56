// The playground: one page with everything in it, made from the files of page/ at build time.
#pragma once

#include <string>

namespace clamor::edge {

struct Page {
  std::string open;             // HTML
  std::string with_key;         // the same, asking for an API key
  std::string security_policy;  // for both: nothing but what stands in the page may run, and only this server
                                // be asked
};

// Made when first asked for. Any thread.
const Page& ThePage();

}  // namespace clamor::edge
