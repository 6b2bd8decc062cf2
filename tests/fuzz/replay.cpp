// SPDX-License-Identifier: MIT
// Replays the corpus and then seeded random mutations of it through all targets. Built with AddressSanitizer and UBSan; every
// input must end in success or in Error, within 64 MB for one allocation, 128 MB for all at a time and ten seconds.
//   fuzz_replay CORPUS [MUTATIONS [SEED]]     mutation number n depends on SEED and n alone
//   fuzz_replay --only N CORPUS [SEED]        that one again, for a debugger; it is left in fuzz-input.folio
//   fuzz_replay --write CORPUS                writes the seeds, after a change of the format
//   fuzz_replay --media [MUTATIONS [SEED]]    the same of pictures and clips, from seeds that are made on the spot
//   fuzz_replay --only-media N [SEED]         that one again, left in fuzz-input.media
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>

#include "base/error.h"
#include "fuzz.h"

#ifdef __has_feature  // clang's way to say it
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
// GCC 12 brings these functions but not the header that declares them.
extern "C" size_t __sanitizer_get_current_allocated_bytes();
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*)(const volatile void*, size_t), void (*)(const volatile void*));
extern "C" void __sanitizer_set_death_callback(void (*)());
extern "C" const char* __asan_default_options() {
  return "max_allocation_size_mb=64:allocator_may_return_null=0:quarantine_size_mb=16";
}
#endif

namespace folio::fuzz {
namespace {

constexpr unsigned most_seconds = 10;
char where[160] = "before the first input";  // for the moment when all else is lost

void say_where() {
  [[maybe_unused]] const ssize_t n = write(2, where, std::char_traits<char>::length(where));
}

void too_slow(int) {
  say_where();
  constexpr char text[] = ": took too long\n";
  [[maybe_unused]] const ssize_t n = write(2, text, sizeof text - 1);
  _exit(1);
}

// Of this process's own time: a busy machine is no reason to complain. 0: none.
void time_limit(unsigned seconds) {
  itimerval limit{};
  limit.it_value.tv_sec = seconds;
  setitimer(ITIMER_PROF, &limit, nullptr);
}

#ifdef __SANITIZE_ADDRESS__
constexpr size_t most_live = 128 << 20;
size_t live_before = 0;
void on_malloc(const volatile void*, size_t size) {
  if (size < (1 << 16) || __sanitizer_get_current_allocated_bytes() + size < live_before + most_live) return;
  say_where();
  constexpr char text[] = ": more memory than a small file can justify\n";
  [[maybe_unused]] const ssize_t n = write(2, text, sizeof text - 1);
  _exit(1);
}
void on_free(const volatile void*) {}
#endif

// What came of the inputs. Refusals are counted by their sentences without digits and names: so many checks were reached.
struct Outcome {
  size_t inputs = 0, accepted[2] = {};   // by each target
  std::map<std::string, size_t> refusals;
};

// What is tried on every input.
using Target = bool (*)(std::span<const std::byte>, std::string*);
constexpr Target models[] = {try_weights, try_tokenizer}, media[] = {try_picture, try_clip};

std::string kind_of(const std::string& why) {
  std::string out;
  bool quoted = false;
  for (const char c : why.substr(0, why.find("its hash is"))) {
    if (c == '\'') quoted = !quoted;
    if (!quoted && (c < '0' || c > '9')) out += c;
  }
  return out.substr(0, 80);
}

void feed(const std::string& file, const Target (&targets)[2], Outcome& outcome) {
#ifdef __SANITIZE_ADDRESS__
  live_before = __sanitizer_get_current_allocated_bytes();
#endif
  time_limit(most_seconds);
  ++outcome.inputs;
  for (const int i : {0, 1}) {
    std::string why;
    if (targets[i](as_bytes(file), &why)) ++outcome.accepted[i];
    else ++outcome.refusals[kind_of(why)];
  }
  time_limit(0);
}

std::vector<std::pair<std::string, std::string>> read_corpus(const std::string& folder) {
  std::vector<std::pair<std::string, std::string>> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.is_regular_file()) files.emplace_back(entry.path().filename().string(), read_file(entry.path().string()));
  std::sort(files.begin(), files.end());
  check(!files.empty(), folder, ": no corpus");
  return files;
}

class Mutations {
 public:
  explicit Mutations(const std::vector<std::pair<std::string, std::string>>& corpus) : seeds_(seeds()) {
    for (const auto& [name, file] : corpus) files_.push_back(file);
    for (const Seed& seed : seeds_) files_.push_back(seed.content.bytes());
  }
  std::string make(uint64_t seed, uint64_t n) const {
    std::mt19937_64 random(seed * 0x9e3779b97f4a7c15u + n);
    if (random() % 2) return spoil_bytes(files_[random() % files_.size()], files_[random() % files_.size()], random);
    const size_t first = random() % 8 ? seeds_.size() - 3 : 0;  // mostly a tokenizer: it is the larger parser
    const WeightsWriter& start = seeds_[first + random() % (seeds_.size() - first)].content;
    const std::string content = spoil_content(start, seeds_[random() % seeds_.size()].content, random);
    return random() % 8 ? content : spoil_bytes(content, files_[random() % files_.size()], random);
  }

