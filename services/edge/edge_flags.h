// Flags of the HTTP edge.
#pragma once

#include "CLI/CLI.hpp"
#include "services/edge/edge_options.h"

namespace clamor::edge {

// `app` and `options` must live until ParseFlags has returned.
void AddEdgeFlags(CLI::App& app, EdgeOptions& options);

}  // namespace clamor::edge
