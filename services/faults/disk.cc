#include "services/faults/disk.h"

#include <memory>
#include <string>
#include <utility>

#include "rocksdb/file_system.h"
#include "services/faults/active.h"

namespace clamor::faults {
namespace {

using rocksdb::FSWritableFile;
using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;
using rocksdb::Slice;

class File final : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  using FSWritableFileOwnerWrapper::FSWritableFileOwnerWrapper;

  IOStatus Append(const Slice& data, const IOOptions& options, IODebugContext* context) override {
    if (IOStatus hit = Hit(data, options, context); !hit.ok()) return hit;
    return FSWritableFileOwnerWrapper::Append(data, options, context);
  }
  IOStatus Append(const Slice& data, const IOOptions& options,
                  const rocksdb::DataVerificationInfo& verification, IODebugContext* context) override {
    if (IOStatus hit = Hit(data, options, context); !hit.ok()) return hit;
    return FSWritableFileOwnerWrapper::Append(data, options, verification, context);
  }

 private:
  IOStatus Hit(const Slice& data, const IOOptions& options, IODebugContext* context) {
    const auto fault = Pass("disk");
    if (!fault) return IOStatus::OK();
    if (fault->kind() == v1::FAULT_KIND_FULL_DISK) return IOStatus::NoSpace("no space left, says a fault");
    if (fault->kind() == v1::FAULT_KIND_KILL) {
      const Slice half(data.data(), data.size() / 2);
      FSWritableFileOwnerWrapper::Append(half, options, context).PermitUncheckedError();
    }
    Suffer(*fault);
    return IOStatus::OK();
  }
};

class Files final : public rocksdb::FileSystemWrapper {
 public:
  using FileSystemWrapper::FileSystemWrapper;
  const char* Name() const override { return "FaultyFiles"; }

  IOStatus NewWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                           std::unique_ptr<FSWritableFile>* file, IODebugContext* context) override {
    return Wrapped(FileSystemWrapper::NewWritableFile(name, options, file, context), file);
  }
  IOStatus ReopenWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                              std::unique_ptr<FSWritableFile>* file, IODebugContext* context) override {
    return Wrapped(FileSystemWrapper::ReopenWritableFile(name, options, file, context), file);
  }
  IOStatus ReuseWritableFile(const std::string& name, const std::string& old_name,
                             const rocksdb::FileOptions& options, std::unique_ptr<FSWritableFile>* file,
                             IODebugContext* context) override {
    return Wrapped(FileSystemWrapper::ReuseWritableFile(name, old_name, options, file, context), file);
  }

 private:
  static IOStatus Wrapped(IOStatus opened, std::unique_ptr<FSWritableFile>* file) {
    if (opened.ok()) *file = std::make_unique<File>(std::move(*file));
    return opened;
  }
};

}  // namespace

rocksdb::Env* Disk() {
  static rocksdb::Env* const env =
      rocksdb::NewCompositeEnv(std::make_shared<Files>(rocksdb::FileSystem::Default())).release();
  return env;
}

}  // namespace clamor::faults
