// SPDX-License-Identifier: MIT
#include "tools/lib/plot.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "tools/lib/bench.h"

namespace folio {

namespace {

constexpr double panel_width = 560, panel_height = 380, left = 70, right = 20, top = 36, bottom = 52, head = 44, legend_width = 210;

std::string escaped(const std::string& text) {
  std::string out;
  for (char c : text) out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : c == '"' ? "&quot;" : std::string(1, c);
  return out;
}

// `more`: further attributes.
std::string words(double x, double y, const std::string& text, const std::string& more = "") {
  return join("<text x=\"", fixed(x, 1), "\" y=\"", fixed(y, 1), "\"", more, ">", escaped(text), "</text>\n");
}
std::string stroke(double x1, double y1, double x2, double y2, const std::string& more) {
  return join("<line x1=\"", fixed(x1, 1), "\" y1=\"", fixed(y1, 1), "\" x2=\"", fixed(x2, 1), "\" y2=\"", fixed(y2, 1), "\" ", more,
              "/>\n");
}

std::string tokens_text(double n) { return n >= 1024 ? fixed(n / 1024, 0) + "k" : fixed(n, 0); }
std::string seconds_text(int power) {   // of ten
  static const char* units[] = {"ns", "µs", "ms", "s"};
  const int unit = std::clamp((power + 9) / 3, 0, 3);
  return fixed(std::pow(10.0, power + 9 - 3 * unit), 0) + " " + units[unit];
}

std::string look(const PlotLine& line) {
  return join("stroke=\"", line.colour, "\" stroke-width=\"1.8\" fill=\"none\"", line.dashed ? " stroke-dasharray=\"6 4\"" : "");
}

// One panel with its left upper corner at (x0, y0).
class Panel {
 public:
  Panel(const PlotPanel& panel, double x0, double y0) : panel_(panel), x_(x0 + left), y_(y0 + top) {
    bool any = false;
    for (const PlotLine& line : panel.lines)
      for (const auto& [x, y] : line.points) {
        const double a = std::log2(x), b = std::log10(y);
        x_low_ = any ? std::min(x_low_, a) : a, x_high_ = any ? std::max(x_high_, a) : a;
        y_low_ = any ? std::min(y_low_, b) : b, y_high_ = any ? std::max(y_high_, b) : b;
        any = true;
      }
    empty_ = !any;
    x_low_ = std::floor(x_low_), x_high_ = std::max(std::ceil(x_high_), x_low_ + 1);
    y_low_ = std::floor(y_low_), y_high_ = std::max(std::ceil(y_high_), y_low_ + 1);
  }

  std::string text() const {
    const std::string middle = " text-anchor=\"middle\"";
    std::string out = words(x_ + wide() / 2, y_ - 12, panel_.title, middle + " font-size=\"14\"");
    out += join("<rect x=\"", fixed(x_, 1), "\" y=\"", fixed(y_, 1), "\" width=\"", fixed(wide(), 1), "\" height=\"", fixed(high(), 1),
                "\" fill=\"none\" stroke=\"#444\"/>\n");
    out += words(x_ + wide() / 2, y_ + high() + 38, panel_.across, middle);
    const double turn = x_ - 54, half = y_ + high() / 2;
    out += words(turn, half, panel_.up, join(middle, " transform=\"rotate(-90 ", fixed(turn, 1), " ", fixed(half, 1), ")\""));
    if (empty_) return out + words(x_ + wide() / 2, half, "nothing measured", middle);
    const int step = x_high_ - x_low_ > 7 ? 2 : 1;
    for (int power = int(x_low_); power <= int(x_high_); power += step) {
      const double x = across(std::exp2(power));
      out += stroke(x, y_, x, y_ + high(), "stroke=\"#ddd\"") + words(x, y_ + high() + 17, tokens_text(std::exp2(power)), middle);
    }
    for (int power = int(y_low_); power <= int(y_high_); ++power) {
      const double y = up(std::pow(10.0, power));
      out += stroke(x_, y, x_ + wide(), y, "stroke=\"#ddd\"") + words(x_ - 6, y + 4, seconds_text(power), " text-anchor=\"end\"");
    }
    for (const PlotLine& line : panel_.lines) out += curve(line);
    return out;
  }

