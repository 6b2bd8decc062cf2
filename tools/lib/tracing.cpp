// SPDX-License-Identifier: MIT
#include "tools/lib/tracing.h"

#include <cstdio>

#include "graph/plan.h"
#include "graph/print.h"

namespace folio {

namespace {

// The program of the step that reads `prompt`, its inputs set.
class FirstStep {
 public:
  FirstStep(Engine& engine, std::span<const Token> prompt) : engine_(engine), seq_(engine.cache().open({})) {
    check(engine.cache().reserve(seq_, int(prompt.size()), int(prompt.size())), "no memory left in the cache for ", prompt.size(), " tokens");
    const Work work{&seq_, prompt, 1};
    program_ = &engine.prepare({&work, 1});
  }
  ~FirstStep() { engine_.cache().close(seq_); }
  Program& program() { return *program_; }

 private:
  Engine& engine_;
  Seq seq_;
  Program* program_;
};

// Sums in another order, and products in the formats that kernels use: 16 bits of mantissa at worst would be 2^-8.
constexpr float atol = 1e-2f, rtol = 1e-2f;

}  // namespace

void add_tracing_flags(CLI::App& app, TracingFlags& flags) {
  const std::string group = "Looking inside (of the step that reads the first chunk of the prompt; no text is generated)";
  app.add_flag("--eager", flags.eager, "Run it node by node and print each one's checksum, range and mean")->group(group);
  app.add_option("--against", flags.against, "Run it here and on this device, and name the first node that differs: reference")
      ->check(CLI::IsMember({"reference"}))->group(group);
  app.add_option("--print-graph", flags.print_graph, "Print its graph as text or as dot")
      ->check(CLI::IsMember({"text", "dot"}))
      ->group(group);
}

int trace_first_step(OpenModel& model, std::span<const Token> prompt, const TracingFlags& flags) {
  prompt = prompt.first(std::min(prompt.size(), size_t(model.engine->chunk())));
  FirstStep step(*model.engine, prompt);
  Program& program = step.program();
  if (!flags.print_graph.empty()) {
    const Graph& graph = program.graph();
    std::fputs((flags.print_graph == "dot" ? print_dot(graph) : print_text(graph, make_plan(graph))).c_str(), stdout);
  }
  if (flags.eager) std::fputs(print_trace(program).c_str(), stdout);
  if (flags.against.empty()) return 0;
  const std::unique_ptr<Device> device = reference(model.threads);
  Engine engine(*model.model, *device, model.options);
  FirstStep other(engine, prompt);
  const std::string difference = first_difference(program, other.program(), atol, rtol);
  if (difference.empty()) {
    std::printf("%s agrees with %s in all %zu nodes (within %g + %g·|reference|)\n", model.device->name().c_str(), device->name().c_str(),
                program.graph().nodes().size(), double(atol), double(rtol));
    return 0;
  }
  std::printf("%s differs from %s: %s\n", model.device->name().c_str(), device->name().c_str(), difference.c_str());
  return 1;
}

}  // namespace folio
