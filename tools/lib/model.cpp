// SPDX-License-Identifier: MIT
#include "tools/lib/model.h"

#include <charconv>
#include <chrono>
#include <cstdio>
#include <filesystem>

#include "base/error.h"
#include "base/hash.h"
#include "base/threads.h"
#include "tools/lib/main.h"
#include "tools/lib/vocabulary.h"
#include "models/zoo.h"

namespace folio {

double seconds_now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void add_model_flags(CLI::App& app, ModelFlags& flags) {
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);   // a script's flags may be overruled by later ones
  app.add_option("-m,--model", flags.path, "The model: a .folio file (tools/convert.py makes them)")->required();
  app.add_option("--device", flags.device, "Where the model runs: cpu, cuda (the first card) or cuda:N")->capture_default_str();
  app.add_option("-t,--threads", flags.threads, "Threads; 0: all that this process may use")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("-c,--ctx-size", flags.context, "Most tokens of a text, prompt and answer; 0: what the model was trained for")
      ->check(CLI::Range(int64_t(0), int64_t(1) << 30))->capture_default_str();
  app.add_option("-b,--batch-size,--chunk", flags.chunk, "Tokens of the prompt that are read at once")
      ->check(CLI::Range(1, 1 << 20))->capture_default_str();
  app.add_option("--cache-type", flags.cache_type,
                 "Number format of the attention cache: auto (f32 for f32 weights, else f16), f32, f16, bf16 or (latent attention alone) q8_0")
      ->check(CLI::IsMember({"auto", "f32", "f16", "bf16", "q8_0"}))
      ->capture_default_str();
  app.add_flag("--deterministic", flags.deterministic,
               "The same text whatever else runs with it and however it is cut into steps, on the CPU. Other layers than latent attention keep "
               "that anyway; prompts of latent attention become slower");
  app.add_flag("--verify", flags.verify, "Check the hash and the numbers of every tensor before anything else");
}

static Weights open_weights(const ModelFlags& flags) {
  Weights weights(flags.path);
  if (!flags.verify) return weights;
  const std::vector<std::string> bad = weights.verify();
  if (!bad.empty()) {
    const std::string more = bad.size() > 1 ? join(" and ", bad.size() - 1, " more") : std::string();
    fail("weights: ", flags.path, ": damaged: the data of ", bad[0], more, " is not what was written");
  }
  const std::vector<std::string> broken = weights.not_finite();
  if (!broken.empty()) {
    const std::string more = broken.size() > 1 ? join(" (and ", broken.size() - 1, " more like it)") : std::string();
    fail("weights: ", flags.path, ": ", broken[0], more, "; the checkpoint that it was made of is broken");
  }
  return weights;
}

static EngineOptions engine_options(const ModelFlags& flags) {
  EngineOptions options{.context = flags.context, .chunk = flags.chunk, .sequences = flags.sequences, .kv_bytes = int64_t(flags.kv_bytes),
                        .remember = flags.remember, .host_bytes = int64_t(flags.host_bytes), .evict = evict_policy(flags.policy)};
  options.deterministic = flags.deterministic;
  options.remember = flags.remember || !flags.cache_file.empty();
  DType type;
  if (parse_dtype(flags.cache_type, type)) options.cache_type = type;
  return options;
}

std::unique_ptr<Device> open_device(const std::string& name, int threads) {
  if (name == "cpu") return cpu(threads);
  int card = 0;
  const char *at = name.data() + std::min<size_t>(5, name.size()), *end = name.data() + name.size();
  const bool numbered = name.starts_with("cuda:") && std::from_chars(at, end, card).ptr == end && at < end;
  check(name == "cuda" || numbered, "--device: '", name, "' is no device; expected cpu, cuda or cuda:N");
  return cuda(card);
}

