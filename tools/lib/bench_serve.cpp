// SPDX-License-Identifier: MIT
#include "tools/lib/bench_serve.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>

#include "base/error.h"
#include "base/threads.h"
#include "models/zoo.h"
#include "tools/lib/model.h"
#include "tools/lib/random_model.h"

namespace folio {

namespace {

constexpr double busy = 0.7;   // of the requests a second that a closed loop serves without what is remembered, where no rate is given

constexpr int guessed_answer = 64;   // tokens at least, where guesses are measured: what they are worth has to be found out first

struct TraceKind {
  const char* name;
  Trace (Traces::*make)();
};
constexpr TraceKind kinds[] = {{"shared prefix", &Traces::shared_prefix},
                               {"conversations", &Traces::conversations},
                               {"tree of thoughts", &Traces::thoughts},
                               {"nothing shared", &Traces::nothing_shared}};

struct Row {
  const char *trace, *load;
  bool remember;
  Served served;
};
struct Line {
  const char* key;
  double value;
  std::string what, shown, aim;
};

double median(std::vector<double> all) {
  std::sort(all.begin(), all.end());
  const size_t n = all.size();
  return n % 2 ? all[n / 2] : (all[n / 2 - 1] + all[n / 2]) / 2;
}

// Guesses that are never right: what guessing costs at worst.
class WrongDrafter final : public Drafter {
 public:
  explicit WrongDrafter(int64_t vocab) : vocab_(vocab) {}
  std::vector<Token> propose(std::span<const Token> text, int most) override {
    std::vector<Token> tokens(1, text.back());
    for (int i = 0; i < most; ++i) tokens.push_back(Token((int64_t(tokens.back()) * 31 + 7) % vocab_));   // as good as random
    return {tokens.begin() + 1, tokens.end()};
  }

 private:
  const int64_t vocab_;
};

class ServeBench {
 public:
  ServeBench(const Model& model, Device& device, const BenchServeFlags& flags)
      : model_(model), device_(device), flags_(flags), make_(flags.sizes, model.vocab()) {}

  void run() {
    for (const TraceKind& kind : kinds)
      if (wanted(kind.name)) trace(kind);
    if (wanted("first token")) first_token();
    if (wanted("looking up")) lookup();
    if (wanted("texts at once")) batch();
    for (int running : {1, flags_.running})
      for (bool right : {true, false}) guesses(running, right);
    if (wanted("deterministic")) deterministic();
    check(!rows.empty() || !lines.empty(), "bench: no trace and no line has '", flags_.only, "' in its name");
  }

  std::vector<Row> rows;
  std::vector<Line> lines;

 private:
  bool wanted(const std::string& name) const { return name.find(flags_.only) != std::string::npos; }

  Engine engine(bool remember, int running, bool deterministic = false) {
    const TraceSizes& s = flags_.sizes;
    const int64_t turns = std::max<int64_t>(s.turns, int64_t(std::log2(s.requests)) + 1);   // a tree of thoughts is no deeper
    const int64_t behind = std::max<int64_t>((s.own + flags_.draw) * (turns + 1), 2 * guessed_answer);
    const int64_t longest = std::max<int64_t>(s.shared + behind, flags_.hit + 64) + 64;
    EngineOptions options{.context = std::min(longest, model_.longest()), .sequences = running, .remember = remember};
    options.deterministic = deterministic;
    return Engine(model_, device_, options);
  }

  void line(const char* key, double value, const std::string& what, const std::string& shown, const std::string& aim) {
    lines.push_back({key, value, what, shown, aim});
  }
  void times(const char* key, double value, const std::string& what, const std::string& aim) {
    line(key, value, what, fixed(value, 2) + "x", aim);
  }

  // The rate of a() as a multiple of that of b(), the median of pairs.
  template <class A, class B> double paired(A a, B b) {
    std::vector<double> ratios;
    for (int r = 0; r < flags_.repeats; ++r) {
      const double first = r % 2 ? b() : a(), second = r % 2 ? a() : b();
      ratios.push_back(r % 2 ? second / first : first / second);
    }
    return median(ratios);
  }

