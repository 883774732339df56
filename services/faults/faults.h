// Things that go wrong on demand, for tests of whole processes: proto/clamor/v1/faults.proto says what and
// where. Set by
// --faults (text of a SetFaultsRequest) or by the RPC, at any time.
//
// Only in builds with CLAMOR_FAULTS=ON, which nobody else should run: whoever reaches a server's port may
// break it. In all others the hooks below are empty and of this folder nothing is compiled.
//
// Threads: all functions, any thread. Tested by tests/integration/faults_test.py.
#pragma once

#include <memory>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace CLI {
class App;
}
namespace grpc {
class ServerBuilder;
namespace experimental {
class ServerInterceptorFactoryInterface;
}
}  // namespace grpc

namespace clamor::faults {

using Interceptors = std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>>;

#ifdef CLAMOR_FAULTS

// --faults.
void AddFlag(CLI::App& app);
// The RPC, and what happens to messages of others.
void AddTo(grpc::ServerBuilder& builder, Interceptors& interceptors);
// After a step of the engine, on its thread.
void Step();
// What decides whether something has expired.
absl::Time Now();

#else

inline void AddFlag(CLI::App&) {}
inline void AddTo(grpc::ServerBuilder&, Interceptors&) {}
inline void Step() {}
inline absl::Time Now() { return absl::Now(); }

#endif

}  // namespace clamor::faults
