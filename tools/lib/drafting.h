// SPDX-License-Identifier: MIT
// Flags of speculation (run/draft.h), and the drafters that they ask for.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "run/scheduler.h"
#include "tools/lib/model.h"

namespace folio {

struct DraftFlags {
  std::string model, accept = "match";
  bool ngram = false, cache = false, always = false;
  int most = 16, least = 3;
  bool any() const { return !model.empty() || ngram || cache; }
};

// --draft --draft-ngram --draft-cache --draft-max --draft-min-match --draft-always --spec-accept
void add_draft_flags(CLI::App& app, DraftFlags& flags);

// What guesses tokens for texts of a model.
class Drafting {
 public:
  // Opens the smaller model, if there is one. Throws Error if it has another vocabulary, naming the first token that differs.
  // `texts`: how many may be guessed at once.
  Drafting(const DraftFlags& flags, const ModelFlags& model_flags, const OpenModel& model, int texts);
  // Null if the flags ask for none.
  std::unique_ptr<Drafter> drafter(const SamplerOptions& sampling, const std::string& scope) const;

 private:
  const DraftFlags& flags_;
  const OpenModel& model_;
  std::unique_ptr<OpenModel> small_;
};

// "drafts 12 rounds, 40 guessed, 31 right (78%)"; empty if nothing was guessed.
std::string draft_line(const DraftStats& drafts);

}  // namespace folio
