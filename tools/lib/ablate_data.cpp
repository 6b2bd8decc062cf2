// SPDX-License-Identifier: MIT
#include "tools/lib/ablate_data.h"

#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "base/file.h"

namespace folio {

namespace {

const char* const beginning =
    "The house at the end of the harbour had nine windows, and behind each of them somebody kept a light. In the first lived a woman who "
    "mended "
    "nets and knew the price of every fish; in the second her brother, who had been to sea for thirty years and spoke of nothing else. The "
    "third "
    "stood empty. In the fourth a clockmaker counted the hours for the whole street, and whoever passed by set his watch. Nobody had seen "
    "the "
    "people of the fifth window by day. The sixth belonged to a school of four children and one teacher, the seventh to a baker, the "
    "eighth to "
    "the baker's cat. And behind the ninth, under the roof, a student wrote down what he saw in all the others, for he had promised a "
    "letter "
    "each week to his mother in the hills, who had never looked upon the water. ";

const char* const questions[] = {"This week he wrote of the clockmaker:", "This week he wrote of the storm:",
                                 "This week he wrote of the cat:", "This week he wrote nothing, because",
                                 "This week he wrote of the fifth window:"};
const char* const repeated[] = {"red, green, blue, ", "Who is there? It is I. Who is I? ", "one and two and three and ",
                                "ROMEO:\nO, speak again!\n\nJULIET:\nO Romeo!\n\n"};
const char* const alone[] = {"To make bread one needs", "The king said to his brother:", "In the year of the great frost"};
constexpr int repeats = 10;

std::string line(const nlohmann::json& prompt) { return nlohmann::json{{"prompt", prompt}}.dump() + "\n"; }

// Shorter for a small context: no token is less than a byte.
std::string built_in_text(int64_t context) {
  const std::string shared = std::string(beginning).substr(0, size_t(context) / 2);
  std::string lines;
  for (const char* question : questions) lines += line(shared + question);
  for (const char* part : repeated) {
    std::string text;
    for (int i = 0; i < repeats; ++i) text += part;
    lines += line(text.substr(0, size_t(context) / 2));
  }
  for (const char* text : alone) lines += line(text);
  for (int again : {0, 2}) lines += line(shared + questions[again]);
  return lines;
}

// The same for a model without a tokenizer: ids at random.
std::string built_in_ids(int64_t vocab) {
  using Ids = std::vector<int64_t>;
  std::mt19937_64 random(1);
  const auto some = [&](int n) {
    Ids ids;
    for (int i = 0; i < n; ++i) ids.push_back(int64_t(random() % uint64_t(vocab)));
    return ids;
  };
  std::string lines, again;
  const Ids shared = some(200);
  for (int i = 0; i < 5; ++i) {
    Ids ids = shared, own = some(10);
    ids.insert(ids.end(), own.begin(), own.end());
    lines += line(ids);
    if (i % 2 == 0 && i < 4) again += line(ids);
  }
  for (int i = 0; i < 4; ++i) {
    const Ids part = some(8);
    Ids ids;
    for (int r = 0; r < repeats; ++r) ids.insert(ids.end(), part.begin(), part.end());
    lines += line(ids);
  }
  for (int i = 0; i < 3; ++i) lines += line(some(6));
  return lines + again;
}

std::vector<BatchLine> read_lines(const OpenModel& model, const BatchDefaults& defaults, const std::string& text, const std::string& name) {
  const BatchReader reader(model, defaults);
  std::vector<BatchLine> lines;
  int64_t number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view one = std::string_view(text).substr(at, end - at);
    at = end + 1;
    ++number;
    if (one.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    BatchLine line = reader.read(int64_t(lines.size()), number, one);
    check(line.error.empty(), name, ": line ", number, ": ", line.error);
    const int64_t context = model.engine->context();
    check(int64_t(line.prompt.size()) < context, name, ": line ", number, ": the prompt has ", line.prompt.size(),
          " tokens and the context holds ", context, "; a longer one: -c");
    lines.push_back(std::move(line));
  }
  check(!lines.empty(), name, ": holds no request");
  return lines;
}

}  // namespace

Workload ablate_workload(const OpenModel& model, const AblateFlags& flags, Study& in_words) {
  Workload work{.clients = flags.running, .device = flags.model.device};
  const bool ours = flags.data.empty();
  in_words.data = ours ? "built in" : flags.data;
  const auto built_in = [&] { return model.tokenizer ? built_in_text(model.engine->context()) : built_in_ids(model.vocab()); };
  work.lines = read_lines(model, flags.defaults, ours ? built_in() : read_file(flags.data), in_words.data);
  if (flags.text.empty()) {
    in_words.text = "the second halves of the prompts";
    for (const BatchLine& line : work.lines) work.texts.push_back(line.prompt);
    return work;
  }
  in_words.text = "the second halves of pieces of " + flags.text;
  const std::vector<Token> all = model.encode(read_file(flags.text));
  check(all.size() > 1, flags.text, ": has fewer than two tokens, which no perplexity can be taken of");
  const size_t piece = size_t(model.engine->context());
  for (size_t at = 0; at < all.size(); at += piece)
    work.texts.emplace_back(all.begin() + ptrdiff_t(at), all.begin() + ptrdiff_t(std::min(at + piece, all.size())));
  return work;
}

}  // namespace folio
