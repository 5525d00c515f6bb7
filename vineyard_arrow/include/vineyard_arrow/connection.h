// The socket to the daemon: one request, one reply, with a deadline (docs/format.md, "The
// socket"). Knows no objects and maps nothing.
#pragma once

#include <arrow/result.h>
#include <arrow/status.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "layout.h"
#include "value.h"

namespace vineyard_arrow {

constexpr int64_t kProtocolVersion = 3;

// What an error is, by the codes of vineyard_arrow/errors.py: "not-found", "deadline",
// "connection-lost", "access-denied", "protocol", "invalid" and so on.
class ErrorCode final : public arrow::StatusDetail {
 public:
  explicit ErrorCode(std::string code) : code_(std::move(code)) {}
  const char* type_id() const override { return "vineyard_arrow::ErrorCode"; }
  std::string ToString() const override { return code_; }

 private:
  std::string code_;
};

// The code of an error of ours; empty for any other status.
inline std::string error_code(const arrow::Status& status) {
  auto detail = dynamic_cast<const ErrorCode*>(status.detail().get());
  return detail ? detail->ToString() : "";
}

inline arrow::Status make_error(const std::string& code, const std::string& message) {
  auto kind = code == "not-found" ? arrow::StatusCode::KeyError
              : code == "invalid" ? arrow::StatusCode::Invalid
                                  : arrow::StatusCode::IOError;
  return arrow::Status(kind, message, std::make_shared<ErrorCode>(code));
}

namespace internal {

class Fd {  // a descriptor, owned
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.release()) {}
  Fd& operator=(Fd&& other) noexcept {
    reset(other.release());
    return *this;
  }
  ~Fd() { reset(); }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1) {
    if (fd_ >= 0) close(fd_);
    fd_ = fd;
  }

 private:
  int fd_;
};

// A request as msgpack: an array whose first item names the message.
class Request {
 public:
  Request(std::string_view tag, uint8_t items) {  // of at most 15 items, the name not counted
    bytes_.push_back(static_cast<char>(0x91 + items));
    text(tag);
  }
  Request& text(std::string_view s) {
    big_endian(0xdb, s.size(), 4);
    bytes_ += s;
    return *this;
  }
  Request& integer(uint64_t n) { return big_endian(0xcf, n, 8); }
  Request& real(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return big_endian(0xcb, bits, 8);
  }
  Request& nil() {
    bytes_.push_back(static_cast<char>(0xc0));
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  Request& big_endian(uint8_t tag, uint64_t n, int nbytes) {
    bytes_.push_back(static_cast<char>(tag));
    while (nbytes--) bytes_.push_back(static_cast<char>(n >> 8 * nbytes));
    return *this;
  }
  std::string bytes_;
};

struct Reply {
  Value message;  // a list; its first item names the message
  std::vector<Fd> fds;

  std::string tag() const { return message[0].as<std::string>(); }
};

class Connection {
 public:
  // Called with the ids of segments that the daemon has retired.
  std::function<void(const Value&)> on_retired;

