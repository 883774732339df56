// Keeps gRPC until the process ends.
//
// It takes itself down with the last of its objects and up again with the next, and on the way down waits for
// a thread of its own: now and then for ten seconds, or for ever (gRPC 1.51, Executor::ShutdownAll). A server
// that was told to stop must not.
#pragma once

#include "grpc/grpc.h"

namespace clamor {

// To be called before anything of gRPC is made; more than once does no harm. From any thread.
inline void KeepGrpc() {
  [[maybe_unused]] static const bool kept = [] {
    grpc_init();  // and never grpc_shutdown()
    return true;
  }();
}

}  // namespace clamor
