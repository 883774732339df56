// Flags of the servers: from the command line, else from the file of --config (lines `flag=value`), else from
// the environment as CLAMOR_<FLAG> (CLAMOR_PORT_FILE for --port-file).
//
// Tested by tests/services/flags_test.cc.
#pragma once

#include <optional>

#include "CLI/CLI.hpp"
#include "services/server.h"

namespace clamor {

// Adds the flags that all servers share. `app` and `options` must live until ParseFlags has returned.
void AddServerFlags(CLI::App& app, ServerOptions& options);

// --tls-ca, --tls-cert and --tls-key, for a server --tls-client-ca too.
enum class TlsSide { kClient, kServer };
void AddTlsFlags(CLI::App& app, TlsSide side, TlsOptions& tls);

// Parses all flags of `app`. An exit status if the program has nothing more to do: 0 after --help and
// --version, 2 after one line on stderr that names the wrong flag.
std::optional<int> ParseFlags(CLI::App& app, int argc, char** argv);

}  // namespace clamor
