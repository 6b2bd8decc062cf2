// SPDX-License-Identifier: MIT
// What every tool's main() does: parse the command line, run, and turn whatever goes wrong into one sentence on stderr and exit
// code 1. Also the few forms in which all tools print numbers and tables.
#pragma once
#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace folio {

// Parses, calls body and returns its exit code. Errors of the command line, folio::Error, out of memory, any other exception and
// a standard output that cannot be written end in "error: ..." on stderr and 1; --help prints and returns 0.
int run_tool(int argc, char** argv, CLI::App& app, const std::function<int()>& body);

// The path again. Throws Error if something else than a regular file is there: writing ends in a rename (base/file.h), which would put a
// file in a device's place.
const std::string& writable(const std::string& path);

// "512 bytes", "1.46 MB": decimal units, three digits.
std::string human_bytes(double bytes);

// "12,345,678"
std::string with_commas(int64_t n);

std::string hex64(uint64_t n);

// The text on one line and harmless to a terminal: control characters as \n, \t or \xNN. Longer than `most` code points: cut, with
// "..." behind. The text is valid UTF-8.
std::string one_line(std::string_view text, size_t most = SIZE_MAX);

// Rows of cells as lines with aligned columns, two spaces between them; columns named in `right` are aligned to the right.
std::string table(const std::vector<std::vector<std::string>>& rows, const std::vector<size_t>& right = {},
                  std::string_view indent = "");

}  // namespace folio
