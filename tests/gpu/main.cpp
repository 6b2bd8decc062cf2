// SPDX-License-Identifier: MIT
// op_check: check_ops() as a program, a line for each case and JSON for the whole. Exit code 0 if every case is as the reference has it,
// 1 if one is not, 77 if there is no such device: nothing was checked then. FOLIO_SEED gives other random inputs.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "cases.h"
#include "gpu/op_check.h"
#include "tools/lib/main.h"
#include "tools/lib/model.h"

using namespace folio;

static nlohmann::json number(double x) { return std::isfinite(x) ? nlohmann::json(x) : nlohmann::json("infinite"); }

static nlohmann::json as_json(const OpCheckReport& report, const std::string& device) {
  struct Sum { int64_t cases = 0, failed = 0; double worst = 0; };
  std::map<std::string, Sum> sums;
  nlohmann::json failures = nlohmann::json::array(), ops = nlohmann::json::object();
  for (const CheckedCase& c : report.cases) {
    Sum& sum = sums[c.op];
    ++sum.cases;
    sum.worst = std::max(sum.worst, c.worst);
    if (c.wrong.empty()) continue;
    ++sum.failed;
    failures.push_back({{"case", c.label}, {"wrong", c.wrong}});
  }
  for (const auto& [op, sum] : sums) ops[op] = {{"cases", sum.cases}, {"failed", sum.failed}, {"worst", number(sum.worst)}};
  return {{"device", device}, {"seed", base_seed()}, {"cases", report.cases.size()}, {"failed", report.failed()},
          {"left_out", report.left_out}, {"stopped", report.stopped}, {"ops", ops}, {"failures", failures}};
}

int main(int argc, char** argv) {
  CLI::App app{"Every op case on a device against the plain reference: replayed twice and eagerly, packed, strided, in place.", "op_check"};
  std::string name = "cuda", json;
  OpCheckOptions options;
  app.add_option("--device", name, "cuda (the first card), cuda:N or cpu")->capture_default_str();
  app.add_option("--only", options.only, "only ops with this in their name");
  app.add_option("--most", options.most, "leave out cases of more operations than this");
  app.add_option("--seconds", options.seconds, "begin no case after so many seconds");
  app.add_option("-t,--threads", options.threads, "threads of the reference (default: all that this process may use)");
  app.add_option("--json", json, "write a summary to this file");
  return run_tool(argc, argv, app, [&] {
    std::unique_ptr<Device> device;
    try {
      device = open_device(name, options.threads);
    } catch (const Error& error) {
      std::printf("op_check: no device '%s', nothing was checked: %s\n", name.c_str(), error.what());
      return 77;
    }
    std::printf("%s, FOLIO_SEED=%llu\n", device->name().c_str(), static_cast<unsigned long long>(base_seed()));
    const OpCheckReport report = check_ops(*device, options, [](const CheckedCase& c) {
      const bool good = c.wrong.empty();
      std::printf("%-6s %-9.3g %s%s%s\n", good ? "ok" : "WRONG", c.worst, c.label.c_str(), good ? "" : " -- ", c.wrong.c_str());
      std::fflush(stdout);   // what follows may be the end of the process
    });
    if (!json.empty()) std::ofstream(json) << as_json(report, device->name()).dump(1) << "\n";
    if (!report.stopped.empty()) std::printf("stopped, the rest was not run: %s\n", report.stopped.c_str());
    std::printf("%zu cases, %lld wrong, %lld left out (too large, or no time left)\n", report.cases.size(),
                static_cast<long long>(report.failed()), static_cast<long long>(report.left_out));
    check(!report.cases.empty(), "no case was run: no op has '", options.only, "' in its name, or all were left out");
    return report.good() ? 0 : 1;
  });
}
