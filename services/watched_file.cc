#include "services/watched_file.h"

#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/log.h"

namespace clamor {
namespace {

constexpr size_t kMaxBytes = 4 << 20;

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::string content(kMaxBytes + 1, '\0');
  if (!in || (in.read(content.data(), static_cast<std::streamsize>(content.size())), in.bad())) {
    return absl::NotFoundError("cannot be read");
  }
  content.resize(static_cast<size_t>(in.gcount()));
  if (content.size() > kMaxBytes) {
    return absl::InvalidArgumentError(absl::StrCat("is over ", kMaxBytes, " bytes"));
  }
  return content;
}

}  // namespace

absl::StatusOr<std::unique_ptr<WatchedFile>> WatchedFile::Open(absl::string_view flag,
                                                               const std::string& path, Take take,
                                                               absl::Duration interval) {
  auto content = ReadFile(path);
  const absl::Status status = content.ok() ? take(*content) : content.status();
  if (!status.ok()) {
    return absl::Status(status.code(), absl::StrCat(flag, ": \"", path, "\" ", status.message()));
  }
  return std::unique_ptr<WatchedFile>(new WatchedFile(path, std::move(take), interval, *std::move(content)));
}

WatchedFile::WatchedFile(std::string path, Take take, absl::Duration interval, std::string content)
    : path_(std::move(path)),
      take_(std::move(take)),
      interval_(interval),
      content_(std::move(content)),
      thread_([this] { Watch(); }) {}

WatchedFile::~WatchedFile() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  thread_.join();
}

void WatchedFile::Watch() {
  std::string last_error;
  while (true) {
    {
      absl::MutexLock lock(&mu_);
      if (mu_.AwaitWithTimeout(absl::Condition(&stopping_), interval_)) return;
    }
    auto content = ReadFile(path_);
    absl::Status status = content.status();
    if (content.ok()) {
      if (*content == content_) continue;
      content_ = *std::move(content);
      status = take_(content_);
    }
    if (status.ok()) {
      spdlog::info("event=file_reloaded path={}", Quoted(path_));
      last_error.clear();
    } else if (std::string error(status.message()); std::exchange(last_error, error) != error) {
      spdlog::warn("event=file_not_taken path={} error={}", Quoted(path_), Quoted(error));
    }
  }
}

}  // namespace clamor
