// A checksum over what a worker streams, so that nobody gets an answer that was damaged on its way to the
// gateway. It goes on from event to event: one that is missing or comes twice shows as well. Against damage
// and mix-ups; who means harm is kept out by TLS.
//
// Worker and gateway each have one a stream. Which fields it covers is a part of the protocol, and these are
// all of today: one that comes later must stay out, or servers of different versions would not agree. Tested
// by tests/services/content_check_test.cc.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

#include "clamor/v1/worker.pb.h"

namespace clamor {

class ContentCheck {
 public:
  // The checksum with one more event.
  uint64_t Add(const v1::WorkerServiceStreamGenerateResponse& event);

 private:
  void Mix(const v1::Started& started);
  void Mix(const v1::Delta& delta);
  void Mix(const v1::Finished& finished);
  void Mix(std::initializer_list<uint64_t> words);
  void Mix(const std::string& bytes);
  template <class Number>
  void Mix(const google::protobuf::RepeatedField<Number>& numbers) {
    Mix({static_cast<uint64_t>(numbers.size())});
    for (const Number number : numbers) Mix({static_cast<uint64_t>(number)});
  }

  uint64_t sum_ = 0;
};

}  // namespace clamor