 private:
  std::vector<Seed> seeds_;
  std::vector<std::string> files_;
};

void print(const Outcome& outcome, const char* first, const char* second) {
  std::printf("%zu inputs: %zu accepted as %s, %zu as %s, %zu kinds of refusal\n", outcome.inputs, outcome.accepted[0], first,
              outcome.accepted[1], second, outcome.refusals.size());
  if (!std::getenv("FUZZ_VERBOSE")) return;
  for (const auto& [why, times] : outcome.refusals) std::printf("%7zu  %s\n", times, why.c_str());
}

int write_seeds(const std::string& folder) {
  for (const Seed& seed : seeds()) seed.content.save(folder + "/" + seed.name + ".folio");
  std::string newer = seeds()[0].content.bytes(), cut = seeds()[0].content.bytes();
  put_at<uint32_t>(newer, 8, 2);
  cut.resize(cut.size() / 2);
  for (const auto& [name, bytes] : {std::pair{"newer", newer}, {"cut", cut}, {"gguf", std::string("GGUF\3\0\0\0", 8)}}) {
    FileWriter out(folder + "/" + name + ".folio");
    out.write(bytes);
    out.commit();
  }
  return 0;
}

int replay(const std::string& folder, uint64_t count, uint64_t seed) {
  const auto corpus = read_corpus(folder);
  Outcome outcome;
  for (const auto& [name, file] : corpus) {
    std::snprintf(where, sizeof where, "corpus file %s", name.c_str());
    feed(file, models, outcome);
  }
  for (const Seed& one : seeds()) {  // a seed that is refused would leave us mutating rubbish
    std::string why;
    const std::string file = one.content.bytes();
    const bool tokenizer = one.name != "everything" && one.name != "nothing";
    check(try_weights(as_bytes(file), &why) && (!tokenizer || try_tokenizer(as_bytes(file), &why)), "seed ", one.name, ": ", why);
  }
  const Mutations mutations(corpus);
  for (uint64_t n = 0; n < count; ++n) {
    std::snprintf(where, sizeof where, "mutation %s of seed %s", std::to_string(n).c_str(), std::to_string(seed).c_str());
    feed(mutations.make(seed, n), models, outcome);
  }
  print(outcome, "weights", "tokenizers");
  // The mutations have to reach the code behind the checks, or the test says nothing.
  const bool deep = outcome.accepted[0] > 2000 && outcome.accepted[1] > 500 && outcome.refusals.size() > 60;
  check(deep || count < 10000, "the mutations reach too little");
  return 0;
}

std::string spoilt_media(const std::vector<std::string>& seeds, uint64_t seed, uint64_t n) {
  std::mt19937_64 random(seed * 0x9e3779b97f4a7c15u + n);
  const size_t first = random() % seeds.size();
  return spoil_media(seeds[first], seeds[random() % seeds.size()], random);
}

int replay_media(uint64_t count, uint64_t seed) {
  const std::vector<std::string> seeds = media_seeds();
  Outcome outcome;
  for (const std::string& file : seeds) {
    std::snprintf(where, sizeof where, "a seed of %zu bytes", file.size());
    std::string why;
    check((file.starts_with("YUV") ? try_clip : try_picture)(as_bytes(file), &why), where, ": ", why);
  }
  for (uint64_t n = 0; n < count; ++n) {
    std::snprintf(where, sizeof where, "media mutation %s of seed %s", std::to_string(n).c_str(), std::to_string(seed).c_str());
    feed(spoilt_media(seeds, seed, n), media, outcome);
  }
  print(outcome, "pictures", "clips");
  const bool deep = outcome.accepted[0] > 500 && outcome.accepted[1] > 200 && outcome.refusals.size() > 100;
  check(deep || count < 10000, "the mutations reach too little");
  return 0;
}

void write_input(const std::string& name, const std::string& file) {
  FileWriter out(name);
  out.write(file);
  out.commit();
}

int main_of(const std::vector<std::string>& args) {
  const auto number = [&](size_t i, uint64_t absent) { return i < args.size() ? std::stoull(args[i]) : absent; };
  if (args.size() == 2 && args[0] == "--write") return write_seeds(args[1]);
  if (args.size() >= 3 && args[0] == "--only") {
    const std::string file = Mutations(read_corpus(args[2])).make(number(3, 1), number(1, 0));
    write_input("fuzz-input.folio", file);
    Outcome outcome;
    feed(file, models, outcome);
    for (const auto& [why, times] : outcome.refusals) std::printf("%s\n", why.c_str());
    return 0;
  }
  if (!args.empty() && args[0] == "--media") return replay_media(number(1, 10000), number(2, 1));
  if (args.size() >= 2 && args[0] == "--only-media") {
    const std::string file = spoilt_media(media_seeds(), number(2, 1), number(1, 0));
    write_input("fuzz-input.media", file);
    Outcome outcome;
    feed(file, media, outcome);
    print(outcome, "pictures", "clips");
    return 0;
  }
  check(!args.empty() && args.size() <= 3,
        "usage: fuzz_replay [--write | --only N] CORPUS [MUTATIONS [SEED]], or --media [MUTATIONS [SEED]]");
  return replay(args[0], number(1, 10000), number(2, 1));
}

}  // namespace
}  // namespace folio::fuzz

int main(int argc, char** argv) {
  signal(SIGPROF, folio::fuzz::too_slow);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_set_death_callback(folio::fuzz::say_where);
  __sanitizer_install_malloc_and_free_hooks(folio::fuzz::on_malloc, folio::fuzz::on_free);
#endif
  try {
    return folio::fuzz::main_of({argv + 1, argv + argc});
  } catch (const std::exception& error) {  // of a target too: anything but Error is a bug
    std::fprintf(stderr, "%s: %s\n", folio::fuzz::where, error.what());
    return 1;
  }
}
