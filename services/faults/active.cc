#include "services/faults/active.h"

#include <signal.h>

#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "google/protobuf/text_format.h"
#include "services/faults/faults.h"
#include "services/log.h"

namespace clamor::faults {
namespace {

constexpr absl::Duration kLongestHang = absl::Minutes(10);

struct Counts {
  uint64_t passes = 0, hits = 0;
};

struct Active {
  absl::Mutex mu;
  v1::SetFaultsRequest set ABSL_GUARDED_BY(mu);
  std::vector<Counts> counts ABSL_GUARDED_BY(mu);  // of each fault
  uint64_t generation ABSL_GUARDED_BY(mu) = 0;     // how often they were set
};

Active& TheActive() {
  static Active* const active = new Active;  // never destroyed: threads that hang may outlive main
  return *active;
}

}  // namespace

v1::SetFaultsResponse Set(v1::SetFaultsRequest faults) {
  Active& active = TheActive();
  v1::SetFaultsResponse before;
  absl::MutexLock lock(&active.mu);
  for (const Counts& counts : active.counts) before.add_hits(counts.hits);
  active.counts.assign(faults.faults_size(), {});
  active.set = std::move(faults);
  ++active.generation;
  spdlog::warn("event=faults set={}", active.set.faults_size());
  return before;
}

std::string SetText(const std::string& text) {
  v1::SetFaultsRequest faults;
  if (!google::protobuf::TextFormat::ParseFromString(text, &faults))
    return absl::StrCat("\"", text, "\" is not the text of a clamor.v1.SetFaultsRequest");
  Set(std::move(faults));
  return "";
}

std::optional<v1::Fault> Pass(std::string_view place) {
  Active& active = TheActive();
  absl::MutexLock lock(&active.mu);
  for (int i = 0; i < active.set.faults_size(); ++i) {
    const v1::Fault& fault = active.set.faults(i);
    Counts& counts = active.counts[i];
    if (fault.place().empty() || !place.ends_with(fault.place()) || ++counts.passes <= fault.after() ||
        (fault.times() > 0 && counts.hits == fault.times())) {
      continue;
    }
    ++counts.hits;
    return fault;
  }
  return std::nullopt;
}

void Suffer(const v1::Fault& fault) {
  if (fault.kind() == v1::FAULT_KIND_KILL) raise(SIGKILL);
  if (fault.kind() == v1::FAULT_KIND_SLOW) absl::SleepFor(absl::Seconds(fault.seconds()));
  if (fault.kind() != v1::FAULT_KIND_HANG) return;
  Active& active = TheActive();
  absl::MutexLock lock(&active.mu);
  const auto others = [&active, generation = active.generation]()
                          ABSL_NO_THREAD_SAFETY_ANALYSIS { return active.generation != generation; };
  active.mu.AwaitWithTimeout(absl::Condition(&others), kLongestHang);
}

void Step() {
  if (const auto fault = Pass("step")) Suffer(*fault);
}

absl::Time Now() {
  Active& active = TheActive();
  absl::Time now = absl::Now();
  absl::MutexLock lock(&active.mu);
  for (const v1::Fault& fault : active.set.faults()) {
    if (fault.kind() == v1::FAULT_KIND_CLOCK_SKEW) now += absl::Seconds(fault.seconds());
  }
  return now;
}

}  // namespace clamor::faults