OpenModel::OpenModel(const ModelFlags& flags)
    : load_seconds(-seconds_now()), weights(open_weights(flags)), options(engine_options(flags)),
      threads(flags.threads > 0 ? flags.threads : hardware_threads()), cache_file(flags.cache_file) {
  model = load_model(weights);
  if (weights.has("tokenizer.kind")) tokenizer.emplace(read_vocabulary(weights));
  device = open_device(flags.device, threads);
  engine = std::make_unique<Engine>(*model, *device, options);
  load_seconds += seconds_now();
  if (cache_file.empty() || !std::filesystem::exists(cache_file)) return;
  try {
    const double start = seconds_now();
    const int64_t tokens = engine->cache().restore(cache_file, cache_fingerprint());
    std::fprintf(stderr, "%s: %s tokens are remembered, %.0f ms\n", cache_file.c_str(), with_commas(tokens).c_str(), (seconds_now() - start) * 1e3);
  } catch (const Error& error) {   // a cache is a help and no more
    std::fprintf(stderr, "warning: %s; going on without it\n", error.what());
  }
}

uint64_t OpenModel::cache_fingerprint() const {
  const uint64_t parts[] = {weights.index_hash(), uint64_t(weights.file_bytes()), uint64_t(options.cache_type.value_or(model->natural_rows())),
                            uint64_t(page_tokens)};
  return hash64(parts, sizeof parts);
}

void OpenModel::save_cache() const {
  if (!cache_file.empty()) engine->cache().save(cache_file, cache_fingerprint());
}

void OpenModel::warn() const {
  if (engine->context() <= model->reach()) return;
  std::fprintf(stderr,
               "warning: -c %s: after every %s tokens the log-linear layers of this model begin anew, for their tables of levels end there\n",
               with_commas(engine->context()).c_str(), with_commas(model->reach()).c_str());
}

std::vector<Token> OpenModel::encode(std::string_view text) const {
  check(tokenizer.has_value(), weights.path(), ": this model has no tokenizer; give ids with --tokens \"1 2 3\"");
  std::vector<Token> ids = tokenizer->encode(text);
  // What is to be continued does not end with an end token, whatever the model's training put there.
  if (tokenizer->vocabulary().add_eos && !ids.empty() && tokenizer->eos(ids.back())) ids.pop_back();
  return ids;
}

std::vector<Token> OpenModel::ends() const {
  if (!tokenizer) return {};
  std::vector<Token> ends(tokenizer->eos().begin(), tokenizer->eos().end());
  if (tokenizer->bos() >= 0) ends.push_back(tokenizer->bos());
  return ends;
}

std::span<const std::byte> OpenModel::layers() const {
  const std::byte *begin = nullptr, *end = nullptr;
  for (const WeightEntry& entry : weights.tensors()) {
    if (!entry.name.starts_with("layer.")) continue;
    if (!begin) begin = entry.tensor.data;
    end = entry.tensor.data + entry.tensor.bytes();
  }
  return begin && begin < end ? std::span(begin, end) : std::span<const std::byte>();
}

std::vector<Token> parse_tokens(const std::string& text, int64_t vocab) {
  std::vector<Token> ids;
  const char *at = text.data(), *end = at + text.size();
  auto separates = [](char c) { return c == ' ' || c == ',' || c == '\t' || c == '\n' || c == '\r'; };
  while (true) {
    while (at < end && separates(*at)) ++at;
    if (at == end) return ids;
    int64_t id = 0;
    const auto [after, error] = std::from_chars(at, end, id);
    const bool whole = error != std::errc::invalid_argument && (after == end || separates(*after));
    const char* stop = at;
    while (stop < end && !separates(*stop)) ++stop;
    const std::string word(at, std::min<size_t>(size_t(stop - at), 40));
    check(whole, "--tokens: '", word, "' is no token id; expected numbers like \"1 2 3\"");
    check(error == std::errc() && id >= 0 && id < vocab, "--tokens: there is no token ", word, ": the vocabulary has ", vocab,
          " tokens, 0 to ", vocab - 1);
    ids.push_back(Token(id));
    at = after;
  }
}

}  // namespace folio
