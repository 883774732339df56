#include "services/edge/page.h"

#include <openssl/sha.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "services/edge/page_files.h"

namespace clamor::edge {
namespace {

// As a Content-Security-Policy names a script or style.
std::string HashOf(absl::string_view text) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest);
  return absl::StrCat("'sha256-", absl::Base64Escape({reinterpret_cast<const char*>(digest), sizeof(digest)}),
                      "'");
}

Page MakePage() {
  const std::string html =
      absl::StrReplaceAll(kPageHtml, {{"/*style*/", kPageCss}, {"/*script*/", kPageScript}});
  return {.open = absl::StrReplaceAll(html, {{"{needs-key}", "false"}}),
          .with_key = absl::StrReplaceAll(html, {{"{needs-key}", "true"}}),
          .security_policy = absl::StrCat("default-src 'none'; script-src ", HashOf(kPageScript),
                                          "; style-src ", HashOf(kPageCss),
                                          "; connect-src 'self'; img-src data:; base-uri 'none'; form-action "
                                          "'none'; frame-ancestors 'none'")};
}

}  // namespace

const Page& ThePage() {
  static const Page* const page = new Page(MakePage());
  return *page;
}

}  // namespace clamor::edge
