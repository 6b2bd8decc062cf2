// SPDX-License-Identifier: MIT
// Another program as a helper: started from a list of arguments with no shell between, with one stream to it or from it. It stands in
// a process group of its own, so that Ctrl-C at the terminal stops us and not it, and what it was given so far can still be finished.
#pragma once
#include <sys/types.h>

#include <cstddef>
#include <cstdio>
#include <string>
#include <vector>

namespace folio {

bool on_path(const std::string& program);   // can it be started by this name?

class Child {
 public:
  enum class Stream { to_it, from_it };
  // Starts command[0], looked up on the PATH. Throws Error if that fails.
  Child(const std::vector<std::string>& command, Stream stream);
  ~Child();   // one that wait() was not called for is killed
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  bool write(const void* data, size_t bytes);   // false: it reads no more
  size_t read(void* data, size_t bytes);        // fewer than asked: it has no more
  // Closes the stream and waits until it ends: its exit code, 128 + N if signal N ended it.
  int wait();
  std::string complaint() const;   // the last line that it wrote to standard error; empty if there is none

 private:
  std::string name_;
  pid_t id_ = -1;
  int stream_ = -1;
  std::FILE* errors_ = nullptr;
};

}  // namespace folio
