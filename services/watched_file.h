// A small file of settings that takes effect when it changes: no restart, no signal.
//
// A thread of its own reads the file every `interval` and hands on what is new; content decides, not times,
// so that a Kubernetes Secret (links that are swapped) works like an editor.
// Tested by tests/services/watched_file_test.cc.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace clamor {

class WatchedFile {
 public:
  // `take` gets the whole content: once before Open returns, then on the file's thread after each change.
  // What it refuses later is logged and forgotten: the last good content stays in force.
  using Take = std::function<absl::Status(absl::string_view content)>;

  // An error names `flag` and `path`: a file that cannot be read, is over 4 MiB, or that `take` refuses.
  static absl::StatusOr<std::unique_ptr<WatchedFile>> Open(absl::string_view flag, const std::string& path,
                                                           Take take,
                                                           absl::Duration interval = absl::Seconds(1));
  ~WatchedFile();

 private:
  WatchedFile(std::string path, Take take, absl::Duration interval, std::string content);
  void Watch();

  const std::string path_;
  const Take take_;
  const absl::Duration interval_;
  std::string content_;  // as last read; the thread's

  absl::Mutex mu_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace clamor
