// One request to the engine and what comes back, in the engine's own words: no proto type, ids checked.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "model/grammar/grammar.h"
#include "model/spec/draft_tree.h"
#include "model/spec/sampler.h"
#include "model/spec/source.h"

namespace clamor {

// Who goes first where there is not room for all; equals in order of arrival.
enum class Priority : uint8_t { kLow, kNormal, kHigh };

enum class TreeShape : uint8_t { kMerged, kPublished };

struct SpeculationOptions {
  static constexpr int32_t kAuto = -1;
  static constexpr int32_t kMaxNodes = 128;
  int32_t nodes = kAuto;  // draft nodes per step, 0: plain decoding; kPublished always drafts its 68 unless 0
  TreeShape shape = TreeShape::kMerged;
};

struct Request {
  static constexpr size_t kMaxStopTokenIds = 64;
  static constexpr int32_t kMaxTopLogprobs = 20;

  std::string id;      // for logs; need not be unique
  std::string tenant;  // drafts, adjacency and calibration are kept apart by it
  std::vector<int32_t> prompt_ids;
  // Of an answer begun elsewhere: they count towards max_tokens and are not sent again. If they end the
  // answer already, it finishes at once.
  std::vector<int32_t> emitted_ids;
  int32_t max_tokens = 0;  // 0: up to the model's context
  // The first tokens of the answer, as many as this, do not end it: no end-of-sequence token (unless they are
  // ignored) and none of stop_token_ids is drawn there, and a stop string that is complete there is text like
  // any other. max_tokens, which must be as many at least, and the context end it all the same.
  int32_t min_tokens = 0;
  SamplingOptions sampling;
  std::vector<std::string> stop;  // stop strings; the text ends before the first that appears
  // Each ends the answer as an end-of-sequence token does, whatever ignore_eos says: it is the last of the
  // ids, and its text, unless it is a special token, the end of the text.
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  // Null, or what the answer keeps to until an end-of-sequence token, which comes where it is complete only.
  // A ban, or min_tokens, that would leave no token gives way; stop strings, stop_token_ids and max_tokens
  // end it as they would any answer.
  std::shared_ptr<const Grammar> grammar;
  // With each token, its log-probability and those of this many likeliest tokens; up to kMaxTopLogprobs.
  std::optional<int32_t> top_logprobs;
  SpeculationOptions speculation;
  // Of a request that has been admitted before: a further answer to it, or the rest of one that another
  // worker began. Neither a full queue nor a drain refuses it.
  bool follows = false;
  bool use_store = true;    // whether the store may be asked for drafts
  bool use_shared = false;  // and not only for the tenant's own, but for what is there for all
  bool trace = false;       // whether Delta shows the trees
  Priority priority = Priority::kNormal;
  absl::Time deadline = absl::InfiniteFuture();

  // Against what this model and worker can do; INVALID_ARGUMENT names the field and both values. (Other
  // reasons than INVALID_FIELD are named in brackets at the start of the message, e.g. "[CONTEXT_TOO_LONG]
  // ...".)
  absl::Status Validate(int32_t vocab_size, int32_t max_positions) const;
  // The part of it that asks neither for the texts nor for the context.
  absl::Status ValidateOptions(int32_t vocab_size) const;
};

enum class FinishReason : uint8_t { kStop, kLength, kCancelled, kDeadline, kSlowConsumer, kTenantDeleted };
std::string_view FinishReasonName(FinishReason reason);  // "stop", "length", "cancelled", ...

struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0;
};

// How likely the model found one token after what stands before it: log-softmax of its logits as they are,
// before temperature, penalties, biases and bans. The same bits whatever is drafted and whoever else runs.
struct TokenLogprobs {
  float logprob = 0;
  std::vector<TokenLogprob> top;  // [top_logprobs, at most the vocabulary], best first, ties by lowest id
};

// New tokens of one step. Indices count the answer's tokens, and the bytes of its text, from 0; those of
// emitted_ids are counted.
struct Delta {
  int64_t first_token_index = 0;
  std::vector<int32_t> token_ids;
  int64_t first_text_byte = 0;
  std::string text;  // may lag behind the ids: incomplete characters and possible stop strings are held back
  std::vector<Source>
      sources;  // [token_ids] who drafted each; kNone for a token that came from the model's own step
  std::vector<TokenLogprobs> logprobs;  // [token_ids] if the request asks for them, else empty
  // [token_ids] Bytes of text that each completed, held back or not; together the answer's text before a stop
  // string cut it.
  std::vector<uint32_t> text_bytes;
  // If the request traces: the step's tree, root first, and the nodes whose tokens are in token_ids.
  std::vector<DraftNode> tree;
  std::vector<int32_t> accepted;

  // Keeps the memory.
  void Clear() {
    first_token_index = 0;
    token_ids.clear();
    first_text_byte = 0;
    text.clear();
    sources.clear();
    logprobs.clear();
    text_bytes.clear();
    tree.clear();
    accepted.clear();
  }
};

struct Usage {
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;  // emitted here
  int32_t cached_tokens = 0;      // of the prompt: found in the cache, not computed
};

struct GenerationStats {
  int64_t forwards = 0;  // that emitted at least one token
  int64_t draft_nodes = 0;
  std::array<int64_t, kSources> accepted_by_source{};  // by static_cast<size_t>(Source)
  double queue_seconds = 0, prefill_seconds = 0, decode_seconds = 0;

  double tokens_per_forward(int64_t tokens) const {
    return forwards > 0 ? static_cast<double>(tokens) / forwards : 0;
  }
};

struct Finished {
  FinishReason reason = FinishReason::kStop;
  std::string matched_stop;  // the stop string, if one ended the answer
  Usage usage;
  GenerationStats stats;
};

// Receives one request's output. Called on the engine's thread, so it must return at once and never block;
// must outlive the call of OnFinished, which comes exactly once and last.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  // Admitted: left the queue. `cached_tokens` of the prompt were found in the cache.
  virtual void OnStarted(int32_t cached_tokens) { (void)cached_tokens; }
  virtual void OnDelta(const Delta& delta) = 0;  // borrowed for the call
  virtual void OnFinished(const Finished& finished) = 0;
};

}  // namespace clamor
