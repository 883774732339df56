#include "services/gateway/tokenizer_fetch.h"

#include <openssl/evp.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "services/rpc_error.h"

namespace clamor {
namespace {

constexpr size_t kMaxFiles = 16;
constexpr uint64_t kMaxFileBytes = 256ull << 20;

std::string Sha256Hex(const std::string& bytes) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_Digest(bytes.data(), bytes.size(), digest, &size, EVP_sha256(), nullptr);
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest), size});
}

}  // namespace

absl::StatusOr<TokenizerFiles> FetchTokenizer(v1::WorkerService::StubInterface& worker,
                                              grpc::ClientContext* context) {
  struct Promise {
    uint64_t size;
    std::string sha256;
  };
  std::map<std::string, Promise> promised;
  TokenizerFiles files;
  auto reader = worker.GetTokenizer(context, v1::GetTokenizerRequest());
  absl::Status status;
  for (v1::GetTokenizerResponse piece; status.ok() && reader->Read(&piece);) {
    std::string& content = files.contents[piece.name()];
    promised[piece.name()] = {piece.size(), piece.sha256()};
    if (piece.size() > kMaxFileBytes || content.size() + piece.content().size() > piece.size() ||
        promised.size() > kMaxFiles) {
      status = absl::ResourceExhaustedError(absl::StrCat(piece.name(), " has over ", content.size(),
                                                         " bytes, said ", piece.size(), ", limit ",
                                                         kMaxFileBytes));
      context->TryCancel();
    } else {
      content += piece.content();
    }
  }
  absl::Status ended = FromGrpc(reader->Finish());
  if (!status.ok()) return status;
  if (!ended.ok()) return ended;
  for (const auto& [name, promise] : promised) {
    const std::string& content = files.contents[name];
    if (content.size() != promise.size || Sha256Hex(content) != promise.sha256) {
      return absl::DataLossError(absl::StrCat(name, " came as ", content.size(), " bytes of SHA-256 ",
                                              Sha256Hex(content), ", said ", promise.size, " bytes of ",
                                              promise.sha256));
    }
  }
  return files;
}

}  // namespace clamor
