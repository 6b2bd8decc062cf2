// SPDX-License-Identifier: MIT
#include "run/engine.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace folio {

// On a device where recording is cheap, old shapes are dropped: some 12 KB a layer. As many as guesses make, and a few of prompts.
constexpr size_t most_programs = 24;

static CacheOptions cache_options(const Model& model, const EngineOptions& options) {
  const int64_t context = options.context > 0 ? options.context : model.context();
  check(options.context >= 0, "engine: a context of ", options.context, " tokens");
  check(context <= model.longest(), "engine: a context of ", context, " tokens; the model's positions end at ", model.longest());
  check(options.chunk >= 1 && options.chunk <= 1 << 20, "engine: ", options.chunk, " tokens a step; expected 1 to 2^20");
  check(options.sequences >= 1, "engine: ", options.sequences, " sequences");
  return {.context = context, .sequences = options.sequences, .step_tokens = int(std::min<int64_t>(options.chunk, context)),
          .bytes = options.kv_bytes, .remember = options.remember, .host_bytes = options.host_bytes, .evict = options.evict};
}

Engine::Engine(const Model& model, Device& device, const EngineOptions& options)
    : model_(model), device_(device), chunk_(options.chunk), padded_(options.padded || !device.exact_shapes()),
      deterministic_(options.deterministic), expand_latents_(options.expand_latents),
      cache_(device, model.state(options.cache_type.value_or(model.natural_rows())), cache_options(model, options)) {
  chunk_ = cache_.options().step_tokens;
}

StepShape Engine::shape_of(std::span<const Work> works) const {
  StepShape shape{0, int(works.size()), 0};
  for (const Work& work : works) {
    shape.tokens += int(work.tokens.size());
    shape.wanted += work.wanted;
  }
  if (!padded_) return shape;
  auto round_up = [](int n) {
    int up = 1;
    while (up < n) up *= 2;
    return up;
  };
  return {round_up(shape.tokens), round_up(shape.sequences), shape.wanted ? round_up(shape.wanted) : 0};
}

Program& Engine::program(const StepShape& shape, const std::optional<DrawShape>& draw) {
  for (auto it = programs_.begin(); it != programs_.end(); ++it)
    if (it->shape == shape && it->draw == draw) {
      programs_.splice(programs_.begin(), programs_, it);
      return *it->program;
    }
  if (device_.exact_shapes() && programs_.size() >= most_programs) {
    if (last_ == programs_.back().program.get()) last_ = nullptr;
    programs_.pop_back();
  }
  auto graph = std::make_unique<Graph>();
  Step step(*graph, shape, cache_.memory().kinds, cache_.memory().most_pages);
  step.deterministic = deterministic_;
  step.expand_latents = expand_latents_;
  const Tensor logits = model_.logits(step, cache_.memory());
  if (draw) graph->output("drawn", model_.draw(logits, DrawInputs(*graph, shape.wanted, *draw)));
  graph->output("logits", logits, draw.has_value());
  programs_.push_front({shape, draw, device_.compile_in(workspace_, std::move(graph))});
  return *programs_.front().program;
}

Program& Engine::prepare(std::span<const Work> works, const std::optional<DrawShape>& draw) {
  const StepShape shape = shape_of(works);
  Program& program = this->program(shape, draw);
  int32_t* token = program.input("token").at<int32_t>();
  int32_t* pos = program.input("pos").at<int32_t>();
  int32_t* seq = program.input("seq").at<int32_t>();
  int32_t* length = program.input("length").at<int32_t>();
  int32_t* wanted = program.input("wanted").at<int32_t>();
  int t = 0, w = 0;
  for (int b = 0; b < int(works.size()); ++b) {
    const Work& work = works[size_t(b)];
    const int n = int(work.tokens.size());
    assert(work.wanted <= n);
    for (int i = 0; i < n; ++i, ++t) {
      token[t] = work.tokens[size_t(i)];
      pos[t] = int32_t(work.seq->length() + i);
      seq[t] = b;
    }
    for (int i = n - work.wanted; i < n; ++i) wanted[w++] = t - n + i;
    length[b] = int32_t(work.seq->length() + n);
  }
  for (; t < shape.tokens; ++t) token[t] = seq[t] = -1, pos[t] = 0;
  for (; w < shape.wanted; ++w) wanted[w] = -1;
  for (int b = int(works.size()); b < shape.sequences; ++b) length[b] = 0;
  for (int k = 0; k < cache_.memory().kinds; ++k) {
    Tensor table = program.input(Step::page_name(k));
    for (int b = 0; b < shape.sequences; ++b) {
      int32_t* ids = table.row<int32_t>(b);
      if (b < int(works.size())) cache_.table(*works[size_t(b)].seq, k, ids);
      else std::fill(ids, ids + table.cols(), -1);
    }
  }
  return program;
}

void Engine::run(Program& program, std::span<const Work> works) {
  program.run();
  last_ = &program;
  wanted_ = 0;
  for (const Work& work : works) wanted_ += work.wanted;
}

Tensor Engine::step(std::span<const Work> works) {
  run(prepare(works), works);
  return logits();
}

Tensor Engine::logits() {
  assert(last_ != nullptr);
  const Tensor logits = last_->output("logits");
  return logits.dim(0) > wanted_ ? logits.slice(0, wanted_) : logits;   // a padded shape has rows that nobody asked for
}

std::span<const Token> Engine::draw(std::span<const Work> works, std::span<const Draw> draws) {
  DrawShape shape;
  for (const Draw& draw : draws) {
    const std::optional<DrawShape> one = draw.sampler->draw_shape(context());
    assert(one.has_value());
    shape = {std::max(shape.seen, one->seen), std::max(shape.biases, one->biases)};
  }
  Program& program = prepare(works, shape);
  const DrawInputs inputs(program, shape);
  for (size_t i = 0; i < draws.size(); ++i) draws[i].sampler->write(inputs, int(i), draws[i].text);
  for (int64_t i = int64_t(draws.size()); i < inputs.options.dim(0); ++i) {   // padding: greedy, without penalties
    std::memset(inputs.options.row<float>(i), 0, draw_options * sizeof(float));
    std::memset(inputs.place.row<int32_t>(i), 0, draw_places * sizeof(int32_t));
    if (inputs.seen.present()) std::fill_n(inputs.seen.row<int32_t>(i * shape.seen), 2 * shape.seen, -1);
    if (inputs.bias.present()) std::fill_n(inputs.biased.row<int32_t>(i), shape.biases, -1);
  }
  run(program, works);
  assert(size_t(wanted_) == draws.size());
  return {program.output("drawn").at<Token>(), draws.size()};
}

Tensor Engine::read(Seq& seq, std::span<const Token> tokens) {
  check(!tokens.empty(), "engine: nothing to read");
  Tensor logits;
  for (size_t from = 0; from < tokens.size();) {
    const size_t n = std::min(tokens.size() - from, size_t(chunk_));
    const auto part = tokens.subspan(from, n);
    check(cache_.reserve(seq, int(n), int(n)), "engine: ", seq.length() + int64_t(tokens.size() - from), " tokens do not fit into a context of ",
          context());
    const bool last = from + n == tokens.size();
    const Work work{&seq, part, last ? 1 : 0};
    logits = step({&work, 1});
    cache_.commit(seq, part);
    from += n;
  }
  return logits;
}

}  // namespace folio
