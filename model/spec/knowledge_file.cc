#include "model/spec/knowledge_file.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "model/sha256.h"

namespace clamor {
namespace {

static_assert(std::endian::native == std::endian::little, "files are the bytes in memory");

constexpr char kMagic[] = {'C', 'L', 'M', 'R', 'K', 'N', 'O', 'W'};
constexpr uint32_t kVersion = 1;  // of the layout and of what Calibration's keys mean
constexpr size_t kDigest = 64;

struct Header {
  char magic[sizeof(kMagic)];
  uint32_t version, vocab_size, counts, entries;
  char tokenizer[kDigest];  // SHA-256
};
struct Record {
  int32_t token;
  Adjacency::Entry entry;
};
using Counts = std::array<float, Calibration::kCounts>;
static_assert(sizeof(Header) == 88 && sizeof(Record) == 68 && std::is_trivially_copyable_v<Record>);

std::string Digest(std::string_view bytes) {
  Sha256 hash;
  hash.Add(bytes);
  return hash.Hex();
}

template <typename T>
void Append(const T& value, std::string& out) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

template <typename T>
T Take(std::string_view& in) {
  T value;
  std::memcpy(&value, in.data(), sizeof(value));
  in.remove_prefix(sizeof(value));
  return value;
}

template <typename T>
absl::Status CheckField(const char* field, const T& value, const T& expected) {
  if (value == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, ", must be ", expected));
}

absl::Status CheckHeader(const Header& header, size_t bytes, int32_t vocab_size, std::string_view tokenizer) {
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) {
    return absl::InvalidArgumentError("magic is not CLMRKNOW: this is another kind of file");
  }
  CLAMOR_RETURN_IF_ERROR(CheckField("version", header.version, kVersion));
  CLAMOR_RETURN_IF_ERROR(CheckField("vocab_size", header.vocab_size, static_cast<uint32_t>(vocab_size)));
  CLAMOR_RETURN_IF_ERROR(CheckField("counts", header.counts, static_cast<uint32_t>(Calibration::kCounts)));
  if (std::string_view(header.tokenizer, kDigest) != Digest(tokenizer)) {
    return absl::InvalidArgumentError("tokenizer is another than this model's");
  }
  if (header.entries > header.vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat("entries is ", header.entries, ", must be at most the ",
                                                   vocab_size, " tokens there are"));
  }
  return CheckField("size", bytes, KnowledgeFileBytes(header.entries));
}

// Log-probabilities are brought into (-infinity, 0], which rounding may have left.
absl::Status Check(Record& record, int32_t vocab_size) {
  const auto bad = [&](const char* field, auto value) {
    return absl::InvalidArgumentError(absl::StrCat("entry of token ", record.token, ": ", field, " is ",
                                                   value, ", of ", vocab_size, " tokens"));
  };
  if (record.token < 0 || record.token >= vocab_size) return bad("token", record.token);
  for (const int32_t token : record.entry.tokens) {
    if (token < -1 || token >= vocab_size) return bad("successor", token);
  }
  for (float& log_probability : record.entry.log_probabilities) {
    if (std::isnan(log_probability)) return bad("log-probability", log_probability);
    log_probability = std::clamp(log_probability, std::numeric_limits<float>::lowest(), 0.0f);
  }
  return absl::OkStatus();
}

}  // namespace

size_t KnowledgeFileBytes(size_t entries) {
  return sizeof(Header) + 2 * sizeof(Counts) + entries * sizeof(Record) + kDigest;
}

std::string EncodeKnowledge(const DraftKnowledge& knowledge, int32_t vocab_size, std::string_view tokenizer) {
  Header header{.version = kVersion,
                .vocab_size = static_cast<uint32_t>(vocab_size),
                .counts = static_cast<uint32_t>(Calibration::kCounts),
                .entries = static_cast<uint32_t>(knowledge.adjacency.size())};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  std::memcpy(header.tokenizer, Digest(tokenizer).data(), kDigest);
  std::string file;
  file.reserve(KnowledgeFileBytes(header.entries));
  Append(header, file);
  for (const Calibration* calibration : {&knowledge.greedy, &knowledge.sampled}) {
    Counts counts;
    calibration->Save(counts);
    Append(counts, file);
  }
  for (const auto& [token, entry] : knowledge.adjacency.entries()) Append(Record{token, entry}, file);
  return file += Digest(file);
}

absl::StatusOr<DraftKnowledge> DecodeKnowledge(std::string_view file, int32_t vocab_size,
                                               std::string_view tokenizer) {
  if (file.size() < KnowledgeFileBytes(0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("size is ", file.size(), ", must be at least ", KnowledgeFileBytes(0)));
  }
  std::string_view in = file.substr(0, file.size() - kDigest);
  const std::string_view content = in;
  const Header header = Take<Header>(in);
  CLAMOR_RETURN_IF_ERROR(CheckHeader(header, file.size(), vocab_size, tokenizer));
  if (file.substr(content.size()) != Digest(content)) {
    return absl::InvalidArgumentError("SHA-256 is not that of the content: the file is damaged");
  }
  DraftKnowledge knowledge;
  for (Calibration* calibration : {&knowledge.greedy, &knowledge.sampled}) {
    if (!calibration->Restore(Take<Counts>(in))) {
      return absl::InvalidArgumentError("counts has one that is impossible");
    }
  }
  knowledge.adjacency.Reserve(header.entries);
  for (uint32_t i = 0; i < header.entries; ++i) {
    Record record = Take<Record>(in);
    CLAMOR_RETURN_IF_ERROR(Check(record, vocab_size));
    knowledge.adjacency.Restore(record.token, record.entry);
  }
  return knowledge;
}

}  // namespace clamor
