// SPDX-License-Identifier: MIT
// Curves as an SVG picture, written by hand: a grid of panels with two logarithmic axes, the horizontal one in powers of two (tokens),
// the vertical one in powers of ten (seconds), and one legend for all.
#pragma once
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

// The picture as text. A panel without points keeps its place and says so.
std::string svg_plot(const std::string& title, const std::vector<std::vector<PlotPanel>>& rows);

}  // namespace folio
