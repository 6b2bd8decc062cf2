// SPDX-License-Identifier: MIT
// score: how well a model predicts a text. Every token but the first is scored once, by the probability that the model gave it:
//
//   mean NLL        sum of -log p / scored tokens, in nats
//   perplexity      exp(mean NLL)
//   bits per byte   sum of -log2 p / bytes of the scored tokens' text: comparable between tokenizers
//
// With a tokenizer that begins a text with a token of its own, that is the first one, and every byte of the text is scored.
//
// A text longer than the context is read in windows of `context` tokens, each beginning `stride` tokens behind the one before;
// of all windows but the first only the last `stride` tokens count, so each has at least context - stride tokens before it:
//
//   |<------ context ------>|          tokens 1 to context are scored, the last one from the window's last row
//          |·········|<-stride->|      the dotted part is read again, but not scored
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/threads.h"
#include "run/sampler.h"
#include "tools/lib/main.h"
#include "tools/lib/model.h"
#include "tools/lib/npz.h"

namespace folio {
namespace {

using Json = nlohmann::ordered_json;

struct Flags {
  ModelFlags model;
  std::string file, tokens, logits;
  bool has_file = false, has_tokens = false, json = false, quiet = false;
  int64_t stride = 0;
};

// float32 [rows, columns] in NumPy's format, row by row.
class NpyWriter {
 public:
  NpyWriter(const std::string& path, int64_t rows, int64_t columns) : file_(writable(path)) {
    file_.write(npy_head({rows, columns}));
  }
  void rows(const Tensor& t, int64_t n) { file_.write(t.data, size_t(n * t.cols()) * sizeof(float)); }
  void commit() { file_.commit(); }

 private:
  FileWriter file_;
};

struct Score {
  int64_t tokens = 0, scored = 0, windows = 0, bytes = 0, context = 0, stride = 0;
  double nll = 0, seconds = 0;   // nll: the sum
  double mean() const { return nll / double(scored); }
  double bits_per_byte() const { return nll / std::log(2.0) / double(bytes); }
};

class Scorer {
 public:
  Scorer(OpenModel& model, const Flags& flags) : model_(model), flags_(flags), pool_(model.threads) {
    score_.context = model.engine->context();
    check(flags.stride <= score_.context, "--stride ", flags.stride, ": a window is only ", score_.context, " tokens long");
    score_.stride = flags.stride > 0 ? flags.stride : (score_.context + 1) / 2;
    // Logits of a whole step may be much memory where the vocabulary is large.
    const int64_t rows = (int64_t(64) << 20) / (model.vocab() * int64_t(sizeof(float)));
    rows_ = std::clamp<int64_t>(rows, 1, model.engine->chunk());
  }

  Score run(std::span<const Token> tokens) {
    tokens_ = tokens;
    score_.tokens = int64_t(tokens.size());
    if (!flags_.logits.empty()) npy_.emplace(flags_.logits, score_.tokens, model_.vocab());
    const double start = seconds_now();
    for (int64_t done = 0; done < score_.tokens;) done = window(done);
    score_.seconds = seconds_now() - start;
    if (npy_) npy_->commit();
    progress(score_.tokens, true);
    return score_;
  }

 private:
  // Reads the window in which row `done` is the first whose logits count. Returns the row behind its last.
  int64_t window(int64_t done) {
    const int64_t begin = done == 0 ? 0 : done + score_.stride - score_.context, end = std::min(begin + score_.context, score_.tokens);
    Cache& cache = model_.engine->cache();
    Seq seq = cache.open({});
    for (int64_t at = begin; at < end;) {
      const bool counts = at >= done;
      const int64_t n = counts ? std::min(rows_, end - at) : std::min<int64_t>(model_.engine->chunk(), done - at);
      const auto part = tokens_.subspan(size_t(at), size_t(n));
      check(cache.reserve(seq, int(n), int(n)), "no memory left in the cache for ", end - begin, " tokens");
      const Work work{&seq, part, counts ? int(n) : 0};
      const Tensor logits = model_.engine->step({&work, 1});
      cache.commit(seq, part);
      if (counts) count(logits, at, n);
      at += n;
      progress(at, false);
    }
    cache.close(seq);
    ++score_.windows;
    return end;
  }

  // Row i of the logits is what the model expects behind token at + i.
  void count(const Tensor& logits, int64_t at, int64_t n) {
    if (npy_) npy_->rows(logits, n);
    const int64_t scored = std::min(n, score_.tokens - 1 - at);
    if (scored <= 0) return;
    nll_.resize(size_t(scored));
    pool_.run([&](Worker w) {
      for (int64_t i : w.share(scored))
        nll_[size_t(i)] = -double(Logprobs({logits.row<float>(i), size_t(logits.cols())}).of(tokens_[size_t(at + i + 1)]));
    });
    for (double x : nll_) score_.nll += x;   // in the order of the text, whatever the threads
    score_.scored += scored;
  }

