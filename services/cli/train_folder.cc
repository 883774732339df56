#include "services/cli/train_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/status_macros.h"
#include "model/atomic_file.h"
#include "model/checked_json.h"
#include "model/mapped_file.h"

namespace clamor::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr uint64_t kMaxIdentityBytes = 1 << 20;

// Whether `folder` is not there, or holds at most `name`.
bool HoldsOnly(const fs::path& folder, const char* name) {
  std::error_code error;
  if (!fs::exists(folder, error)) return true;
  const fs::directory_iterator entries(folder, error);
  return !error && std::all_of(begin(entries), end(entries),
                               [&](const auto& e) { return e.path().filename() == name; });
}

absl::Status Copy(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::copy_file(from, to, fs::copy_options::overwrite_existing, error);
  if (!error) return absl::OkStatus();
  return absl::ErrnoToStatus(error.value(), absl::StrCat(from.string(), ": cannot copy to ", to.string()));
}

absl::Status CopyIfThere(const fs::path& from, const fs::path& to) {
  std::error_code error;
  return fs::exists(from, error) ? Copy(from, to) : absl::OkStatus();
}

}  // namespace

RunFolder::~RunFolder() {
  if (lock_ >= 0) close(lock_);
}

bool RunFolder::InUse() const {
  return !HoldsOnly(path_, "checkpoints") || !HoldsOnly(checkpoints(), "source");
}

absl::Status RunFolder::Open(bool resume) {
  std::error_code error;
  const bool is_run = fs::exists(identity_path(), error);
  if (InUse() && !(resume && is_run)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "--output ", path_, " is not empty; ",
        is_run ? "--resume goes on with the run in it" : "it holds no run, so choose another folder"));
  }
  fs::create_directories(checkpoints(), error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("--output ", path_, ": cannot create"));
  lock_ = open(checkpoints().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (lock_ < 0) return absl::ErrnoToStatus(errno, absl::StrCat("--output ", path_, ": cannot open"));
  // Where a file system has no locks, we go on without.
  if (flock(lock_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
    return absl::AbortedError(absl::StrCat("--output ", path_, ": another process is training in it"));
  return absl::OkStatus();
}

absl::Status RunFolder::AssembleSource(const std::string& config, const std::string& tokenizer) {
  const fs::path to = source();
  std::error_code error;
  fs::create_directories(to, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat(to.string(), ": cannot create"));
  CLAMOR_RETURN_IF_ERROR(Copy(config, to / "config.json"));
  CLAMOR_RETURN_IF_ERROR(Copy(tokenizer, to / "tokenizer.json"));
  for (const char* name : {"tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"}) {
    CLAMOR_RETURN_IF_ERROR(CopyIfThere(fs::path(tokenizer).parent_path() / name, to / name));
  }
  constexpr const char* kDefaults = "generation_config.json";
  return CopyIfThere(fs::path(config).parent_path() / kDefaults, to / kDefaults);
}

absl::Status RunFolder::Identify(const json& identity) {
  const absl::StatusOr<MappedFile> file = MappedFile::Open(identity_path(), kMaxIdentityBytes);
  if (absl::IsNotFound(file.status())) {
    return WriteFileAtomically(identity_path(), absl::StrCat(identity.dump(2), "\n"));
  }
  if (!file.ok()) return file.status();
  CLAMOR_ASSIGN_OR_RETURN(const json begun, ParseJson(file->bytes(), identity_path()));
  std::vector<std::string> differences;
  for (const auto& [name, value] : identity.items()) {
    const json before = begun.is_object() ? begun.value(name, json()) : json();
    if (before != value)
      differences.push_back(absl::StrCat(name, " is ", Quote(value), ", was ", Quote(before)));
  }
  if (!differences.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("--resume: the run in ", path_, " began otherwise: ", absl::StrJoin(differences, "; ")));
  }
  return absl::OkStatus();
}

}  // namespace clamor::cli
