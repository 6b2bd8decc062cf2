// SPDX-License-Identifier: MIT
// One line of text from a person at a terminal: arrows, Home, End, Delete, the usual Ctrl keys, a history, characters of any width
// and lines longer than the window. Where standard input is no terminal it is read line by line, and nothing is shown.
//
//   Left Right Ctrl-B Ctrl-F   one character        Backspace Ctrl-H   delete before     Ctrl-U Ctrl-K   delete to begin, end
//   Home End Ctrl-A Ctrl-E     begin, end of line   Delete Ctrl-D      delete under      Ctrl-W          delete word before
//   Up Down Ctrl-P Ctrl-N      older, newer lines   Ctrl-L             clear screen      Ctrl-D          on an empty line: end
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace folio {

// A line under the cursor, without a terminal: what each key does to it. Bytes that are no UTF-8 count as one character each.
class EditedLine {
 public:
  const std::string& text() const { return text_; }
  size_t cursor() const { return cursor_; }   // in bytes, always between two characters
  void set(std::string text);                 // cursor at its end
  void insert(std::string_view bytes);
  void left();
  void right();
  void begin() { cursor_ = 0; }
  void end() { cursor_ = text_.size(); }
  void backspace();
  void erase();
  void erase_word();
  void erase_to_begin();
  void erase_to_end() { text_.erase(cursor_); }

 private:
  size_t before(size_t at) const;   // where the character that ends at `at` begins
  size_t after(size_t at) const;
  std::string text_;
  size_t cursor_ = 0;
};

// Columns that the text takes on a terminal.
int columns_of(std::string_view text);

class LineEditor {
 public:
  enum Outcome { line, end, interrupted };   // `end`: Ctrl-D or the end of the input; `interrupted`: Ctrl-C on an empty line
  // Shows the prompt and reads a line without its newline. Ctrl-C on a line with something on it clears it.
  Outcome read(const std::string& prompt, std::string& out);

 private:
  Outcome edit(const std::string& prompt, std::string& out);
  enum Key : int;
  Key read_key();
  bool apply(Key key);
  void browse(int step);
  void draw(const std::string& prompt);

  EditedLine line_;
  std::string typed_;                  // bytes of the character that was typed last
  std::vector<std::string> history_;
  size_t at_ = 0;                      // of the history; its size: the line that is being written
  std::string unfinished_;             // that line, while an older one is shown
  int row_ = 0;                        // of the cursor, counted from the prompt's
};

}  // namespace folio
