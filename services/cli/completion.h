// What a shell needs to complete the words of `clamor`, from the flags that it parses.
//
// Tested by tests/services/cli/manual_test.py.
#pragma once

#include <string>

#include "CLI/CLI.hpp"

namespace clamor::cli {

// A script for bash: verbs, their flags, and the values of flags that take one of a few; where none of it
// fits, files.
std::string BashCompletion(const CLI::App& root);

}  // namespace clamor::cli
