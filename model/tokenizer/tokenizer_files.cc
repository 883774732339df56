#include <openssl/sha.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/tokenizer_rep.h"

namespace clamor {
namespace {

constexpr uintmax_t kMaxFileBytes = 256 << 20;

}  // namespace

absl::StatusOr<TokenizerFiles> TokenizerFiles::Read(const std::string& model_dir) {
  TokenizerFiles files;
  for (const char* name : {kTokenizerJson, kTokenizerConfigJson, kChatTemplateJinja}) {
    const std::filesystem::path path = std::filesystem::path(model_dir) / name;
    std::error_code error;
    const uintmax_t size = std::filesystem::file_size(path, error);
    if (error) continue;
    if (size > kMaxFileBytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat(path.string(), ": ", size, " bytes, limit is ", kMaxFileBytes));
    }
    std::ifstream in(path, std::ios::binary);
    std::string content(size, '\0');
    if (!in.read(content.data(), static_cast<std::streamsize>(size))) {
      return absl::UnavailableError(absl::StrCat(path.string(), ": cannot be read"));
    }
    files.contents.emplace(name, std::move(content));
  }
  if (!files.contents.contains(kTokenizerJson)) {
    return absl::NotFoundError(absl::StrCat(model_dir, ": no file ", kTokenizerJson));
  }
  return files;
}

std::string TokenizerFiles::Fingerprint() const {
  const auto file = contents.find(kTokenizerJson);
  const std::string_view bytes = file == contents.end() ? std::string_view() : std::string_view(file->second);
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), digest);
  return absl::BytesToHexString(std::string(reinterpret_cast<const char*>(digest), sizeof(digest)));
}

}  // namespace clamor
