// SPDX-License-Identifier: MIT
// check_golden: runs the mixers on golden numbers (a folder of NAME_T<tokens>.npz) in one go, in random pieces, from nothing
// and from a given state, and says how far off they are: max|got − want| / max|want| of the worst result of each file. Exit code 1 if
// any is farther than its tolerance; a file of a name not known here is named, and is no failure.
#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "base/error.h"
#include "tools/golden/golden.h"
#include "tools/lib/main.h"
#include "tools/lib/model.h"

namespace folio {
namespace {

// Every case there is, what it may be off in float32 arithmetic (20 times what the textbook's order of sums is off, at least 5e-6), and
// who runs it.
struct Entry {
  const char* name;
  double tolerance;
  golden::Check check;
};
constexpr Entry entries[] = {
    {"linattn_elu1", 5e-6, golden::linear},
    {"linattn_relu", 5e-6, golden::linear},
    {"linattn_identity", 7e-6, golden::linear},
    {"gla", 8e-6, golden::linear},
    {"gla_strong", 6e-6, golden::linear},
    {"simple_gla", 6e-6, golden::linear},
    {"retention", 1e-4, golden::linear},
    {"mamba2_ssd", 5e-6, golden::mamba2_ssd},
    {"delta_rule", 6e-6, golden::linear},
    {"delta_rule_negeig", 6e-6, golden::linear},
    {"gated_delta_rule", 6e-6, golden::linear},
    {"gated_delta_rule_gva", 8e-6, golden::linear},
    {"loglinear_mamba2", 1e-5, golden::log_linear},
    {"loglinear_gdn", 4e-5, golden::log_linear},
    {"mesanet", 6e-6, golden::mesa},
    {"mesanet_hard", 2e-4, golden::mesa},
    {"shortconv_silu", 5e-6, golden::short_conv},
    {"layer_mesanet", 4e-5, golden::layer},
    {"layer_mesanet_gate", 1e-5, golden::layer},
    {"layer_mamba2", 2e-5, golden::layer},
    {"layer_loglinear_mamba2", 8e-5, golden::layer},
    {"layer_gated_deltanet", 2e-5, golden::layer},
    {"layer_loglinear_gdn", 4e-5, golden::layer},
    {"softmax_mha", 1e-5, golden::softmax},
    {"softmax_gqa", 9e-6, golden::softmax},
    {"softmax_mqa", 6e-6, golden::softmax},
    {"softmax_gqa_swa16", 7e-6, golden::softmax},
    {"softmax_mha_noncausal", 1e-5, golden::softmax},
    {"ring_contig", 8e-6, golden::ring},
    {"ring_zigzag", 6e-6, golden::ring},
    {"mla_qlora", 9e-6, golden::layer},
    {"mla_noqlora_yarn", 1e-5, golden::layer},
};

const Entry* entry_of(const std::string& name) {
  for (const Entry& e : entries)
    if (name == e.name) return &e;
  return nullptr;
}

struct Verdict {
  std::vector<std::string> line;   // of the table
  bool passed = true;
};

Verdict check_file(const std::filesystem::path& path, Device& device) {
  const std::string stem = path.stem().string(), name = stem.substr(0, stem.rfind("_T"));
  const Entry* entry = entry_of(name);
  if (!entry) return {{stem, "", "", "not a case known here"}};
  golden::Case c(path.string(), name, device);
  entry->check(c);
  check(c.compared > 0, path.string(), ": nothing in it was compared");
  const bool good = c.worst <= entry->tolerance;
  char worst[32], may[32];
  std::snprintf(worst, sizeof worst, "%.1e", c.worst);
  std::snprintf(may, sizeof may, "%.0e", entry->tolerance);
  return {{stem, worst, may, good ? "ok" : join("WRONG, worst in ", c.where)}, good};
}

int check_golden(const std::string& folder, const std::string& device_name, int threads) {
  check(std::filesystem::is_directory(folder), folder, ": not a folder");
  std::vector<std::filesystem::path> files;
  for (const auto& file : std::filesystem::directory_iterator(folder))
    if (file.path().extension() == ".npz") files.push_back(file.path());
  check(!files.empty(), folder, ": no .npz file in it");
  std::sort(files.begin(), files.end());
  const std::unique_ptr<Device> device = device_name == "reference" ? reference(threads) : open_device(device_name, threads);
  std::vector<std::vector<std::string>> lines = {{"case", "worst error", "allowed", "verdict"}};
  int wrong = 0, run = 0;
  for (const auto& file : files) {
    const Verdict v = check_file(file, *device);
    lines.push_back(v.line);
    wrong += !v.passed;
    run += !v.line[1].empty();
  }
  std::printf("%s%d files, %d run on %s, %d wrong\n", table(lines, {1, 2}).c_str(), int(files.size()), run, device->name().c_str(), wrong);
  return wrong == 0 ? 0 : 1;
}

}  // namespace
}  // namespace folio

int main(int argc, char** argv) {
  CLI::App app("Compares the mixers with golden numbers.", "check_golden");
  std::string folder, device = "cpu";
  int threads = 0;
  app.add_option("folder", folder, "folder with NAME_T<tokens>.npz")->required();
  app.add_option("--device", device, "cpu, reference, cuda or cuda:N")->capture_default_str();
  app.add_option("-t,--threads", threads, "threads of the CPU; 0: all")->check(CLI::Range(0, 1024));
  return folio::run_tool(argc, argv, app, [&] { return folio::check_golden(folder, device, threads); });
}
