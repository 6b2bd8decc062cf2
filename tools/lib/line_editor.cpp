// SPDX-License-Identifier: MIT
#include "tools/lib/line_editor.h"

#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>
#include <utf8proc.h>

#include <cerrno>
#include <cstdio>
#include <iostream>

namespace folio {

// The character that begins at `at`: its bytes, and its code point, -1 if they are no UTF-8 (then it is one byte).
static size_t character(std::string_view text, size_t at, utf8proc_int32_t& point) {
  const auto n = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at, utf8proc_ssize_t(text.size() - at), &point);
  if (n > 0) return size_t(n);
  point = -1;
  return 1;
}

// Marks that combine with the character before them belong to it.
static bool combines(utf8proc_int32_t point) {
  const auto category = point < 0 ? UTF8PROC_CATEGORY_CN : utf8proc_category(point);
  return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_ME || point == 0x200d;
}

size_t EditedLine::after(size_t at) const {
  utf8proc_int32_t point;
  if (at < text_.size()) at += character(text_, at, point);
  while (at < text_.size()) {
    const size_t n = character(text_, at, point);
    if (!combines(point)) break;
    at += n;
  }
  return at;
}

size_t EditedLine::before(size_t at) const {
  size_t last = 0;
  for (size_t i = 0; i < at; i = after(i)) last = i;
  return last;
}

void EditedLine::set(std::string text) {
  text_ = std::move(text);
  cursor_ = text_.size();
}

void EditedLine::insert(std::string_view bytes) {
  text_.insert(cursor_, bytes);
  cursor_ += bytes.size();
}

void EditedLine::left() { cursor_ = before(cursor_); }
void EditedLine::right() { cursor_ = after(cursor_); }
void EditedLine::erase() { text_.erase(cursor_, after(cursor_) - cursor_); }

void EditedLine::backspace() {
  const size_t end = cursor_;
  left();
  text_.erase(cursor_, end - cursor_);
}

void EditedLine::erase_word() {
  const size_t end = cursor_;
  while (cursor_ > 0 && text_[cursor_ - 1] == ' ') --cursor_;
  while (cursor_ > 0 && text_[cursor_ - 1] != ' ') --cursor_;
  text_.erase(cursor_, end - cursor_);
}

void EditedLine::erase_to_begin() {
  text_.erase(0, cursor_);
  cursor_ = 0;
}

int columns_of(std::string_view text) {
  int columns = 0;
  for (size_t i = 0; i < text.size();) {
    utf8proc_int32_t point;
    i += character(text, i, point);
    columns += point < 0 ? 1 : utf8proc_charwidth(point);
  }
  return columns;
}

enum LineEditor::Key : int {
  none, text, enter, interrupt, ctrl_d, left, right, up, down, home, end_of_line, backspace, del, to_begin, to_end, word, clear, closed
};

namespace {

// Keys come one by one and unechoed while this lives.
class RawTerminal {
 public:
  RawTerminal() {
    if (tcgetattr(STDIN_FILENO, &before_) != 0) return;
    termios raw = before_;
    raw.c_iflag &= ~tcflag_t(ICRNL | INLCR | IXON | ISTRIP);
    raw.c_lflag &= ~tcflag_t(ICANON | ECHO | ISIG | IEXTEN);
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    good_ = tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) == 0;
  }
  ~RawTerminal() { if (good_) tcsetattr(STDIN_FILENO, TCSADRAIN, &before_); }
  bool good() const { return good_; }

 private:
  termios before_;
  bool good_ = false;
};

void show(std::string_view bytes) {
  std::fwrite(bytes.data(), 1, bytes.size(), stdout);
  std::fflush(stdout);
}

int window_columns() {
  winsize size{};
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

// A byte; -1 at the end of the input.
int read_byte() {
  unsigned char c;
  ssize_t n;
  do n = ::read(STDIN_FILENO, &c, 1);
  while (n < 0 && errno == EINTR);
  return n == 1 ? c : -1;
}

// How a line looks: what would move the cursor or is not text is shown as a question mark of its own width.
std::string visible(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    utf8proc_int32_t point;
    const size_t n = character(text, i, point);
    const bool plain = point >= 0x20 && point != 0x7f && !(point >= 0x80 && point < 0xa0);
    out += plain ? text.substr(i, n) : "?";
    i += n;
  }
  return out;
}

// Where the cursor stands after some text that begins at column 0 of row 0: a wide character that does not fit goes to the next row.
void advance(std::string_view text, int width, int& row, int& column) {
  for (size_t i = 0; i < text.size();) {
    utf8proc_int32_t point;
    i += character(text, i, point);
    const int wide = point < 0 ? 1 : utf8proc_charwidth(point);
    if (column + wide > width) ++row, column = 0;
    column += wide;
  }
  if (column == width) ++row, column = 0;
}

}  // namespace

