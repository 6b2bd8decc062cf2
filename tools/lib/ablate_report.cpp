// SPDX-License-Identifier: MIT
#include "tools/lib/ablate_report.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "tools/lib/bench.h"
#include "tools/lib/plot.h"

namespace folio {

namespace {

using Json = nlohmann::ordered_json;

const char* word(Technique::Effect effect) {
  return effect == Technique::Effect::exact ? "the same" : effect == Technique::Effect::rounding ? "the same but for rounding" : "lossy";
}

const Spread* figure_of(const Configuration& c, const std::string& key) {
  const auto it = c.figures.find(key);
  return it == c.figures.end() ? nullptr : &it->second;
}

std::string line(const std::vector<std::string>& cells) {
  std::string text = "|";
  for (const std::string& cell : cells) text += " " + cell + " |";
  return text + "\n";
}

std::string rows(const std::vector<std::vector<std::string>>& all) {
  std::string text = line(all[0]) + line(std::vector<std::string>(all[0].size(), "---"));
  for (size_t i = 1; i < all.size(); ++i) text += line(all[i]);
  return text + "\n";
}

// "12.3 ± 0.4"; the spread is left out where nothing was repeated or nothing differed.
std::string cell(const Spread* s, const Figure& f) {
  if (!s) return "–";
  const std::string mean = fixed(s->mean * f.scale, f.digits);
  return s->sd > 0 ? mean + " ± " + fixed(s->sd * f.scale, f.digits) : mean;
}

std::string group_table(const Study& study, const std::string& group) {
  std::vector<std::vector<std::string>> all = {{"configuration"}};
  for (const Figure& f : all_figures())
    if (f.group == group) all[0].push_back(f.heading);
  bool any = false;
  for (const Configuration& c : study.configurations) {
    all.push_back({c.name});
    for (const Figure& f : all_figures()) {
      if (f.group != group) continue;
      const Spread* s = figure_of(c, f.key);
      any = any || s;
      all.back().push_back(cell(s, f));
      if (std::string(f.key) == "equal_tokens" && c.must_equal && !c.equal) all.back().back() += " **must be 100**";
    }
  }
  return any ? "## " + group + "\n\n" + rows(all) : "";
}

std::string ratio(const Spread* with, const Spread* without) {
  return with && without && without->mean > 0 ? fixed(with->mean / without->mean, 2) + "×" : "–";
}

const Configuration* named(const Study& study, const std::string& name) {
  for (const Configuration& c : study.configurations)
    if (c.name == name) return &c;
  return nullptr;
}

// What each technique brings: by itself, and where all others are on already.
std::string effects(const Study& study) {
  const std::vector<std::string> keys = {"generated_tps", "first_p50", "between_p50", "held_bytes"};
  std::vector<std::vector<std::string>> all = {{"technique"}};
  for (const Figure& f : all_figures())
    for (const std::string& key : keys)
      if (key == f.key) all[0].push_back(std::string(f.heading) + ": alone"), all[0].push_back("with the others");
  bool any = false;
  for (const Technique& t : study.techniques) {
    all.push_back({t.name});
    for (const std::string& key : keys) {
      const auto in = [&](const std::string& name) { return figure_of(*named(study, name), key); };
      all.back().push_back(ratio(in(t.name + " alone"), in("all off")));
      all.back().push_back(ratio(in("all on"), in("without " + t.name)));
      any = any || in("all off");
    }
  }
  return any ? "## What each brings\n\nTimes as much as without it.\n\n" + rows(all) : "";
}

std::string markdown(const Study& study) {
  std::string text =
      join("# Ablation study\n\n", study.model, " on ", study.device, "; ", study.requests, " requests (", study.data, "), ", study.running,
           " clients at once; ", study.repeats, study.repeats == 1 ? " run" : " runs", " of each configuration in shuffled order",
           study.repeats > 1 ? ", mean ± standard deviation" : "", "; perplexity of ", study.text, ".\n\n");
  std::vector<std::vector<std::string>> all = {{"technique", "on", "off", "texts"}};
  for (const Technique& t : study.techniques) all.push_back({t.name, t.on, t.off, word(t.effect)});
  text += rows(all);
  for (const auto& [name, why] : study.left_out) text += join("Left out: `", name, "`: ", why, ".\n\n");
  for (const std::string& group : metric_groups()) text += group_table(study, group);
  text += effects(study);
  if (!study.kept_its_word()) text += "**Some configuration drew other tokens than all off, though none of its techniques may.**\n";
  return text;
}

Json json_of(const Spread& s) { return {{"mean", s.mean}, {"sd", s.sd}, {"min", s.least}, {"max", s.most}}; }

std::string json_of(const Study& study) {
  Json out{{"model", study.model},
           {"device", study.device},
           {"data", study.data},
           {"perplexity_of", study.text},
           {"requests", study.requests},
           {"clients", study.running},
           {"repeats", study.repeats},
           {"techniques", Json::array()},
           {"left_out", Json::array()},
           {"configurations", Json::array()},
           {"kept_its_word", study.kept_its_word()}};
  for (const Technique& t : study.techniques)
    out["techniques"].push_back({{"name", t.name}, {"on", t.on}, {"off", t.off}, {"texts", word(t.effect)}});
  for (const auto& [name, why] : study.left_out) out["left_out"].push_back({{"name", name}, {"why", why}});
  for (const Configuration& c : study.configurations) {
    Json one{{"name", c.name}, {"on", c.on}, {"must_equal", c.must_equal}, {"equal", c.equal}, {"figures", Json::object()}};
    for (const Figure& f : all_figures())
      if (const Spread* s = figure_of(c, f.key)) one["figures"][f.key] = json_of(*s);
    out["configurations"].push_back(std::move(one));
  }
  return out.dump(1) + "\n";
}

std::string csv(const Study& study) {
  std::vector<const Figure*> there;
  for (const Figure& f : all_figures())
    if (std::any_of(study.configurations.begin(), study.configurations.end(), [&](const Configuration& c) { return figure_of(c, f.key); }))
      there.push_back(&f);
  std::string text = "configuration,must_equal,equal";
  for (const Figure* f : there) text += join(",", f->key, ",", f->key, "_sd,", f->key, "_min,", f->key, "_max");
  for (const Configuration& c : study.configurations) {
    text += join("\n", c.name, ",", int(c.must_equal), ",", int(c.equal));
    for (const Figure* f : there) {
      const Spread* s = figure_of(c, f->key);
      for (double x : s ? std::vector<double>{s->mean, s->sd, s->least, s->most} : std::vector<double>()) text += join(",", x);
      if (!s) text += ",,,,";
    }
  }
  return text + "\n";
}

std::string svg(const Study& study) {
  std::vector<std::string> names;
  for (const Configuration& c : study.configurations) names.push_back(c.name);
  std::vector<BarPanel> panels;
  for (const Figure& f : all_figures()) {
    const std::string key = f.key;
    if (key != "generated_tps" && key != "first_p50" && key != "held_bytes" && key != "equal_tokens") continue;
    BarPanel panel{f.heading, f.digits, {}};
    for (const Configuration& c : study.configurations) {
      const Spread* s = figure_of(c, key);
      panel.bars.push_back(s ? std::optional(BarPanel::Bar{s->mean * f.scale, s->least * f.scale, s->most * f.scale}) : std::nullopt);
    }
    if (std::any_of(panel.bars.begin(), panel.bars.end(), [](const auto& bar) { return bar.has_value(); }))
      panels.push_back(std::move(panel));
  }
  return svg_bars("Ablation study: " + study.model, names, panels);
}

struct Form {
  const char* ending;
  std::string (*write)(const Study&);
};
constexpr Form forms[] = {{".md", markdown}, {".json", json_of}, {".csv", csv}, {".svg", svg}};

const Form& form_of(const std::string& path) {
  for (const Form& form : forms)
    if (path.ends_with(form.ending)) return form;
  fail("-o ", path, ": the name says no form; expected .md, .json, .csv or .svg");
}

}  // namespace

void check_report_name(const std::string& path) { form_of(path); }
std::string ablate_report(const Study& study, const std::string& path) { return form_of(path).write(study); }

}  // namespace folio