  void trace(const TraceKind& kind) {
    Engine off = engine(false, flags_.running), on = engine(true, flags_.running);
    Load load{.running = flags_.running, .draw = flags_.draw};
    for (Engine* e : {&off, &on}) serve(*e, (make_.*kind.make)(), load);
    Served best[2];
    const auto once = [&](bool remember) {
      Served s = serve(remember ? on : off, (make_.*kind.make)(), load);
      const double rate = s.rate();
      if (best[remember].tokens == 0 || rate > best[remember].rate()) best[remember] = std::move(s);
      return rate;
    };
    const double gain = paired([&] { return once(true); }, [&] { return once(false); });
    for (bool remember : {false, true}) rows.push_back({kind.name, "closed", remember, best[remember]});
    const std::string name = kind.name;
    if (name == "shared prefix") times("shared_prefix_speedup", gain, "shared prefix, with what is remembered against without", "5x");
    if (name == "nothing shared") {
      line("overhead_without_hits", 1 - gain, "cost of remembering where nothing is found", fixed((1 - gain) * 100, 1) + "%", "< 1%");
      const double own = (bookkeeping(true) - bookkeeping(false)) / best[0].seconds;
      line("bookkeeping_without_hits", own, "of it the cache's own work, timed without a model", fixed(own * 100, 3) + "%", "< 1%");
    }
    load.rate = flags_.rate > 0 ? flags_.rate : busy * double(best[0].requests) / best[0].seconds;
    for (bool remember : {false, true}) {
      Served soonest;
      for (int r = 0; r < flags_.repeats; ++r)
        if (Served s = serve(remember ? on : off, (make_.*kind.make)(), load);
            r == 0 || quantile(s.first, 0.5) < quantile(soonest.first, 0.5))
          soonest = std::move(s);
      rows.push_back({kind.name, "Poisson", remember, soonest});
    }
  }

  // Seconds of what the cache does in the trace of nothing shared, when it has done so before: opens, pages, commits, closes.
  double bookkeeping(bool remember) {
    const auto small = cpu(1);
    const CacheOptions options = engine(remember, flags_.running).cache().options();
    Cache cache(*small, {{.rows = {{.name = "k", .type = F32, .shape = {1, 1}}}}}, options);
    double best = 1e9;
    for (int r = 0; r < 10; ++r) {
      const Trace trace = make_.nothing_shared();
      const double start = seconds_now();
      for (const Visit& visit : trace) {
        const std::span<const Token> text(visit.prompt);
        cache.match(text);   // looked up once when it waits, once when it comes in
        Seq seq = cache.open(text);
        for (size_t at = 0; at < text.size() + size_t(flags_.draw); at = size_t(seq.length())) {
          const auto part = at < text.size() ? text.subspan(at, std::min(size_t(options.step_tokens), text.size() - at)) : text.first(1);
          check(cache.reserve(seq, int(part.size()), int(part.size())), "bench: the cache is too small");
          cache.commit(seq, part);
        }
        cache.close(seq);
      }
      best = std::min(best, seconds_now() - start);
    }
    return best;
  }

  // Seconds until the first token of a long prompt that is not known, against one that is.
  void first_token() {
    Engine e = engine(true, 2);
    const auto seconds = [&](const std::vector<Token>& text) {
      const Served s = serve(e, {{text, -1}}, {.running = 1, .draw = 1});
      return s.first.at(0);
    };
    std::vector<double> times;
    seconds(make_.words(flags_.hit + 1));   // records its steps
    for (int r = 0; r < flags_.repeats; ++r) {
      auto text = make_.words(flags_.hit + 1);
      const double cold = seconds(text);
      text.back() = make_.words(1)[0];
      times.push_back(cold / seconds(text));
    }
    const double value = median(times);
    line("hit_speedup", value, "first token of a known prompt of " + std::to_string(flags_.hit), fixed(value, 1) + "x sooner", "20x");
  }

