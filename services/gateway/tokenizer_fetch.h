// Gets a worker's tokenizer over the network.
//
// Tested by tests/services/gateway/worker_channel_test.cc.
#pragma once

#include "absl/status/statusor.h"
#include "clamor/v1/worker.grpc.pb.h"
#include "grpcpp/client_context.h"
#include "model/tokenizer/tokenizer.h"

namespace clamor {

// Reads the stream of GetTokenizer to its end. DATA_LOSS names a file whose size or SHA-256 is not what was
// said, RESOURCE_EXHAUSTED one over 256 MiB.
absl::StatusOr<TokenizerFiles> FetchTokenizer(v1::WorkerService::StubInterface& worker,
                                              grpc::ClientContext* context);

}  // namespace clamor
