// The disk that RocksDB writes to, which may be full or torn on demand; see faults.h.
// Tested by tests/integration/faults_test.py.
#pragma once

#include "rocksdb/env.h"

namespace clamor::faults {

// Lives for ever.
#ifdef CLAMOR_FAULTS
rocksdb::Env* Disk();
#else
inline rocksdb::Env* Disk() { return rocksdb::Env::Default(); }
#endif

}  // namespace clamor::faults