 private:
  static double wide() { return panel_width - left - right; }
  static double high() { return panel_height - top - bottom; }
  double across(double x) const { return x_ + (std::log2(x) - x_low_) / (x_high_ - x_low_) * wide(); }
  double up(double y) const { return y_ + high() - (std::log10(y) - y_low_) / (y_high_ - y_low_) * high(); }
  std::string curve(const PlotLine& line) const {
    if (line.points.empty()) return "";
    std::string places, dots;
    for (const auto& [x, y] : line.points) {
      places += join(places.empty() ? "" : " ", fixed(across(x), 1), ",", fixed(up(y), 1));
      dots += join("<circle cx=\"", fixed(across(x), 1), "\" cy=\"", fixed(up(y), 1), "\" r=\"2.2\" fill=\"", line.colour, "\"/>\n");
    }
    return join("<polyline points=\"", places, "\" ", look(line), "/>\n", dots);
  }

  const PlotPanel& panel_;
  double x_, y_;   // of the axes' frame
  double x_low_ = 0, x_high_ = 1, y_low_ = 0, y_high_ = 1;   // logarithms
  bool empty_ = true;
};

}  // namespace

static std::string picture(const std::string& title, double width, double height) {
  return join("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"", fixed(width, 0), "\" height=\"", fixed(height, 0), "\" viewBox=\"0 0 ",
              fixed(width, 0), " ", fixed(height, 0), "\" font-family=\"sans-serif\" font-size=\"11\">\n",
              "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n", words(left, 26, title, " font-size=\"16\""));
}

std::string svg_bars(const std::string& title, const std::vector<std::string>& names, const std::vector<BarPanel>& panels) {
  constexpr double names_width = 190, bars_width = 250, numbers_width = 70, row = 22, bar = 13;
  static const char* colours[] = {"#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd"};
  const double width = names_width + (bars_width + numbers_width) * double(panels.size()), below = head + top;
  std::string out = picture(title, width, below + row * double(names.size()) + 16);
  for (size_t n = 0; n < names.size(); ++n)
    out += words(names_width - 8, below + row * double(n) + bar, names[n], " text-anchor=\"end\"");
  for (size_t p = 0; p < panels.size(); ++p) {
    const double x = names_width + (bars_width + numbers_width) * double(p);
    double most = 0;
    for (const auto& b : panels[p].bars) most = b ? std::max({most, b->most, b->value}) : most;
    const double unit = most > 0 ? bars_width / most : 0;
    out += words(x, below - 12, panels[p].title, " font-size=\"13\"");
    for (size_t n = 0; n < names.size() && n < panels[p].bars.size(); ++n) {
      const double y = below + row * double(n);
      const auto& b = panels[p].bars[n];
      if (b)
        out += join("<rect x=\"", fixed(x, 1), "\" y=\"", fixed(y, 1), "\" width=\"", fixed(b->value * unit, 1), "\" height=\"",
                    fixed(bar, 1), "\" fill=\"", colours[p % std::size(colours)], "\"/>\n") +
               stroke(x + b->least * unit, y + bar / 2, x + b->most * unit, y + bar / 2, "stroke=\"#222\"");
      out +=
          words(x + (b ? std::max(b->value, b->most) * unit : 0) + 5, y + bar - 2, b ? fixed(b->value, panels[p].digits) : "not measured");
    }
  }
  return out + "</svg>\n";
}

std::string svg_plot(const std::string& title, const std::vector<std::vector<PlotPanel>>& rows) {
  size_t columns = 0;
  for (const auto& row : rows) columns = std::max(columns, row.size());
  const double width = panel_width * double(columns) + legend_width, height = head + panel_height * double(rows.size());
  std::string out = picture(title, width, height);
  std::vector<const PlotLine*> known;
  for (size_t r = 0; r < rows.size(); ++r)
    for (size_t c = 0; c < rows[r].size(); ++c) {
      out += Panel(rows[r][c], panel_width * double(c), head + panel_height * double(r)).text();
      for (const PlotLine& line : rows[r][c].lines)
        if (!line.points.empty() && std::none_of(known.begin(), known.end(), [&](const PlotLine* k) { return k->name == line.name; }))
          known.push_back(&line);
    }
  for (size_t i = 0; i < known.size(); ++i) {
    const double x = panel_width * double(columns) + 8, y = head + top + 10 + 20 * double(i);
    out += stroke(x, y, x + 30, y, look(*known[i])) + words(x + 38, y + 4, known[i]->name);
  }
  return out + "</svg>\n";
}

}  // namespace folio
