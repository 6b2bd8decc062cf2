// SPDX-License-Identifier: MIT
#include "tools/lib/tracing.h"

#include <cstdio>
#include <optional>

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

// What two devices may differ by: sums in another order; where kernels round a prompt's activations to the weights' format, that.
NodeTolerance tolerance_for(const Weights& weights) {
  double share = 1e-3;
  for (const WeightEntry& entry : weights.tensors())
    if (entry.tensor.type != F32 && entry.tensor.type != F16) share = 0.1;
  return {.atol = 1e-6, .rtol = share, .stol = share};
}

// The step on another device than `program`, which is that of the model's own engine. Devices that pad step shapes and devices that do
// not meet in padded ones: then the model's own device, too, gets an engine that pads.
int compare_first_step(OpenModel& model, std::span<const Token> prompt, Program& program, const std::string& against) {
  const std::unique_ptr<Device> device = against == "reference" ? reference(model.threads) : open_device(against, model.threads);
  EngineOptions options = model.options;
  options.padded = !device->exact_shapes() || !model.device->exact_shapes();
  std::optional<Engine> padded;
  std::optional<FirstStep> padded_step;
  if (options.padded && model.device->exact_shapes()) {
    padded.emplace(*model.model, *model.device, options);
    padded_step.emplace(*padded, prompt);
  }
  Engine other(*model.model, *device, options);
  FirstStep other_step(other, prompt);
  Program& tested = padded_step ? padded_step->program() : program;
  const NodeTolerance tolerance = tolerance_for(model.weights);
  double worst = 0;
  const std::string difference = first_difference(tested, other_step.program(), tolerance, &worst);
  if (difference.empty()) {
    std::printf("%s agrees with %s in all %zu nodes: the largest difference is %.2g of what is allowed, %g of the element and of its "
                "token's RMS\n",
                model.device->name().c_str(), device->name().c_str(), tested.graph().nodes().size(), worst, tolerance.stol);
    return 0;
  }
  std::printf("%s differs from %s: %s\n", model.device->name().c_str(), device->name().c_str(), difference.c_str());
  return 1;
}

}  // namespace

void add_tracing_flags(CLI::App& app, TracingFlags& flags) {
  const std::string group = "Looking inside (of the step that reads the first chunk of the prompt; no text is generated)";
  app.add_flag("--eager", flags.eager, "Run it node by node and print each one's checksum, range and mean")->group(group);
  app.add_option("--against", flags.against,
                 "Run it here and on this device, and name the first node that differs: reference (plain arithmetic), cpu, cuda or cuda:N")
      ->group(group);
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
  return flags.against.empty() ? 0 : compare_first_step(model, prompt, program, flags.against);
}

}  // namespace folio
