#include "services/edge/http_reply.h"

#include "absl/strings/str_cat.h"
#include "services/edge/api_error.h"

namespace clamor::edge {

void SendError(HttpReply& reply, const absl::Status& status) {
  const ApiError error = ToApiError(status);
  HttpReply::Head head = {.status = error.http_status, .content_type = "application/json"};
  if (error.retry_after > absl::ZeroDuration()) {
    const int64_t seconds = absl::ToInt64Seconds(absl::Ceil(error.retry_after, absl::Seconds(1)));
    head.fields.emplace_back("Retry-After", absl::StrCat(seconds));
  }
  if (error.http_status == 401) head.fields.emplace_back("WWW-Authenticate", "Bearer");
  reply.Send(head, error.body);
}

}  // namespace clamor::edge
