#include "services/cli/bench_sessions.h"

#include <chrono>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/status_macros.h"
#include "services/cli/connection.h"

namespace clamor::cli {
namespace {

constexpr std::chrono::seconds kTimeout{10};

// What a call of SessionService needs while it is under way.
template <class Request, class Response>
struct Call {
  Call() { context.set_deadline(std::chrono::system_clock::now() + kTimeout); }
  grpc::ClientContext context;
  Request request;
  Response response;
};
using CreateCall = Call<v1::CreateSessionRequest, v1::CreateSessionResponse>;
using DeleteCall = Call<v1::DeleteSessionRequest, v1::DeleteSessionResponse>;

}  // namespace

LoadSessions::LoadSessions(std::shared_ptr<grpc::Channel> channel, int32_t turns)
    : stub_(v1::SessionService::NewStub(std::move(channel))),
      turns_(turns),
      prefix_(absl::StrFormat("bench-%08x", std::random_device()())) {}

absl::StatusOr<std::unique_ptr<LoadSessions>> LoadSessions::Create(std::shared_ptr<grpc::Channel> channel,
                                                                   int32_t sessions, int32_t turns) {
  std::unique_ptr<LoadSessions> made(new LoadSessions(std::move(channel), turns));
  for (int32_t i = 0; i < sessions; ++i) CLAMOR_RETURN_IF_ERROR(made->CreateOne());
  return made;
}

LoadSessions::~LoadSessions() {
  std::map<std::string, int32_t> left;
  {
    const auto quiet = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return replacing_ == 0; };
    absl::MutexLock lock(&mu_, absl::Condition(&quiet));
    left.swap(turns_of_);
  }
  for (const auto& [name, turns] : left) {
    DeleteCall call;
    call.request.set_name(name);
    if (!stub_->DeleteSession(&call.context, call.request, &call.response).ok()) return;
  }
}

absl::Status LoadSessions::CreateOne() {
  CreateCall call;
  absl::MutexLock lock(&mu_);
  call.request.set_name(absl::StrCat(prefix_, "-", made_++));
  CLAMOR_RETURN_IF_ERROR(ServerStatus(stub_->CreateSession(&call.context, call.request, &call.response)));
  turns_of_.emplace(call.request.name(), 0);
  free_.push_back(call.request.name());
  return absl::OkStatus();
}

std::optional<std::string> LoadSessions::Take() {
  absl::MutexLock lock(&mu_);
  if (free_.empty()) return std::nullopt;
  std::string name = std::move(free_.front());
  free_.pop_front();
  ++taken_;
  return name;
}

void LoadSessions::Return(const std::string& name, bool good) {
  {
    absl::MutexLock lock(&mu_);
    if (good && ++turns_of_[name] < turns_) return free_.push_back(name);
    turns_of_.erase(name);
    ++replacing_;
  }
  Replace(name);
}

// Nothing waits: the old one goes, then the new one comes, each in its own time.
void LoadSessions::Replace(const std::string& name) {
  auto gone = std::make_shared<DeleteCall>();
  gone->request.set_name(name);
  stub_->async()->DeleteSession(&gone->context, &gone->request, &gone->response, [this, gone](grpc::Status) {
    auto made = std::make_shared<CreateCall>();
    {
      absl::MutexLock lock(&mu_);
      made->request.set_name(absl::StrCat(prefix_, "-", made_++));
    }
    stub_->async()->CreateSession(&made->context, &made->request, &made->response,
                                  [this, made](const grpc::Status& status) {
                                    absl::MutexLock lock(&mu_);
                                    if (status.ok()) {
                                      turns_of_.emplace(made->request.name(), 0);
                                      free_.push_back(made->request.name());
                                    }
                                    --replacing_;
                                  });
  });
}

int64_t LoadSessions::turns_taken() const {
  absl::MutexLock lock(&mu_);
  return taken_;
}

}  // namespace clamor::cli