  // Seconds to look up a prompt that is remembered, among others that begin alike.
  void lookup() {
    const auto small = cpu(1);
    Cache cache(*small, {{.rows = {{.name = "k", .type = F32, .shape = {1, 1}}}}},
                {.context = flags_.match + 64, .sequences = 64, .step_tokens = 512, .remember = true});
    const auto text = make_.words(flags_.match);
    for (int other = 0; other < 32; ++other) {
      auto one = text;
      for (size_t i = size_t(other) * 64; i < one.size(); ++i) one[i] ^= other;   // differs from its own page on
      Seq seq = cache.open({});
      while (seq.length() < int64_t(one.size())) {
        const int n = int(std::min<int64_t>(512, int64_t(one.size()) - seq.length()));
        check(cache.reserve(seq, n, n), "bench: the cache is too small");
        cache.commit(seq, std::span<const Token>(one).subspan(size_t(seq.length()), size_t(n)));
      }
      cache.close(seq);
    }
    double best = 1e9;
    for (int r = 0; r < 20; ++r) {
      const double start = seconds_now();
      check(cache.match(text) == flags_.match / page_tokens * page_tokens, "bench: the prompt was not found");
      best = std::min(best, seconds_now() - start);
    }
    line("lookup_seconds", best, "looking up a prompt of " + std::to_string(flags_.match), fixed(best * 1e6, 1) + " µs", "< 50 µs");
  }

  void batch() {
    Engine alone = engine(false, 1), many = engine(false, flags_.running);
    const Trace trace = make_.repetitive(flags_.running);
    const auto rate = [&](Engine& e, int running) {
      return [&, running] { return serve(e, trace, {.running = running, .draw = flags_.draw}).rate(); };
    };
    const auto one = rate(alone, 1), all = rate(many, flags_.running);
    one(), all();
    times("batch_speedup", paired(all, one), std::to_string(flags_.running) + " texts at once against one, prompts of 120 tokens and all",
          "4x (8 of 1b, q8_0)");
    std::vector<double> drawing[2];   // seconds between tokens, which no prompt of others is part of
    for (int r = 0; r < flags_.repeats; ++r)
      for (bool together : {false, true})
        drawing[together].push_back(
            quantile(serve(together ? many : alone, trace, {.running = together ? flags_.running : 1, .draw = flags_.draw}).between, 0.5));
    times("batch_decode_speedup", flags_.running * median(drawing[0]) / median(drawing[1]), "the same, only between tokens", "");
  }

  // What guesses bring or cost: looked up where the text repeats itself (a phrase over and over, and what greedy drawing goes round in), or
  // never right.
  void guesses(int running, bool right) {
    const bool alone = running == 1;
    const std::string what = std::string("guesses ") + (right ? "by n-grams on repetitive text" : "that are never right") +
                             (alone ? ", one at a time" : ", " + std::to_string(running) + " at once");
    if (!wanted(what)) return;
    Engine e = engine(false, running);
    Trace trace = right ? make_.repetitive(2 * flags_.running) : make_.nothing_shared();
    trace.resize(std::min(trace.size(), size_t(2 * flags_.running)));
    Load load{.running = running, .draw = std::max(flags_.draw, guessed_answer)};
    const auto plain = [&] { return serve(e, trace, load).rate(); };
    Load guessing = load;
    guessing.drafter = [&](const Request&) -> std::unique_ptr<Drafter> {
      if (right) return std::make_unique<NgramDrafter>(2);
      return std::make_unique<WrongDrafter>(model_.vocab());
    };
    Served last;
    const auto guessed = [&] { return (last = serve(e, trace, guessing)).rate(); };
    plain();
    const double gain = paired(guessed, plain);
    const std::string shown = fixed(gain, 2) + "x; " + fixed(last.right() * 100, 0) + "% of the guesses right, " +
                              fixed(last.tokens_a_step(), 1) + " tokens a step";
    line(right ? alone ? "ngram_speedup_alone" : "ngram_speedup_batch" : alone ? "wrong_guesses_alone" : "wrong_guesses_batch", gain, what,
         shown, right && alone ? "2x" : "never under 0.97x");
  }

  // Prompts that are all read, and answers.
  void deterministic() {
    Engine plain = engine(false, flags_.running), same = engine(false, flags_.running, true);
    const Trace trace = make_.nothing_shared();
    const auto rate = [&](Engine& e) { return [&] { return serve(e, trace, {.running = flags_.running, .draw = flags_.draw}).rate(); }; };
    rate(plain)(), rate(same)();
    const double cost = 1 - paired(rate(same), rate(plain));
    line("deterministic_cost", cost, "cost of --deterministic", fixed(cost * 100, 1) + "%", "< 15%");
  }