// Clears what was drawn, from the prompt's row on, and draws prompt and line anew.
void LineEditor::draw(const std::string& prompt) {
  const int width = window_columns();
  const std::string head = visible(std::string_view(line_.text()).substr(0, line_.cursor()));
  const std::string tail = visible(std::string_view(line_.text()).substr(line_.cursor()));
  std::string out = "\r";
  if (row_ > 0) out += "\x1b[" + std::to_string(row_) + "A";
  out += "\x1b[J" + prompt + head + tail;
  int end_row = 0, end_column = 0, row = 0, column = 0;
  advance(prompt + head + tail, width, end_row, end_column);
  advance(prompt + head, width, row, column);
  if (end_column == 0 && end_row > 0) out += "\n";   // terminals wait at the last column; step over it
  out += "\r";
  if (end_row > row) out += "\x1b[" + std::to_string(end_row - row) + "A";
  if (column > 0) out += "\x1b[" + std::to_string(column) + "C";
  row_ = row;
  show(out);
}

LineEditor::Key LineEditor::read_key() {
  const int c = read_byte();
  if (c < 0) return closed;
  switch (c) {
    case 1: return home;
    case 2: return left;
    case 3: return interrupt;
    case 4: return ctrl_d;
    case 5: return end_of_line;
    case 6: return right;
    case 8: case 127: return backspace;
    case 10: case 13: return enter;
    case 11: return to_end;
    case 12: return clear;
    case 14: return down;
    case 16: return up;
    case 21: return to_begin;
    case 23: return word;
    case 27: break;
    default:
      typed_.assign(1, c == '\t' ? ' ' : char(c));
      for (int more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : c >= 0xc2 ? 1 : 0; more > 0 && c < 0xf5; --more) {
        const int next = read_byte();
        if (next < 0) return closed;
        typed_ += char(next);
      }
      return c < 32 && c != '\t' ? none : text;
  }
  // ESC [ numbers letter, or ESC O letter.
  const int second = read_byte();
  if (second != '[' && second != 'O') return second < 0 ? closed : none;
  std::string numbers;
  int last = read_byte();
  while ((last >= '0' && last <= '9') || last == ';') numbers += char(last), last = read_byte();
  switch (last) {
    case 'A': return up;
    case 'B': return down;
    case 'C': return right;
    case 'D': return left;
    case 'H': return home;
    case 'F': return end_of_line;
    case '~': return numbers == "3" ? del : numbers == "1" || numbers == "7" ? home : numbers == "4" || numbers == "8" ? end_of_line : none;
    default: return last < 0 ? closed : none;
  }
}

void LineEditor::browse(int step) {
  if ((step < 0 && at_ == 0) || (step > 0 && at_ == history_.size())) return;
  if (at_ == history_.size()) unfinished_ = line_.text();
  at_ = size_t(int64_t(at_) + step);
  line_.set(at_ == history_.size() ? unfinished_ : history_[at_]);
}

// What a key does to the line; false if it ends it.
bool LineEditor::apply(Key key) {
  switch (key) {
    case text: line_.insert(typed_); break;
    case left: line_.left(); break;
    case right: line_.right(); break;
    case home: line_.begin(); break;
    case end_of_line: line_.end(); break;
    case up: browse(-1); break;
    case down: browse(1); break;
    case backspace: line_.backspace(); break;
    case del: line_.erase(); break;
    case to_begin: line_.erase_to_begin(); break;
    case to_end: line_.erase_to_end(); break;
    case word: line_.erase_word(); break;
    case clear: show("\x1b[H\x1b[2J"), row_ = 0; break;
    case ctrl_d:
      if (line_.text().empty()) return false;
      line_.erase();
      break;
    case interrupt:
      if (line_.text().empty()) return false;
      line_.set("");
      break;
    case enter: case closed: return false;
    case none: break;
  }
  return true;
}

LineEditor::Outcome LineEditor::edit(const std::string& prompt, std::string& out) {
  line_.set("");
  at_ = history_.size();
  row_ = 0;
  draw(prompt);
  Key key;
  while (apply(key = read_key())) draw(prompt);
  line_.end();
  draw(prompt);
  show("\n");
  out = line_.text();
  if (key == interrupt) return interrupted;
  if (key == ctrl_d || (key == closed && out.empty())) return end;
  if (!out.empty() && (history_.empty() || history_.back() != out)) history_.push_back(out);
  return line;
}

LineEditor::Outcome LineEditor::read(const std::string& prompt, std::string& out) {
  if (isatty(STDIN_FILENO)) {
    RawTerminal raw;
    if (raw.good()) return edit(prompt, out);
  }
  return std::getline(std::cin, out) ? line : end;
}

}  // namespace folio
