// SPDX-License-Identifier: MIT
#include "tools/lib/main.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <new>

#include "base/error.h"

#include "base/error.h"

namespace folio {

namespace {

// One sentence whatever the message holds: CLI11's own run over several lines now and then.
int complain(std::string message) {
  while (!message.empty() && (message.back() == '\n' || message.back() == '.')) message.pop_back();
  std::replace(message.begin(), message.end(), '\n', ' ');
  std::cout.flush();
  std::fflush(stdout);
  std::fprintf(stderr, "error: %s\n", message.c_str());
  return 1;
}

size_t code_points(std::string_view s) {
  return size_t(std::count_if(s.begin(), s.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

}  // namespace

int run_tool(int argc, char** argv, CLI::App& app, const std::function<int()>& body) {
  try {
    app.parse(argc, argv);
    const int code = body();
    std::cout.flush();
    const bool written = std::fflush(stdout) == 0 && !std::ferror(stdout) && std::cout.good();
    return written ? code : complain(join("cannot write to standard output: ", std::strerror(errno)));
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    std::string what = error.what();
    if (what.size() > 1 && what[0] >= 'A' && what[0] <= 'Z' && what[1] >= 'a') what[0] = char(what[0] - 'A' + 'a');
    return complain(what + " (see " + app.get_name() + " --help)");
  } catch (const std::bad_alloc&) {
    return complain("out of memory");
  } catch (const std::exception& error) {
    return complain(error.what());
  }
}

const std::string& writable(const std::string& path) {
  const std::filesystem::file_status status = std::filesystem::status(path);
  check(!std::filesystem::exists(status) || std::filesystem::is_regular_file(status), path,
        ": cannot write: it is there and is no regular file");
  return path;
}

std::string human_bytes(double bytes) {
  constexpr const char* units[] = {"bytes", "kB", "MB", "GB", "TB", "PB", "EB"};
  size_t unit = 0;
  while (bytes >= 999.5 && unit + 1 < std::size(units)) bytes /= 1000, ++unit;
  char text[32];
  std::snprintf(text, sizeof text, "%.*f %s", unit == 0 || bytes >= 99.95 ? 0 : bytes >= 9.995 ? 1 : 2, bytes, units[unit]);
  return text;
}

std::string with_commas(int64_t n) {
  std::string digits = std::to_string(n);
  for (int64_t i = int64_t(digits.size()) - 3; i > (n < 0 ? 1 : 0); i -= 3) digits.insert(size_t(i), ",");
  return digits;
}

std::string hex64(uint64_t n) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(n));
  return text;
}

std::string one_line(std::string_view text, size_t most) {
  std::string out;
  size_t points = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const uint8_t c = uint8_t(text[i]);
    if ((c & 0xc0) != 0x80 && points++ == most) return out + "...";
    const bool c1 = c == 0xc2 && i + 1 < text.size() && uint8_t(text[i + 1]) < 0xa0;  // U+0080 to U+009F
    char escaped[8];
    if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c < 0x20 || c == 0x7f || c1) {
      std::snprintf(escaped, sizeof escaped, "\\x%02x", c1 ? uint8_t(text[++i]) : c);
      out += escaped;
    } else {
      out += char(c);
    }
  }
  return out;
}

std::string table(const std::vector<std::vector<std::string>>& rows, const std::vector<size_t>& right, std::string_view indent) {
  std::vector<size_t> width;
  for (const auto& row : rows) {
    width.resize(std::max(width.size(), row.size()));
    for (size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], code_points(row[c]));
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line(indent);
    for (size_t c = 0; c < row.size(); ++c) {
      const std::string space(width[c] - code_points(row[c]), ' ');
      const bool to_right = std::find(right.begin(), right.end(), c) != right.end();
      line += (c ? "  " : "") + (to_right ? space + row[c] : row[c] + space);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

}  // namespace folio
