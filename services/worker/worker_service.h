// The worker's RPC shell: turns messages into requests of the engine, and hands each stream its TokenStream.
//
// Threads: gRPC's; nothing here waits.
// Tested by tests/services/worker/worker_service_test.cc.
#pragma once

#include <atomic>
#include <functional>

#include "absl/status/statusor.h"
#include "clamor/v1/worker.grpc.pb.h"
#include "services/worker/request.h"
#include "services/worker/token_stream.h"
#include "services/worker/worker.h"

namespace clamor {

// What the message asks of a model with ids below `vocab_size`, in the engine's words; the only place that
// reads it. INVALID_ARGUMENT names the field. Whether prompt and answer fit the context is checked by
// Engine::Submit.
absl::StatusOr<Request> ParseRequest(const v1::WorkerServiceStreamGenerateRequest& message,
                                     int32_t vocab_size);

class WorkerService final : public v1::WorkerService::CallbackService {
 public:
  // `on_drain` is called when a client drains the worker after Serve; from any thread.
  explicit WorkerService(std::function<void()> on_drain, const TokenStreamOptions& streams = {});

  // From now on calls are answered (before: UNAVAILABLE). `worker` must outlive all calls.
  void Serve(Worker* worker);
  // Refuses new requests; what runs goes on.
  void StartDraining();
  bool draining() const { return draining_; }
  // Before a scrape.
  void UpdateMetrics() const;

  grpc::ServerWriteReactor<v1::WorkerServiceStreamGenerateResponse>* StreamGenerate(
      grpc::CallbackServerContext* context, const v1::WorkerServiceStreamGenerateRequest* message) override;
  grpc::ServerUnaryReactor* GetLoad(grpc::CallbackServerContext* context, const v1::GetLoadRequest* request,
                                    v1::GetLoadResponse* response) override;
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const v1::WorkerServiceGetModelInfoRequest* request,
                                         v1::WorkerServiceGetModelInfoResponse* response) override;
  grpc::ServerWriteReactor<v1::GetTokenizerResponse>* GetTokenizer(
      grpc::CallbackServerContext* context, const v1::GetTokenizerRequest* request) override;
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context, const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override;
  grpc::ServerUnaryReactor* DeleteTenant(grpc::CallbackServerContext* context,
                                         const v1::WorkerServiceDeleteTenantRequest* request,
                                         v1::WorkerServiceDeleteTenantResponse* response) override;

 private:
  const std::function<void()> on_drain_;
  const TokenStreamOptions streams_;
  std::atomic<Worker*> worker_ = nullptr;
  std::atomic<bool> draining_ = false;
};

}  // namespace clamor
