// The manual page of a program or of one of its verbs, from the flags that it parses: what the page says
// cannot go stale.
//
// Tested by tests/services/cli/manual_test.py.
#pragma once

#include <string>

#include "CLI/CLI.hpp"

namespace clamor {

// In roff, section 1. Verbs of `app`, if it has any, are named with the pages that they have of their own:
// "clamor-chat" for `clamor chat`.
std::string ManPage(const CLI::App& app);

}  // namespace clamor
