// SPDX-License-Identifier: MIT
// SVG pictures, written by hand. Curves: a grid of panels with two logarithmic axes, the horizontal one in powers of two (tokens),
// the vertical one in powers of ten (seconds), and one legend for all. Bars: panels side by side with one row for each name, from zero to
// the value, and a thin line from the least to the most that was measured.
#pragma once
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace folio {

struct PlotLine {
  std::string name, colour;   // "#1f77b4"; lines of one name share an entry of the legend
  bool dashed = false;
  std::vector<std::pair<double, double>> points;   // both positive, x ascending
};

struct PlotPanel {
  std::string title, across, up;   // what the axes say
  std::vector<PlotLine> lines;
};

struct BarPanel {
  struct Bar { double value = 0, least = 0, most = 0; };   // none negative
  std::string title;
  int digits = 1;                                  // of the numbers beside the bars
  std::vector<std::optional<Bar>> bars;            // one for each name; absent: not measured
};

// The picture as text, one colour for each name.
std::string svg_bars(const std::string& title, const std::vector<std::string>& names, const std::vector<BarPanel>& panels);

// The picture as text. A panel without points keeps its place and says so.
std::string svg_plot(const std::string& title, const std::vector<std::vector<PlotPanel>>& rows);

}  // namespace folio
