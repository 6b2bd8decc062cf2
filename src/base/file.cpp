// SPDX-License-Identifier: MIT
#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace folio {

MappedFile::MappedFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);   // a named pipe would wait for its writer; it is refused below
  check(fd >= 0, path, ": cannot open: ", std::strerror(errno));
  struct stat info {};
  const bool regular = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  if (regular && info.st_size > 0) {
    bytes_ = size_t(info.st_size);
    void* at = mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, fd, 0);
    data_ = at == MAP_FAILED ? nullptr : static_cast<const std::byte*>(at);
  }
  const int why = errno;
  close(fd);
  check(regular, path, ": not a regular file");
  check(bytes_ > 0, path, ": the file is empty");
  check(data_ != nullptr, path, ": cannot map: ", std::strerror(why));
}

MappedFile::~MappedFile() { munmap(const_cast<std::byte*>(data_), bytes_); }

std::string read_file(const std::string& path) {
  const bool standard = path == "-";
  std::FILE* file = standard ? stdin : std::fopen(path.c_str(), "rb");
  check(file != nullptr, path, ": cannot open: ", std::strerror(errno));
  std::string all;
  char buffer[1 << 16];
  for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, file)) > 0;) all.append(buffer, n);
  const bool failed = std::ferror(file) != 0;
  const int why = errno;
  if (!standard) std::fclose(file);
  check(!failed, path, ": cannot read: ", std::strerror(why));
  return all;
}

FileWriter::FileWriter(std::string path) : path_(std::move(path)), part_(path_ + ".part") {
  struct stat info {};  // a rename would put a plain file in the place of a device or a pipe
  check(stat(path_.c_str(), &info) != 0 || S_ISREG(info.st_mode), path_, ": cannot write: not a regular file");
  file_ = std::fopen(part_.c_str(), "wb");
  check(file_ != nullptr, path_, ": cannot write: ", std::strerror(errno));
}

FileWriter::~FileWriter() {
  if (!file_) return;
  std::fclose(file_);
  std::remove(part_.c_str());
}

void FileWriter::write(const void* data, size_t bytes) {
  const size_t written = std::fwrite(data, 1, bytes, file_);   // before errno is read: arguments have no order
  check(written == bytes, path_, ": cannot write: ", std::strerror(errno));
}

void FileWriter::overwrite(int64_t offset, std::string_view bytes) {
  const bool there = std::fseek(file_, long(offset), SEEK_SET) == 0;
  check(there, path_, ": cannot write: ", std::strerror(errno));
  write(bytes);
  const bool back = std::fseek(file_, 0, SEEK_END) == 0;
  check(back, path_, ": cannot write: ", std::strerror(errno));
}

void FileWriter::commit() {
  const bool flushed = std::fflush(file_) == 0;
  const int why = errno;
  const bool closed = std::fclose(file_) == 0;
  file_ = nullptr;
  if (!flushed || !closed || std::rename(part_.c_str(), path_.c_str()) != 0) {
    const int reason = flushed ? errno : why;
    std::remove(part_.c_str());
    fail(path_, ": cannot write: ", std::strerror(reason));
  }
}

}  // namespace folio
