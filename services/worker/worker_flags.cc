#include "services/worker/worker_flags.h"

#include <cstdio>

#include "absl/strings/numbers.h"
#include "services/flags.h"

namespace clamor {

std::optional<int> ParseWorkerFlags(int argc, char** argv, WorkerFlags& flags) {
  CLI::App app("Decodes for a gateway: one model, many requests at once.", flags.server.name);
  AddServerFlags(app, flags.server);
  WorkerOptions& worker = flags.worker;
  std::string nodes = "auto", retrieval;
  double lookup_milliseconds = absl::ToDoubleMilliseconds(worker.lookup_timeout);
  bool no_store = false;

  app.add_option("--model", worker.model.directory, "Hugging Face model directory")
      ->required()
      ->group("Model");
  app.add_option("--name", worker.name, "What clients call the model; the directory's name if not given")
      ->group("Model");
  app.add_option("--weights", worker.model.weights,
                 "How matrices are held: stored, fp32, bf16, fp16, int8 or int4")
      ->capture_default_str()
      ->group("Model");
  app.add_option(
         "--packed-weights", worker.model.packed_weights,
         "File of weights as --weights holds them: read if it is there, else written for the next start")
      ->group("Model");
  app.add_option("--numerics", worker.model.numerics,
                 "On GPUs: exact, where no answer depends on what else a step holds, or fast")
      ->capture_default_str()
      ->group("Model");
  app.add_option("--gpus", worker.model.gpus, "GPUs that share the model")
      ->check(CLI::Range(1, 64))
      ->capture_default_str()
      ->group("Model");
  app.add_option(
         "--shards", worker.model.shards,
         "Parts that a model on GPUs is cut into, a multiple of --gpus: workers with equal ones give equal "
         "answers; 0: one to a GPU")
      ->check(CLI::Range(0, 64))
      ->group("Model");
  app.add_option("--kv", worker.model.kv, "How keys and values are held: fp32, bf16 or int8; on a GPU bf16")
      ->capture_default_str()
      ->group("Model");
  app.add_option("--device", worker.model.device,
                 "Where the model runs: cpu, cuda, or auto: a GPU if one can be used")
      ->capture_default_str()
      ->group("Model");
  app.add_option("--threads", worker.model.threads, "Threads of the forward pass; 0: one per physical core")
      ->check(CLI::Range(0, 1024))
      ->group("Model");
  app.add_option("--context", worker.model.context, "Cap on prompt and answer together; 0: the model's own")
      ->check(CLI::NonNegativeNumber)
      ->group("Model");

  app.add_option("--kv-tokens", worker.engine.kv_tokens,
                 "Room of the key/value cache; 0: a whole context, at least 32768; on a GPU what fits")
      ->check(CLI::NonNegativeNumber)
      ->group("Batching");
  app.add_option("--max-sequences", worker.engine.max_sequences, "Requests decoded at once")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str()
      ->group("Batching");
  app.add_option("--max-waiting", worker.engine.max_waiting, "Requests queued; one more is refused")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str()
      ->group("Batching");
  app.add_option("--prefill-chunk", worker.engine.prefill_chunk, "Prompt tokens per step, over all requests")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str()
      ->group("Batching");

  app.add_option("--nodes", nodes, "Draft nodes per step where a request leaves it open: auto or a number")
      ->check([](const std::string& value) {
        int32_t number = 0;
        const bool valid = value == "auto" || (absl::SimpleAtoi(value, &number) && number >= 0 &&
                                               number <= SpeculationOptions::kMaxNodes);
        return valid ? std::string() : "'" + value + "' is neither auto nor from 0 to 128";
      })
      ->capture_default_str()
      ->group("Speculation");
  app.add_option(
         "--retrieval", retrieval,
         "HOST:PORT of the shared store, or several with commas, in an order that stays: each keeps some "
         "tenants; after | comes a server that follows it")
      ->check([](const std::string& value) {
        return std::string(ParseRetrievalShards(value).status().message());
      })
      ->group("Speculation");
  app.add_option("--lookup-timeout", lookup_milliseconds, "Milliseconds after which a lookup is given up")
      ->check(CLI::Range(1.0, 10000.0))
      ->capture_default_str()
      ->group("Speculation");
  app.add_option("--shared-tenant", worker.engine.shared_tenant,
                 "Whose documents in the store serve every request that asks for shared drafts")
      ->group("Speculation");
  app.add_flag("--no-store", no_store, "Add no finished answers to the shared store")->group("Speculation");
  app.add_option("--state", worker.state,
                 "Folder that keeps what drafting learns over a restart; nothing is kept without")
      ->group("Speculation");

  if (const std::optional<int> done = ParseFlags(app, argc, argv)) return done;
  if (nodes == "auto" || !absl::SimpleAtoi(nodes, &worker.engine.default_nodes)) {
    worker.engine.default_nodes = SpeculationOptions::kAuto;
  }
  if (!retrieval.empty()) worker.retrieval = *ParseRetrievalShards(retrieval);  // it was checked
  worker.lookup_timeout = absl::Milliseconds(lookup_milliseconds);
  worker.store = !no_store;
  worker.tls = flags.server.tls;
  return std::nullopt;
}

}  // namespace clamor