  void progress(int64_t done, bool over) {
    if (flags_.quiet || flags_.json || !isatty(2) || score_.tokens < 4096) return;
    if (over) std::fprintf(stderr, "\r\x1b[K");
    else
      std::fprintf(stderr, "\r%3lld%%  mean NLL %.4f ", static_cast<long long>(100 * done / score_.tokens),
                   score_.scored ? score_.mean() : 0.0);
  }

  OpenModel& model_;
  const Flags& flags_;
  ThreadPool pool_;
  std::span<const Token> tokens_;
  std::optional<NpyWriter> npy_;
  std::vector<double> nll_;
  Score score_;
  int64_t rows_;
};

// Bytes of the text that the scored tokens make: all but the first token's.
int64_t bytes_scored(const OpenModel& model, std::span<const Token> ids, const std::string& text, bool is_text) {
  if (!model.tokenizer) return 0;
  const int64_t first = int64_t(model.tokenizer->decode(ids.first(1)).size());
  return (is_text ? int64_t(text.size()) : int64_t(model.tokenizer->decode(ids).size())) - first;
}

void print(const OpenModel& model, const Flags& flags, const Score& s) {
  const bool bytes = s.bytes > 0, scored = s.scored > 0;
  if (flags.json) {
    Json json{{"tokens", s.tokens}, {"scored", s.scored}, {"windows", s.windows}, {"context", s.context}, {"stride", s.stride}};
    json["nll"] = scored ? Json(s.mean()) : Json();
    json["perplexity"] = scored ? Json(std::exp(s.mean())) : Json();
    json["bytes"] = bytes ? Json(s.bytes) : Json();
    json["bits_per_byte"] = scored && bytes ? Json(s.bits_per_byte()) : Json();
    json["seconds"] = s.seconds;
    json["tokens_per_second"] = double(s.tokens) / s.seconds;
    json["load_seconds"] = model.load_seconds;
    std::printf("%s\n", json.dump().c_str());
    return;
  }
  if (scored) std::printf("perplexity     %.6g\nmean NLL       %.6f nats a token\n", std::exp(s.mean()), s.mean());
  if (scored && bytes) std::printf("bits per byte  %.6f\n", s.bits_per_byte());
  if (flags.quiet) return;
  std::fprintf(stderr, "%s of %s tokens scored, %s bytes, %lld %s of up to %lld tokens, stride %lld · %.2f s, %s tokens/s\n",
               with_commas(s.scored).c_str(), with_commas(s.tokens).c_str(), with_commas(s.bytes).c_str(),
               static_cast<long long>(s.windows), s.windows == 1 ? "window" : "windows", static_cast<long long>(s.context),
               static_cast<long long>(s.stride), s.seconds, with_commas(std::llround(double(s.tokens) / s.seconds)).c_str());
}

int score(const Flags& flags) {
  OpenModel model(flags.model);
  if (!flags.quiet) model.warn();
  std::string text;
  std::vector<Token> ids;
  if (flags.has_tokens) {
    ids = parse_tokens(flags.tokens, model.vocab());
  } else {
    check(flags.has_file || !isatty(0), "nothing to score: give a text with -f FILE or on standard input, or ids with --tokens \"1 2 3\"");
    text = read_file(flags.has_file ? flags.file : "-");
    check(!text.empty(), "nothing to score: the text is empty");
    ids = model.encode(text);
  }
  check(!ids.empty(), "nothing to score: there is no token");
  check(ids.size() > 1 || !flags.logits.empty(), "nothing to score: one token alone is not predicted by anything; at least two are needed");
  Score score = Scorer(model, flags).run(ids);
  score.bytes = bytes_scored(model, ids, text, !flags.has_tokens);
  check(std::isfinite(score.nll),
        "the score is not finite: the model gives some token of this text no probability at all, or its weights are damaged");
  print(model, flags, score);
  return 0;
}

}  // namespace
}  // namespace folio

int main(int argc, char** argv) {
  using namespace folio;
  CLI::App app{"Measures how well a model predicts a text: perplexity, mean negative log-likelihood, bits per byte.", "score"};
  Flags flags;
  add_model_flags(app, flags.model);
  auto* f = app.add_option("-f,--file", flags.file, "The text, byte by byte; - or nothing: standard input");
  auto* t = app.add_option("--tokens", flags.tokens, "Token ids in place of a text: \"1 2 3\"");
  f->excludes(t);
  app.add_option("--stride", flags.stride,
                 "A text longer than the context is read in windows of the context's length (-c), each beginning so many tokens behind the "
                 "one before; "
                 "only what the windows before have not scored counts. 0: half the context")
      ->check(CLI::Range(int64_t(0), int64_t(1) << 30));
  app.add_option("--logits", flags.logits,
                 "Write the logits, float32 [tokens, vocabulary], to this .npy file: row i is what follows token i");
  app.add_flag("--json", flags.json, "One JSON object on one line");
  app.add_flag("-q,--quiet", flags.quiet, "Nothing on standard error but errors");
  return run_tool(argc, argv, app, [&] {
    flags.has_file = app.count("--file") > 0;
    flags.has_tokens = app.count("--tokens") > 0;
    return score(flags);
  });
}
