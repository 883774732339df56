#include "model/train/dataset.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/status_macros.h"
#include "model/text_record.h"
#include "model/tokenizer/utf8.h"

namespace clamor {
namespace {

constexpr size_t kMaxMessages = 10;

// Lines of a file, however long, in bounded memory.
class LineReader {
 public:
  explicit LineReader(std::ifstream* file) : file_(file), buffer_(64 << 10) {}

  // False at the end. `bytes` is the size of the whole line; `line` holds no more than kMaxRecordBytes of it.
  bool Next(std::string* line, uint64_t* bytes) {
    line->clear();
    *bytes = 0;
    bool any = false;
    while (at_ < end_ || Fill()) {
      any = true;
      const char* begin = buffer_.data() + at_;
      const auto* newline = static_cast<const char*>(std::memchr(begin, '\n', end_ - at_));
      const size_t size = newline != nullptr ? newline - begin : end_ - at_;
      line->append(begin, std::min(size, kMaxRecordBytes - line->size()));
      *bytes += size;
      at_ += size;
      if (newline == nullptr) continue;
      ++at_;
      return true;
    }
    return any;
  }

 private:
  bool Fill() {
    file_->read(buffer_.data(), buffer_.size());
    at_ = 0;
    end_ = file_->gcount();
    return end_ > 0;
  }

  std::ifstream* file_;
  std::vector<char> buffer_;
  size_t at_ = 0, end_ = 0;  // what is not used yet of buffer_
};

bool IsBlank(const std::string& line) { return line.find_first_not_of(" \t\r") == std::string::npos; }

class Loader {
 public:
  using Progress = absl::FunctionRef<void(uint64_t, uint64_t)>;

  Loader(const DatasetTexts& texts, const DatasetOptions& options, Progress progress)
      : texts_(texts), options_(options), progress_(progress) {}

  absl::StatusOr<Dataset> Load(const std::vector<std::string>& files) {
    for (const std::string& path : files) {
      std::error_code error;
      const auto size = std::filesystem::file_size(path, error);
      if (!error) total_bytes_ += size;  // a pipe has none
    }
    for (const std::string& path : files) CLAMOR_RETURN_IF_ERROR(AddFile(path));
    if (dataset_.samples.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("no samples in ", absl::StrJoin(files, ", "), ": ",
                                                     dataset_.bad_lines(), " bad lines; ",
                                                     absl::StrJoin(dataset_.messages, "; ")));
    }
    return std::move(dataset_);
  }

 private:
  absl::Status AddFile(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) return absl::NotFoundError(absl::StrCat(path, ": cannot open"));
    LineReader lines(&file);
    std::string line;
    uint64_t bytes = 0;
    int64_t number = 0, records = 0;
    while (lines.Next(&line, &bytes)) {
      ++number;
      if (!IsBlank(line)) {
        ++records;
        CLAMOR_RETURN_IF_ERROR(Tolerate(AddLine(line, bytes, absl::StrCat(path, ":", number))));
      }
      done_bytes_ += bytes + 1;
      progress_(std::min(done_bytes_, total_bytes_), total_bytes_);
    }
    if (file.bad()) return absl::DataLossError(absl::StrCat(path, ":", number + 1, ": cannot read"));
    if (records > 0) return absl::OkStatus();
    return Tolerate(BadSampleError("empty file", absl::StrCat(path, ":1: the file is empty")));
  }

  // Counts a fault of the data under kSkip; what is returned ends the load.
  absl::Status Tolerate(const absl::Status& status) {
    const std::optional<std::string> kind = BadSampleKind(status);
    if (options_.on_bad_sample == OnBadSample::kRefuse || !kind.has_value()) return status;
    ++dataset_.bad[*kind];
    Note(status.message());
    return absl::OkStatus();
  }

  void Note(absl::string_view message) {
    if (dataset_.messages.size() < kMaxMessages) dataset_.messages.emplace_back(message);
  }

  absl::Status AddLine(const std::string& line, uint64_t bytes, const std::string& source) {
    auto samples = ToSamples(line, bytes);
    absl::Status status = samples.status();
    if (status.ok()) status = CheckNoise(*samples, source);
    if (!status.ok()) {
      absl::Status named(status.code(), absl::StrCat(source, ": ", status.message()));
      status.ForEachPayload(
          [&](absl::string_view url, const absl::Cord& kind) { named.SetPayload(url, kind); });
      return named;
    }
    for (Sample& sample : *samples) {
      sample.source = source;
      sample.ids.shrink_to_fit();
      dataset_.tokens += static_cast<int64_t>(sample.ids.size());
      for (const Span& response : sample.responses) dataset_.response_tokens += response.size();
      dataset_.samples.push_back(std::move(sample));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<Sample>> ToSamples(const std::string& line, uint64_t bytes) const {
    if (bytes > line.size()) {
      return BadSampleError("long line", absl::StrCat(bytes, " bytes, limit is ", kMaxRecordBytes));
    }
    if (const auto offset = FindInvalidUtf8(line)) {
      return BadSampleError("invalid UTF-8", absl::StrCat("not valid UTF-8 at byte ", *offset));
    }
    const auto object = ParseRecord(line);
    if (!object.ok()) return BadSampleError("invalid JSON", object.status().message());
    const auto record = ReadRecord(*object);
    if (!record.ok()) return BadSampleError("field", record.status().message());
    return EncodeRecord(*record, texts_, options_.max_length);
  }

  // Whether each sample has room for noise; see DatasetOptions.
  absl::Status CheckNoise(const std::vector<Sample>& samples, const std::string& source) {
    for (const Sample& sample : samples) {
      int32_t longest = 0;
      for (const Span& response : sample.responses) longest = std::max(longest, response.size());
      if (longest >= options_.response_tokens_for_noise) continue;
      const std::string what = absl::StrCat("the longest response has ", longest, " tokens, noise needs ",
                                            options_.response_tokens_for_noise);
      if (options_.on_bad_sample == OnBadSample::kRefuse) return BadSampleError("noise", what);
      ++dataset_.without_noise;
      Note(absl::StrCat(source, ": ", what, "; trained without"));
    }
    return absl::OkStatus();
  }

  const DatasetTexts& texts_;
  const DatasetOptions& options_;
  Progress progress_;
  Dataset dataset_;
  uint64_t done_bytes_ = 0, total_bytes_ = 0;
};

}  // namespace

int64_t Dataset::bad_lines() const {
  int64_t lines = 0;
  for (const auto& [kind, count] : bad) lines += count;
  return lines;
}

absl::StatusOr<Dataset> LoadDataset(const std::vector<std::string>& files, const DatasetTexts& texts,
                                    const DatasetOptions& options,
                                    absl::FunctionRef<void(uint64_t done, uint64_t total)> progress) {
  return Loader(texts, options, progress).Load(files);
}

}  // namespace clamor
