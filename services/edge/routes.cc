#include "services/edge/routes.h"

#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "services/edge/openai_answer.h"
#include "services/edge/openai_call.h"
#include "services/edge/page.h"
#include "services/rpc_error.h"

namespace clamor::edge {
namespace {

constexpr absl::string_view kModels = "/v1/models";

std::string Shown(absl::string_view path) { return absl::CHexEscape(path.substr(0, 100)); }

void SendModels(GenerationCore* core, const HttpRequest& request, HttpReply& reply, absl::Time started) {
  const bool list = request.path == kModels;
  const absl::StatusOr<std::string> tenant =
      core->Identify(request.sender, list ? "ListModels" : "GetModelInfo");
  if (!tenant.ok()) return SendError(reply, tenant.status());
  const v1::ListModelsResponse models = core->ListModels();
  const HttpReply::Head head = {.content_type = "application/json"};
  if (list) return reply.Send(head, ModelList(models, started));
  const absl::string_view name = absl::string_view(request.path).substr(kModels.size() + 1);
  for (const v1::ModelInfo& model : models.models()) {
    if (model.name() == name) return reply.Send(head, ModelObject(model, started));
  }
  SendError(reply, Refusal("MODEL_NOT_FOUND", absl::StrCat("no model is called \"", Shown(name), "\"")));
}

// What balancers and load generators ask first: whether a request could be answered. Tells nothing else, so
// nobody needs a key for it.
void SendHealth(GenerationCore& core, HttpReply& reply) {
  if (core.ListModels().models().empty()) {
    return SendError(reply, Refusal("NO_WORKER", "no worker of any model is ready"));
  }
  reply.Send({.content_type = "application/json"}, R"({"status":"ok"})");
}

void SendPage(const GenerationCore& core, HttpReply& reply) {
  const Page& page = ThePage();
  reply.Send({.content_type = "text/html; charset=utf-8",
              .fields = {{"Content-Security-Policy", page.security_policy},
                         {"Referrer-Policy", "no-referrer"},
                         {"Cache-Control", "no-cache"}}},
             core.authenticates() ? page.with_key : page.open);
}

}  // namespace

HttpHandler Routes(GenerationCore* core, const RouteOptions& options) {
  return
      [core, options](HttpRequest request, std::shared_ptr<HttpReply> reply) -> std::shared_ptr<RunningCall> {
        const std::string& path = request.path;
        const bool reads = request.method == "GET" || request.method == "HEAD";
        const auto refuse_method = [&](const char* allowed) {
          SendError(*reply, Refusal("METHOD_NOT_ALLOWED", absl::StrCat(Shown(request.method), " of ", path,
                                                                       " has no meaning, use ", allowed)));
          return nullptr;
        };
        if (path == "/v1/chat/completions" || path == "/v1/completions") {
          if (request.method != "POST") return refuse_method("POST");
          const ApiKind kind = path == "/v1/completions" ? ApiKind::kCompletion : ApiKind::kChat;
          return OpenAiCall::Begin(core, kind, request, std::move(reply),
                                   {options.max_pending_bytes, options.pad_bytes});
        }
        if (path == kModels || absl::StartsWith(path, absl::StrCat(kModels, "/"))) {
          if (!reads) return refuse_method("GET");
          SendModels(core, request, *reply, options.started);
        } else if (path == "/health") {
          if (!reads) return refuse_method("GET");
          SendHealth(*core, *reply);
        } else if (path == "/" && options.page) {
          if (!reads) return refuse_method("GET");
          SendPage(*core, *reply);
        } else {
          SendError(*reply, Refusal("UNKNOWN_URL", absl::StrCat("there is nothing at ", Shown(path))));
        }
        return nullptr;
      };
}

}  // namespace clamor::edge
