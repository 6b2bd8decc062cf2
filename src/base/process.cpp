// SPDX-License-Identifier: MIT
#include "base/process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/error.h"

extern char** environ;

namespace folio {

bool on_path(const std::string& program) {
  const char* path = std::getenv("PATH");
  std::string all = path ? path : "";
  for (size_t from = 0; from <= all.size();) {
    const size_t end = std::min(all.find(':', from), all.size());
    if (end > from && access((all.substr(from, end - from) + "/" + program).c_str(), X_OK) == 0) return true;
    from = end + 1;
  }
  return false;
}

Child::Child(const std::vector<std::string>& command, Stream stream) : name_(command[0]), errors_(std::tmpfile()) {
  check(errors_ != nullptr, name_, ": cannot start: no room for a temporary file: ", std::strerror(errno));
  int pair[2];   // a socket and not a pipe: writing to one whose reader is gone is an error there, and need not be a signal
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
    std::fclose(errors_);
    fail(name_, ": cannot start: ", std::strerror(errno));
  }
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  const bool to_it = stream == Stream::to_it;
  posix_spawn_file_actions_adddup2(&files, pair[1], to_it ? 0 : 1);
  posix_spawn_file_actions_addopen(&files, to_it ? 1 : 0, "/dev/null", to_it ? O_WRONLY : O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&files, fileno(errors_), 2);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  posix_spawnattr_setpgroup(&attributes, 0);
  std::vector<char*> argv;
  for (const std::string& a : command) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  const int why = posix_spawnp(&id_, argv[0], &files, &attributes, argv.data(), environ);
  posix_spawn_file_actions_destroy(&files);
  posix_spawnattr_destroy(&attributes);
  close(pair[1]);
  stream_ = pair[0];
  if (why == 0) return;
  close(stream_);
  std::fclose(errors_);
  fail(name_, ": cannot start: ", std::strerror(why));
}

Child::~Child() {
  if (id_ > 0) {
    kill(id_, SIGKILL);
    wait();
  }
  std::fclose(errors_);
}

bool Child::write(const void* data, size_t bytes) {
  const char* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = send(stream_, at, bytes, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    at += n;
    bytes -= size_t(n);
  }
  return true;
}

size_t Child::read(void* data, size_t bytes) {
  size_t got = 0;
  while (got < bytes) {
    const ssize_t n = recv(stream_, static_cast<char*>(data) + got, bytes - got, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    got += size_t(n);
  }
  return got;
}

int Child::wait() {
  if (stream_ >= 0) close(stream_);
  stream_ = -1;
  int status = 0;
  while (waitpid(id_, &status, 0) < 0 && errno == EINTR) {
  }
  id_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string Child::complaint() const {
  std::string all;
  char buffer[4096];
  std::rewind(errors_);
  for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, errors_)) > 0;) all.append(buffer, n);
  while (!all.empty() && (all.back() == '\n' || all.back() == ' ')) all.pop_back();
  return all.substr(all.rfind('\n') == std::string::npos ? 0 : all.rfind('\n') + 1);
}

}  // namespace folio
