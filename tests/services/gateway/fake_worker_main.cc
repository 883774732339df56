// A fake worker as a process of its own, to be killed: fake_worker PORT. Streams without end, a token every 5
// ms.
#include <unistd.h>

#include <cstdlib>

#include "absl/time/clock.h"
#include "tests/services/gateway/fake_worker.h"

int main(int argc, char** argv) {
  using clamor::testing::FakeWorker;
  if (argc != 2) return 2;
  FakeWorker worker(std::atoi(argv[1]), "tiny",
                    [](grpc::ServerContext&, const FakeWorker::Request& request, FakeWorker::Writer& writer) {
                      FakeWorker::WriteStarted(writer, request);
                      for (uint64_t i = 0; FakeWorker::WriteDelta(writer, i, 1, "x"); ++i) {
                        absl::SleepFor(absl::Milliseconds(5));
                      }
                      return grpc::Status::OK;
                    });
  pause();
}
