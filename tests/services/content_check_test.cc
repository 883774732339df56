// Every field of every event shows in the checksum, as do order and number of events.
#include "services/content_check.h"

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "google/protobuf/message.h"
#include "gtest/gtest.h"

namespace clamor {
namespace {

using Event = v1::WorkerServiceStreamGenerateResponse;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// Changes `field`, which is no message, or adds a value to it.
void Change(Message& message, const FieldDescriptor* field) {
  const google::protobuf::Reflection& fields = *message.GetReflection();
  const bool many = field->is_repeated();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_UINT32:
      return many ? fields.AddUInt32(&message, field, 1)
                  : fields.SetUInt32(&message, field, fields.GetUInt32(message, field) + 1);
    case FieldDescriptor::CPPTYPE_UINT64:
      return many ? fields.AddUInt64(&message, field, 1)
                  : fields.SetUInt64(&message, field, fields.GetUInt64(message, field) + 1);
    case FieldDescriptor::CPPTYPE_ENUM:
      return many ? fields.AddEnumValue(&message, field, 1)
                  : fields.SetEnumValue(&message, field, fields.GetEnumValue(message, field) + 1);
    case FieldDescriptor::CPPTYPE_BOOL:
      return fields.SetBool(&message, field, !fields.GetBool(message, field));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return fields.SetFloat(&message, field, fields.GetFloat(message, field) + 1);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return fields.SetDouble(&message, field, fields.GetDouble(message, field) + 1);
    case FieldDescriptor::CPPTYPE_STRING:
      return fields.SetString(&message, field, fields.GetString(message, field) + std::string(1, '\0'));
    default:
      FAIL() << field->full_name() << " is of a type that this test does not know";
  }
}

// All fields of `message` and of those within it.
void ForEachField(Message& message, const std::function<void(Message&, const FieldDescriptor*)>& visit) {
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = message.GetDescriptor()->field(i);
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      visit(message, field);
    } else if (field->is_repeated()) {
      ForEachField(*message.GetReflection()->AddMessage(&message, field), visit);
    } else {
      ForEachField(*message.GetReflection()->MutableMessage(&message, field), visit);
    }
  }
}

uint64_t SumOf(const std::vector<Event>& events) {
  ContentCheck check;
  uint64_t sum = 0;
  for (const Event& event : events) sum = check.Add(event);
  return sum;
}

TEST(ContentCheckTest, EveryFieldShows) {
  for (const auto& part :
       std::vector<std::function<Message*(Event&)>>{[](Event& event) { return event.mutable_started(); },
                                                    [](Event& event) { return event.mutable_delta(); },
                                                    [](Event& event) { return event.mutable_finished(); }}) {
    Event event;
    std::set<uint64_t> sums;
    ForEachField(*part(event), [&](Message& message, const FieldDescriptor* field) {
      for (int changes = 0; changes < (field->is_repeated() ? 2 : 1); ++changes) {
        sums.insert(SumOf({event}));
        Change(message, field);
        EXPECT_TRUE(sums.insert(SumOf({event})).second) << field->full_name();
      }
    });
    EXPECT_GT(sums.size(), 5u);
  }
}

TEST(ContentCheckTest, EveryBitOfATextShows) {
  const std::string text = "a text of some length, longer than a word";
  Event event;
  event.mutable_delta()->set_text(text);
  std::set<uint64_t> sums = {SumOf({event})};
  for (size_t bit = 0; bit < 8 * text.size(); ++bit) {
    std::string damaged = text;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ 1 << bit % 8);
    event.mutable_delta()->set_text(damaged);
    EXPECT_TRUE(sums.insert(SumOf({event})).second) << "bit " << bit;
  }
}

TEST(ContentCheckTest, OrderAndNumberShow) {
  Event a, b;
  a.mutable_delta()->add_token_ids(5);
  b.mutable_delta()->add_token_ids(6);
  std::set<uint64_t> sums;
  for (const auto& events : std::vector<std::vector<Event>>{{a}, {b}, {a, b}, {b, a}, {a, a}, {a, b, b}})
    EXPECT_TRUE(sums.insert(SumOf(events)).second);
}

}  // namespace
}  // namespace clamor
