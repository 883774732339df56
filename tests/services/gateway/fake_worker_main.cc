// A fake worker as a process of its own, to be killed: fake_worker PORT. Streams without end, a token every 5
// ms while the context has room.
#include <unistd.h>

#include <cstdlib>

#include "absl/time/clock.h"
#include "tests/services/gateway/fake_worker.h"

int main(int argc, char** argv) {
  using clamor::testing::FakeWorker;
  if (argc != 2) return 2;
  FakeWorker worker(
      std::atoi(argv[1]), "tiny",
      [](grpc::ServerContext& context, const FakeWorker::Request& request, FakeWorker::Writer& writer) {
        FakeWorker::WriteStarted(writer, request);
        const uint64_t room = clamor::testing::kContext - static_cast<uint64_t>(request.prompt_ids_size());
        for (uint64_t i = 0; !context.IsCancelled();) {
          if (i < room) FakeWorker::WriteDelta(writer, i++, 1, "x");
          absl::SleepFor(absl::Milliseconds(5));
        }
        return grpc::Status::OK;
      });
  pause();
}
