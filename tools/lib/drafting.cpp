// SPDX-License-Identifier: MIT
#include "tools/lib/drafting.h"

#include "base/error.h"
#include "tools/lib/main.h"

namespace folio {

void add_draft_flags(CLI::App& app, DraftFlags& flags) {
  const std::string group = "Guessing tokens ahead (the text stays the same, but for --spec-accept)";
  app.add_option("--draft,--model-draft", flags.model, "A smaller model of the same vocabulary guesses")->group(group);
  app.add_flag("--draft-ngram", flags.ngram, "Guess what followed the text's last words where they stood before")->group(group);
  app.add_flag("--draft-cache", flags.cache, "Guess what other texts went on with that began alike (with --batch)")->group(group);
  app.add_option("--draft-max", flags.most, "Most tokens at once; fewer, or none, where that is measured not to pay")
      ->check(CLI::Range(1, 64))->capture_default_str()->group(group);
  app.add_option("--draft-min-match", flags.least, "Last words that must have stood before, for --draft-ngram")
      ->check(CLI::Range(1, 1024))->capture_default_str()->group(group);
  app.add_flag("--draft-always", flags.always, "Guess as many as that whether it pays or not")->group(group);
  app.add_option("--spec-accept", flags.accept,
                 "Which guesses stand. match: those that are what would have been drawn without them, so the text is the same string. "
                 "residual, block: more of them; the text is another one, which hangs on the guesses, on --max-batch and, where memory runs out, on "
                 "other texts, though as likely as any drawn without (not at --temp 0, where all three are one)")
      ->check(CLI::IsMember({"match", "residual", "block"}))->capture_default_str()->group(group);
}

static void check_vocabulary(const OpenModel& small, const OpenModel& model) {
  const std::string path = small.weights.path();
  check(small.vocab() == model.vocab(), "--draft: ", path, " has ", small.vocab(), " tokens, the model ", model.vocab());
  check(small.tokenizer.has_value() == model.tokenizer.has_value(), "--draft: ", path, small.tokenizer ? " has" : " has no", " tokenizer, and the model has",
        small.tokenizer ? " none" : " one");
  if (!model.tokenizer) return;
  for (Token id = 0; id < model.vocab(); ++id)
    check(small.tokenizer->text_of(id) == model.tokenizer->text_of(id) && small.tokenizer->type_of(id) == model.tokenizer->type_of(id),
          "--draft: ", path, " has another vocabulary: token ", id, " is '", one_line(small.tokenizer->decode(id), 20), "' there and '",
          one_line(model.tokenizer->decode(id), 20), "' in the model");
}

Drafting::Drafting(const DraftFlags& flags, const ModelFlags& model_flags, const OpenModel& model, int texts) : flags_(flags), model_(model) {
  if (flags.model.empty()) return;
  ModelFlags small = model_flags;
  small.path = flags.model;
  small.sequences = texts;
  small.context = model.engine->context();
  small.kv_bytes = 0;
  small.cache_type = "auto";
  small_ = std::make_unique<OpenModel>(small);
  check_vocabulary(*small_, model);
}

std::unique_ptr<Drafter> Drafting::drafter(const SamplerOptions& sampling, const std::string& scope) const {
  std::vector<std::unique_ptr<Drafter>> all;
  if (flags_.cache) all.push_back(std::make_unique<CacheDrafter>(model_.engine->cache(), scope));
  if (flags_.ngram) all.push_back(std::make_unique<NgramDrafter>(flags_.least));
  if (small_) all.push_back(std::make_unique<ModelDrafter>(*small_->engine, sampling, accept_of(flags_.accept)));
  if (all.empty()) return nullptr;
  return std::make_unique<Drafters>(std::move(all));
}

std::string draft_line(const DraftStats& d) {
  if (d.drafted == 0) return {};
  return join("guessed ", with_commas(d.drafted), " tokens in ", with_commas(d.rounds), " steps, ", with_commas(d.accepted), " right (",
              (d.accepted * 100 + d.drafted / 2) / d.drafted, "%)");
}

}  // namespace folio
