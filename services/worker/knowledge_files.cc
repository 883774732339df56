#include "services/worker/knowledge_files.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/atomic_file.h"
#include "model/mapped_file.h"
#include "model/spec/knowledge_file.h"

namespace clamor {
namespace {

constexpr char kSuffix[] = ".knowledge";

// The same, with the file's name.
absl::Status At(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

}  // namespace

KnowledgeFiles::KnowledgeFiles(KnowledgeFilesOptions options, Warn warn)
    : options_(std::move(options)), warn_(std::move(warn)) {
  std::error_code error;
  std::filesystem::create_directories(options_.folder, error);
  if (error) warn_(absl::ErrnoToStatus(error.value(), absl::StrCat(options_.folder, ": cannot be made")));
  thread_ = std::thread([this] { Loop(); });
}

KnowledgeFiles::~KnowledgeFiles() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  thread_.join();
}

// A tenant's name is one of a folder's files whatever it says: those with a slash have none.
std::string KnowledgeFiles::PathOf(const std::string& tenant) const {
  const bool plain = std::all_of(tenant.begin(), tenant.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
  });
  return plain && tenant.size() <= 128 ? absl::StrCat(options_.folder, "/", tenant, kSuffix) : "";
}

std::unique_ptr<DraftKnowledge> KnowledgeFiles::Read(const std::string& tenant) const {
  if (const auto waiting = Waiting(tenant)) return std::make_unique<DraftKnowledge>(*waiting);
  const std::string path = PathOf(tenant);
  if (path.empty()) return nullptr;
  const auto file = MappedFile::Open(path, KnowledgeFileBytes(static_cast<size_t>(options_.vocab_size)));
  if (!file.ok()) {
    if (!absl::IsNotFound(file.status())) warn_(file.status());
    return nullptr;
  }
  auto knowledge = DecodeKnowledge(file->bytes(), options_.vocab_size, options_.tokenizer_fingerprint);
  if (!knowledge.ok()) {
    warn_(At(path, knowledge.status()));
    return nullptr;
  }
  return std::make_unique<DraftKnowledge>(*std::move(knowledge));
}

std::shared_ptr<const DraftKnowledge> KnowledgeFiles::Waiting(const std::string& tenant) const {
  absl::ReaderMutexLock lock(&mu_);
  const auto newest = std::find_if(queue_.rbegin(), queue_.rend(),
                                   [&tenant](const Entry& entry) { return entry.tenant == tenant; });
  return newest == queue_.rend() ? nullptr : newest->snapshot;
}

bool KnowledgeFiles::Write(const std::string& tenant, std::shared_ptr<const DraftKnowledge> snapshot,
                           absl::Time deadline) {
  if (PathOf(tenant).empty()) return false;
  absl::MutexLock lock(&mu_);
  const auto waiting = std::find_if(queue_.begin() + (writing_ ? 1 : 0), queue_.end(),
                                    [&tenant](const Entry& entry) { return entry.tenant == tenant; });
  if (waiting != queue_.end()) {
    waiting->snapshot = std::move(snapshot);
    return true;
  }
  if (!mu_.AwaitWithDeadline(absl::Condition(this, &KnowledgeFiles::HasPlace), deadline)) return false;
  queue_.push_back({tenant, std::move(snapshot)});
  return true;
}

void KnowledgeFiles::Remove(const std::string& tenant) {
  const std::string path = PathOf(tenant);
  if (path.empty()) return;
  absl::MutexLock lock(&mu_, absl::Condition(this, &KnowledgeFiles::IsNotWriting));
  std::erase_if(queue_, [&tenant](const Entry& entry) { return entry.tenant == tenant; });
  std::error_code error;
  std::filesystem::remove(path, error);
  std::filesystem::remove(absl::StrCat(path, ".partial"), error);
}

bool KnowledgeFiles::Idle() const {
  absl::ReaderMutexLock lock(&mu_);
  return IsIdle();
}

bool KnowledgeFiles::Flush(absl::Time deadline) {
  absl::MutexLock lock(&mu_);
  return mu_.AwaitWithDeadline(absl::Condition(this, &KnowledgeFiles::IsIdle), deadline);
}

void KnowledgeFiles::Loop() {
  absl::MutexLock lock(&mu_);
  for (;;) {
    mu_.Await(absl::Condition(this, &KnowledgeFiles::HasWork));
    if (stopping_) return;
    writing_ = true;
    const Entry entry = queue_.front();
    mu_.Unlock();
    if (absl::Status saved = Save(entry); !saved.ok()) warn_(saved);
    mu_.Lock();
    queue_.pop_front();
    writing_ = false;
  }
}

absl::Status KnowledgeFiles::Save(const Entry& entry) const {
  const std::string path = PathOf(entry.tenant);
  std::error_code error;
  const bool known = std::filesystem::exists(path, error);
  CLAMOR_RETURN_IF_ERROR(WriteFileAtomically(
      path, EncodeKnowledge(*entry.snapshot, options_.vocab_size, options_.tokenizer_fingerprint)));
  if (!known) RemoveOldest();
  return absl::OkStatus();
}

// Tenants may come without end; their files do not. Also what a killed writer left of a file counts as one.
void KnowledgeFiles::RemoveOldest() const {
  std::vector<std::pair<std::filesystem::file_time_type, std::filesystem::path>> files;
  std::error_code error;
  for (std::filesystem::directory_iterator it(options_.folder, error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (!absl::EndsWith(name, kSuffix) && !absl::EndsWith(name, absl::StrCat(kSuffix, ".partial"))) continue;
    std::error_code gone;
    const auto written = it->last_write_time(gone);
    if (!gone) files.emplace_back(written, it->path());
  }
  if (files.size() <= kFiles) return;
  std::sort(files.begin(), files.end());
  for (size_t i = 0; i + kFiles < files.size(); ++i) std::filesystem::remove(files[i].second, error);
}

}  // namespace clamor