  static arrow::Result<std::unique_ptr<Connection>> Open(const std::string& path, double timeout_s) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof(address.sun_path))
      return make_error("config", "the path of a socket has at most 107 bytes: " + path);
    memcpy(address.sun_path, path.data(), path.size());
    Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (fd.get() < 0) return make_error("connection-lost", std::string("socket: ") + strerror(errno));
    timeval limit{static_cast<time_t>(timeout_s),
                  static_cast<suseconds_t>((timeout_s - static_cast<time_t>(timeout_s)) * 1e6) + 1};
    setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));  // of connect and send
    if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
      std::string what = "cannot connect to " + path + ": " + strerror(errno);
      if (errno == EAGAIN || errno == EINPROGRESS) return make_error("deadline", what);
      if (errno == EACCES || errno == EPERM) return make_error("access-denied", what);
      return make_error("connection-lost", what + " (does a daemon run there? vineyard-arrow start)");
    }
    return std::unique_ptr<Connection>(new Connection(std::move(fd), timeout_s));
  }

  // Sends a request and waits for its reply; a failure that the daemon reports comes as an
  // error. Threads queue.
  arrow::Result<Reply> Ask(const Request& request) {
    double deadline = vineyard::monotonic_s() + timeout_s_;
    std::unique_lock<std::timed_mutex> lock(mutex_, std::chrono::duration<double>(timeout_s_));
    if (!lock) return make_error("deadline", "other requests held the connection");
    if (!lost_.empty()) return gone();
    number_ = number_ % UINT32_MAX + 1;
    ARROW_RETURN_NOT_OK(send_frame(request.bytes()));
    try {
      for (;;) {
        ARROW_ASSIGN_OR_RAISE(bool ours, next_message(deadline));
        if (!ours) continue;
        Reply reply{std::move(message_), std::move(taken_)};
        if (reply.tag() == "failure") return failure(reply.message);
        return reply;
      }
    } catch (const std::exception& error) {  // of Value
      lost_ = error.what();
      return gone();
    }
  }

 private:
  Connection(Fd fd, double timeout_s) : fd_(std::move(fd)), timeout_s_(timeout_s) {}

  static constexpr uint32_t kMaxFrame = 256 << 20;
  static constexpr size_t kMaxFds = 253;  // the kernel's own limit

  arrow::Status gone() const {
    return make_error("connection-lost", "the daemon is gone (" + lost_ + "); what is mapped stays readable");
  }
  static arrow::Status failure(const Value& m) {
    std::string text = m[2].as<std::string>();
    if (auto hint = m[3].get_if<std::string>()) text += " (hint: " + *hint + ")";
    return make_error(m[1].as<std::string>(), text);
  }

  arrow::Status send_frame(const std::string& body) {
    uint32_t head[2] = {static_cast<uint32_t>(body.size()), number_};
    std::string frame(reinterpret_cast<char*>(head), sizeof(head));
    frame += body;
    for (size_t sent = 0; sent < frame.size();) {
      ssize_t n = send(fd_.get(), frame.data() + sent, frame.size() - sent, MSG_NOSIGNAL);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) {  // half a frame may be out
        bool late = errno == EAGAIN;
        lost_ = late ? "it stopped reading" : strerror(errno);
        return late ? make_error("deadline", "the daemon did not take the request in time") : gone();
      }
      sent += n;
    }
    return arrow::Status::OK();
  }

  // Takes in one message; true if it answers the request under way. It is then in message_
  // with its descriptors in taken_.
  arrow::Result<bool> next_message(double deadline) {
    uint32_t head[2];
    for (;;) {
      if (bytes_.size() >= sizeof(head)) {
        memcpy(head, bytes_.data(), sizeof(head));
        if (head[0] > kMaxFrame) throw std::runtime_error("it sent an oversized frame");
        if (bytes_.size() >= sizeof(head) + head[0]) break;
      }
      ARROW_RETURN_NOT_OK(receive(deadline));
    }
    message_ = parse_msgpack(std::string_view(bytes_).substr(sizeof(head), head[0]));
    bytes_.erase(0, sizeof(head) + head[0]);
    std::string tag = message_[0].as<std::string>();
    // Descriptors come with the first byte of their message.
    size_t n = tag == "welcome" ? 4 : tag == "all-mapped" ? message_[1].as<Value::List>().size() : 0;
    if (n > fds_.size()) throw std::runtime_error("it sent a message without its descriptors");
    taken_.assign(std::make_move_iterator(fds_.begin()), std::make_move_iterator(fds_.begin() + n));
    fds_.erase(fds_.begin(), fds_.begin() + n);
    if (head[1] == number_) return true;
    if (head[1] == 0 && tag == "retired" && on_retired) on_retired(message_[1]);
    if (head[1] == 0 && tag == "failure") {  // it serves us no more, and says why
      lost_ = message_[2].as<std::string>();
      return failure(message_);
    }
    return false;  // else: of a request that gave up waiting
  }

  arrow::Status receive(double deadline) {
    char data[8192];
    alignas(cmsghdr) char control[CMSG_SPACE(kMaxFds * sizeof(int))];
    iovec part{data, sizeof(data)};
    msghdr m{};
    m.msg_iov = &part;
    m.msg_iovlen = 1;
    m.msg_control = control;
    m.msg_controllen = sizeof(control);
    double left = deadline - vineyard::monotonic_s();
    pollfd ready{fd_.get(), POLLIN, 0};
    if (left <= 0 || poll(&ready, 1, static_cast<int>(std::min(left, 1e6) * 1e3) + 1) == 0)
      return make_error("deadline", "the daemon did not answer in time");
    ssize_t n = recvmsg(fd_.get(), &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return arrow::Status::OK();
    if (n <= 0) {
      lost_ = n ? strerror(errno) : "it closed the connection";
      return gone();
    }
    for (cmsghdr* c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
      if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
      for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
        int fd;
        memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
        fds_.emplace_back(fd);
      }
    }
    bytes_.append(data, n);
    return arrow::Status::OK();
  }

  Fd fd_;
  double timeout_s_;
  std::timed_mutex mutex_;
  uint32_t number_ = 0;
  std::string lost_;      // why the connection is of no more use
  std::string bytes_;     // come, not yet a message
  std::vector<Fd> fds_;   // come, their message is not complete
  Value message_;
  std::vector<Fd> taken_;
};

}  // namespace internal

}  // namespace vineyard_arrow
