// A checksum over what a worker streams, so that nobody gets an answer that was damaged on its way to the
// gateway. It goes on from event to event: one that is missing or comes twice shows as well. Against damage
// and mix-ups; who means harm is kept out by TLS.
//
// Worker and gateway each have one a stream. Fields that neither text nor ids depend on (timings, traces) are
// left out, so that servers of different versions agree. Tested by tests/services/content_check_test.cc.
#pragma once

#include <cstdint>
#include <string>

#include "clamor/v1/worker.pb.h"

namespace clamor {

class ContentCheck {
 public:
  // The checksum with one more event.
  uint64_t Add(const v1::WorkerServiceStreamGenerateResponse& event);

 private:
  void Mix(uint64_t word);
  void Mix(const std::string& bytes);
  void Mix(float number);
  void Mix(const v1::Delta& delta);

  uint64_t sum_ = 0;
};

}  // namespace clamor