  const Model& model_;
  Device& device_;
  const BenchServeFlags& flags_;
  Traces make_;
};

nlohmann::json json_of(const ServeBench& bench) {
  nlohmann::json json = {{"traces", nlohmann::json::array()}, {"lines", nlohmann::json::object()}};
  for (const Row& row : bench.rows) {
    const Served& s = row.served;
    nlohmann::json one = {{"trace", row.trace}, {"load", row.load}, {"cache", row.remember}, {"tps", s.rate()}, {"hit_rate", s.hits}};
    for (const auto& [name, q] : {std::pair("p50", 0.5), {"p90", 0.9}, {"p99", 0.99}}) {
      one[std::string("first_") + name] = quantile(s.first, q);
      one[std::string("between_") + name] = quantile(s.between, q);
    }
    json["traces"].push_back(one);
  }
  for (const Line& line : bench.lines) json["lines"][line.key] = line.value;
  return json;
}

void print(const ServeBench& bench, bool csv) {
  const auto three = [](const std::vector<double>& s) {
    return fixed(quantile(s, 0.5) * 1e3, 2) + " / " + fixed(quantile(s, 0.9) * 1e3, 2) + " / " + fixed(quantile(s, 0.99) * 1e3, 2);
  };
  std::vector<std::vector<std::string>> cells = {
      {"trace", "load", "cache", "tokens/s", "found", "first token p50 / p90 / p99 ms", "between p50 / p90 / p99 ms"}};
  for (const Row& row : bench.rows)
    cells.push_back({row.trace, row.load, row.remember ? "on" : "off", fixed(row.served.rate(), 1), fixed(row.served.hits * 100, 0) + "%",
                     three(row.served.first), three(row.served.between)});
  if (!bench.rows.empty()) print_cells(cells, csv);
  cells = {{"line", "measured", "aim"}};
  for (const Line& line : bench.lines) cells.push_back({line.what, line.shown, line.aim});
  if (!bench.rows.empty() && !bench.lines.empty()) std::cout << "\n";
  if (!bench.lines.empty()) print_cells(cells, csv);
}

}  // namespace

void add_bench_serve_flags(CLI::App& app, BenchServeFlags& flags) {
  auto count = [&](const char* name, int& value, const char* what) {
    app.add_option(name, value, what)->check(CLI::Range(1, 1 << 20))->capture_default_str();
  };
  app.footer("Examples:\n  bench serve -t 2\n  bench serve --shape 1b --type q8_0 --only 'texts at once' --repeats 1\n"
             "  bench serve -m models/weights/folio-text-4m.folio --only guesses --draw 64\n  bench serve --rate 20 --json");
  app.add_option("--shape", flags.shape, "random weights of a known shape: " + model_shapes())->capture_default_str();
  app.add_option("-m,--model", flags.file, "a model file, in place of a shape");
  app.add_option("--only", flags.only,
                 "only traces and lines with this in their name: shared prefix, conversations, tree of thoughts, nothing shared, "
                 "first token, looking up, texts at once, guesses by n-grams on repetitive text, guesses that are never right, "
                 "deterministic; one at a time and at once");
  count("--requests", flags.sizes.requests, "of each trace");
  count("--max-batch", flags.running, "texts at once");
  count("--shared", flags.sizes.shared, "tokens of the beginning that texts share");
  count("--own", flags.sizes.own, "tokens that each has behind it, and of a turn or thought");
  count("--draw", flags.draw, "tokens of an answer");
  count("--turns", flags.sizes.turns, "of a conversation");
  count("--hit", flags.hit, "tokens of the prompt whose first token is timed");
  count("--match", flags.match, "tokens of the prompt that is looked up");
  app.add_option("--rate", flags.rate,
                 "requests a second that come at random; 0: 0.7 of those that a closed loop serves without what is remembered")
      ->check(CLI::Range(0.0, 1e6));
}

int bench_serve(const BenchServeFlags& flags) {
  const int threads = flags.threads > 0 ? flags.threads : hardware_threads();
  const auto device = open_device(flags.device, threads);
  const std::string type = flags.types.empty() ? "q8_0" : flags.types[0];
  const Weights weights = flags.file.empty() ? random_weights(model_shape(flags.shape), weight_formats({type})[0]) : Weights(flags.file);
  const auto model = load_model(weights);
  ServeBench bench(*model, *device, flags);
  bench.run();
  if (flags.json) std::printf("%s\n", json_of(bench).dump().c_str());
  else print(bench, flags.csv);
  return 0;
}

}  // namespace folio
