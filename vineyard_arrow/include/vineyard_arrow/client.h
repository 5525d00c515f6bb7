// A client of the store of this host, for reading: objects by id or name, over the store's own
// memory. Nothing is copied, and once an object's segments are mapped a get exchanges no message.
//
//   auto client = vineyard_arrow::Client::Connect("/path/of/the/socket").ValueOrDie();
//   auto flights = client->Get("flights").ValueOrDie();
//   std::shared_ptr<arrow::Table> table = flights.root().Table().ValueOrDie();
//
// Lifetime: an object holds a pin, and so does every Arrow buffer, array and table made of it.
// Their memory stays as it is until the last of them dies: after the object was deleted, after
// the client is gone, after the daemon is gone. Memory is mapped read-only: who writes to it
// dies of SIGSEGV. All of it is thread-safe.
//
// Fork: a forked child has no pins. It must not use what its parent got, and connects anew.
//
// Errors are arrow::Status; error_code() has their codes, those of vineyard_arrow/errors.py.
#pragma once

#include <arrow/util/key_value_metadata.h>

#include <map>
#include <optional>

#include "connection.h"
#include "parts.h"

namespace vineyard_arrow {

namespace internal {

// An error on its way through code that throws.
struct Raised : std::runtime_error {
  explicit Raised(arrow::Status s) : std::runtime_error(s.message()), status(std::move(s)) {}
  arrow::Status status;
};
template <typename T>
T unwrap(arrow::Result<T> result) {
  if (!result.ok()) throw Raised(result.status());
  return std::move(result).ValueUnsafe();
}
// What throws below is an error above.
template <typename T, typename Function>
arrow::Result<T> checked(Function function) {
  try {
    return function();
  } catch (const Raised& error) {
    return error.status;
  } catch (const std::bad_alloc&) {
    return arrow::Status::OutOfMemory("while reading a stored object");
  } catch (const std::exception& error) {
    return make_error("invalid", error.what());
  }
}

// The store as this process maps it: index, catalog and segments read-only at their offsets in
// one reserved range of addresses, and this client's pins. Kept by every buffer; the last one
// out closes the socket, which is how the daemon learns of it.
class Mapping : public std::enable_shared_from_this<Mapping> {
 public:
  static arrow::Result<std::shared_ptr<Mapping>> Attach(const std::string& socket, double timeout_s) {
    std::shared_ptr<Mapping> mapping(new Mapping());
    ARROW_ASSIGN_OR_RAISE(mapping->connection_, Connection::Open(socket, timeout_s));
    mapping->connection_->on_retired = [m = mapping.get()](const Value& ids) { m->retire(ids); };
    Request hello("hello", 3);
    hello.integer(kProtocolVersion).integer(getpid()).text(program_invocation_short_name);
    ARROW_ASSIGN_OR_RAISE(Reply welcome, mapping->connection_->Ask(hello));
    return checked<std::shared_ptr<Mapping>>([&] {
      mapping->attach(welcome);
      return mapping;
    });
  }

  ~Mapping() {
    if (table_ && pid_ == getpid()) munmap(table_, vineyard::ClientTable::nbytes(index_.header->num_slots));
    if (wide_) munmap(wide_, space_ + vineyard::kHugePage);
    if (index_.header) munmap(index_.header, index_nbytes_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  // An object as it lies in the catalog, pinned. `body` is the whole store as one buffer; when
  // the last slice of it dies, the pin goes.
  struct Pinned {
    std::shared_ptr<arrow::Buffer> body;
    vineyard::Blob blob;
  };
  // `root`: an object that has this one as a member, if it is got as one. All that it and its
  // members lie in is mapped together.
  arrow::Result<Pinned> Pin(uint64_t id, uint64_t root);

  arrow::Result<uint64_t> FindName(std::string_view name) {
    ARROW_RETURN_NOT_OK(CheckAlive());
    uint64_t id;
    if (index_.find_name(base_, name.data(), name.size(), &id) >= 0) return id;
    Request find("find", 3);
    ARROW_ASSIGN_OR_RAISE(Reply reply, connection_->Ask(find.nil().text(name).real(0)));
    return checked<uint64_t>([&] { return reply.message[1].as<uint64_t>(); });
  }

  arrow::Status CheckAlive() const {
    if (pid_ != getpid()) return make_error("invalid", "this client is a parent's: a forked child connects anew");
    if (!index_.daemon_alive())
      return make_error("connection-lost", "the daemon is gone; what is mapped stays readable");
    return arrow::Status::OK();
  }

  uint64_t instance() const { return index_.header->instance; }
  bool contains(const void* p) const {
    auto at = static_cast<const uint8_t*>(p);
    return at >= base_ && at < base_ + space_;
  }

 private:
  class Body final : public arrow::Buffer {
   public:
    Body(std::shared_ptr<Mapping> mapping, int64_t slot)
        : arrow::Buffer(mapping->base_, mapping->space_), mapping_(std::move(mapping)), slot_(slot) {}
    // On any thread; no socket is touched.
    ~Body() override {
      Mapping& m = *mapping_;
      if (m.pid_ == getpid()) vineyard::unpin(m.index_, m.table_, m.event_.get(), slot_);
    }

   private:
    std::shared_ptr<Mapping> mapping_;
    int64_t slot_;
  };

  static constexpr int kAttempts = 1000;

  Mapping() : pid_(getpid()) {}

  void* map(size_t nbytes, int protection, int flags, int fd, const char* what) {
    void* at = mmap(nullptr, nbytes, protection, flags | MAP_NORESERVE, fd, 0);
    if (at == MAP_FAILED)
      throw std::runtime_error(std::string("cannot map ") + what + ": " + strerror(errno) +
                               " (is the address space limited: ulimit -v?)");
    return at;
  }

  void attach(Reply& welcome) {
    vineyard::IndexHeader header;
    if (pread(welcome.fds[0].get(), &header, sizeof(header), 0) != sizeof(header) ||
        header.magic != vineyard::kIndexMagic)
      throw std::runtime_error("this is no index of a store: client and daemon are different builds");
    index_nbytes_ = vineyard::index_nbytes(header.num_buckets, header.num_slots);
    index_.open(map(index_nbytes_, PROT_READ, MAP_SHARED, welcome.fds[0].get(), "the index"));
    space_ = header.space_nbytes;
    wide_ = map(space_ + vineyard::kHugePage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, "the store");
    base_ = reinterpret_cast<uint8_t*>(
        vineyard::round_up(reinterpret_cast<uint64_t>(wide_), vineyard::kHugePage));
    uint64_t nbytes = vineyard::ClientTable::nbytes(header.num_slots);
    void* table = map(nbytes, PROT_READ | PROT_WRITE, MAP_SHARED, welcome.fds[1].get(), "the client table");
    madvise(table, nbytes, MADV_DONTFORK);
    table_ = static_cast<vineyard::ClientTable*>(table);
    event_ = std::move(welcome.fds[2]);
    place(welcome.message[3].as<uint64_t>(), header.catalog_offset, header.catalog_nbytes,
          welcome.fds[3].get(), false);
  }

  void place(uint64_t segment, uint64_t offset, uint64_t nbytes, int fd, bool huge) {
    if (offset % vineyard::kPage || offset > space_ || nbytes > space_ - offset)
      throw std::runtime_error("a segment lies outside of the store");
    void* at = mmap(base_ + offset, nbytes, PROT_READ, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd, 0);
    if (at == MAP_FAILED) throw std::runtime_error(std::string("cannot map a segment: ") + strerror(errno));
    if (huge) madvise(at, nbytes, MADV_HUGEPAGE);
    std::lock_guard<std::mutex> lock(segments_mutex_);
    segments_[segment] = {offset, nbytes};
  }

  // The daemon has retired these: nothing of them is pinned, by whomever.
  void retire(const Value& ids) {
    std::lock_guard<std::mutex> lock(segments_mutex_);
    for (auto& id : ids.as<Value::List>()) {
      auto it = segments_.find(id.as<uint64_t>());
      if (it == segments_.end()) continue;
      mmap(base_ + it->second.offset, it->second.nbytes, PROT_NONE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
      segments_.erase(it);
    }
  }

  // A segment of the blob that is not mapped.
  std::optional<uint32_t> missing(const vineyard::Blob& blob) {
    std::lock_guard<std::mutex> lock(segments_mutex_);
    for (uint32_t i = 0; i < blob.header.num_segments; i++)
      if (!segments_.count(blob.segments[i])) return blob.segments[i];
    return std::nullopt;
  }

  // Maps a segment, and what else an object and its members lie in.
  arrow::Status map_segments(uint32_t segment, uint64_t root) {
    std::lock_guard<std::mutex> lock(mapping_mutex_);
    Request ask("segments", 2);
    auto answer = connection_->Ask(ask.integer(segment).integer(root));
    if (error_code(answer.status()) == "not-found") return arrow::Status::OK();  // looking again says so
    ARROW_ASSIGN_OR_RAISE(Reply reply, std::move(answer));
    return checked<bool>([&] {
             for (size_t i = 0; i < reply.fds.size(); i++) {
               const Value& s = reply.message[1][i];  // ["mapped", segment, offset, nbytes, huge]
               place(s[1].as<uint64_t>(), s[2].as<uint64_t>(), s[3].as<uint64_t>(), reply.fds[i].get(),
                     s[4].as<bool>());
             }
             return true;
           })
        .status();
  }

  pid_t pid_;
  std::unique_ptr<Connection> connection_;
  vineyard::IndexView index_;
  uint64_t index_nbytes_ = 0, space_ = 0;
  void* wide_ = nullptr;
  uint8_t* base_ = nullptr;
  vineyard::ClientTable* table_ = nullptr;
  Fd event_;
  std::mutex mapping_mutex_;   // one asks for segments at a time
  std::mutex segments_mutex_;  // of segments_
  std::map<uint64_t, vineyard::Range> segments_;
};

inline arrow::Result<Mapping::Pinned> Mapping::Pin(uint64_t id, uint64_t root) {
  for (int i = 0; i < kAttempts; i++) {
    ARROW_RETURN_NOT_OK(CheckAlive());
    int64_t slot = vineyard::pin(index_, table_, event_.get(), id);
    if (slot < 0) {
      Request find("find", 3);
      ARROW_RETURN_NOT_OK(connection_->Ask(find.integer(id).nil().real(0)).status());
      continue;
    }
    Pinned pinned{std::make_shared<Body>(shared_from_this(), slot), {}};
    ARROW_ASSIGN_OR_RAISE(pinned.blob, checked<vineyard::Blob>([&] {
      return vineyard::open_blob(index_, slot, base_);
    }));
    std::optional<uint32_t> segment = missing(pinned.blob);
    if (!segment) return pinned;
    ARROW_RETURN_NOT_OK(map_segments(*segment, root));
  }
  return make_error("invalid", "the object keeps changing place");
}

}  // namespace internal

// One Arrow stream of an object.
class Part {
 public:
  // What it is, such as "vineyard.table" (docs/format.md has all).
  const std::string& type_name() const { return type_name_; }
  // The descriptor as JSON text; empty if there is none.
  const std::string& params_text() const { return params_; }
  arrow::Result<Value> params() const {
    if (params_.empty()) return Value(Value::Map());
    return internal::checked<Value>([&] { return parse_json(params_); });
  }
  const std::shared_ptr<arrow::Schema>& schema() const { return schema_; }
  int64_t num_rows() const { return raw_.rows; }
  int64_t num_batches() const { return raw_.num_batches; }
  // All batches, each a chunk of every column. Columns that reach out of their buffers are an
  // error; what offsets and indices say is not looked at (arrow::Table::ValidateFull does).
  arrow::Result<std::shared_ptr<arrow::Table>> Table() const {
    return internal::checked<std::shared_ptr<arrow::Table>>(
        [&] { return vineyard::read_table(raw_, schema_, body_, /*validate=*/true); });
  }

 private:
  friend class Client;
  Part(vineyard::RawPart raw, std::shared_ptr<arrow::Buffer> body)
      : raw_(std::move(raw)), body_(std::move(body)), schema_(vineyard::read_schema(raw_)) {
    auto metadata = schema_->metadata() ? schema_->metadata()->Copy() : std::make_shared<arrow::KeyValueMetadata>();
    type_name_ = metadata->Get("vineyard.type").ValueOr("vineyard.table");
    params_ = metadata->Get("vineyard.params").ValueOr("");
    (void)metadata->Delete("vineyard.type");
    (void)metadata->Delete("vineyard.params");
    schema_ = user_schema(*schema_)->WithMetadata(metadata->size() ? metadata : nullptr);
  }

  // Without the extension type that says of a part's one column, or in place of one, what
  // type_name() says.
  std::shared_ptr<arrow::Schema> user_schema(const arrow::Schema& stored) const {
    auto field = stored.num_fields() == 1 ? stored.field(0) : nullptr;
    bool ours = field && field->name() == "data" && field->metadata() &&
                field->metadata()->Get("ARROW:extension:name").ValueOr("") == type_name_;
    if (!ours) return schema_;
    if (field->type()->id() == arrow::Type::NA) return arrow::schema({});
    return arrow::schema({field->WithMetadata(nullptr)});
  }

  vineyard::RawPart raw_;  // its messages lie in body_
  std::shared_ptr<arrow::Buffer> body_;
  std::shared_ptr<arrow::Schema> schema_;
  std::string type_name_, params_;
};

// One object that another is composed of.
struct Member {
  std::string name;
  uint64_t id;
  std::string type_name;
};

// An id as it is printed: "o" and 16 hexadecimal digits.
inline std::string format_id(uint64_t id) {
  char text[18];
  snprintf(text, sizeof(text), "o%016llx", static_cast<unsigned long long>(id));
  return text;
}
inline std::optional<uint64_t> parse_id(std::string_view text) {
  uint64_t id;
  if (text.size() != 17 || text[0] != 'o') return std::nullopt;
  auto [stop, error] = std::from_chars(text.data() + 1, text.data() + text.size(), id, 16);
  if (error != std::errc() || stop != text.data() + text.size()) return std::nullopt;
  return id;
}

class Client;

// A stored object, pinned for as long as this or anything made of it lives.
class Object {
 public:
  uint64_t id() const { return id_; }
  const std::string& type_name() const { return root().type_name(); }
  // Its own Arrow streams; the root, which is always there, first.
  const std::vector<Part>& parts() const { return parts_; }
  const Part& root() const { return parts_[0]; }
  // Payload in bytes: the sum of its own buffers.
  int64_t nbytes() const { return nbytes_; }
  // Objects that it is composed of, in the order they were added.
  const std::vector<Member>& members() const { return members_; }
  // A member by its name. Found also when this object was deleted meanwhile.
  arrow::Result<Object> Get(std::string_view name) const;

 private:
  friend class Client;
  Object() = default;

  uint64_t id_ = 0, root_ = 0;  // root_: the object that the first get was of
  int64_t nbytes_ = 0;
  std::vector<Part> parts_;
  std::vector<Member> members_;
  std::shared_ptr<const Client> client_;
};

class Client : public std::enable_shared_from_this<Client> {
 public:
  // Attaches this process to the daemon that listens at `socket`; starts none. `timeout_s` is
  // the deadline of this and of every later call that needs the daemon.
  static arrow::Result<std::shared_ptr<Client>> Connect(const std::string& socket, double timeout_s = 30) {
    ARROW_ASSIGN_OR_RAISE(auto mapping, internal::Mapping::Attach(socket, timeout_s));
    return std::shared_ptr<Client>(new Client(std::move(mapping)));
  }

  // The object with this id. No round trip once its segments are mapped, one if not. Errors:
  // "not-found"; "connection-lost" once the daemon is gone, since its index may be out of date.
  arrow::Result<Object> Get(uint64_t id) const { return get(id, id); }
  // The same by name, or by an id as it is printed.
  arrow::Result<Object> Get(std::string_view key) const {
    ARROW_ASSIGN_OR_RAISE(uint64_t id, Find(key));
    return Get(id);
  }
  // The id that a name points to; a printed id is that id, there or not.
  arrow::Result<uint64_t> Find(std::string_view key) const {
    if (auto id = parse_id(key)) return *id;  // no name has this form
    return mapping_->FindName(key);
  }

  // Fails once the daemon is gone. No system call but getpid.
  arrow::Status CheckAlive() const { return mapping_->CheckAlive(); }
  uint64_t instance() const { return mapping_->instance(); }
  // Whether an address lies in the store, as this client maps it.
  bool Contains(const void* address) const { return mapping_->contains(address); }

 private:
  friend class Object;
  explicit Client(std::shared_ptr<internal::Mapping> mapping) : mapping_(std::move(mapping)) {}

  arrow::Result<Object> get(uint64_t id, uint64_t root) const {
    ARROW_ASSIGN_OR_RAISE(auto pinned, mapping_->Pin(id, root));
    return internal::checked<Object>([&] { return open(id, root, pinned); });
  }

  Object open(uint64_t id, uint64_t root, const internal::Mapping::Pinned& pinned) const {
    Object object;
    object.id_ = id;
    object.root_ = root;
    object.nbytes_ = pinned.blob.header.payload_nbytes;
    object.client_ = shared_from_this();
    for (auto& raw : vineyard::split_parts(pinned.blob.streams, pinned.blob.header.stream_nbytes))
      object.parts_.push_back(Part(std::move(raw), pinned.body));
    if (object.parts_.empty()) throw std::runtime_error("an object without parts");
    const Part& last = object.parts_.back();
    if (last.type_name() != "vineyard.members") return object;
    Value params = parse_json(last.params_text());
    const Value* ids = params.find("ids");
    for (int i = 0; i < last.schema()->num_fields(); i++) {
      auto& field = last.schema()->field(i);
      auto printed = ids ? parse_id((*ids)[i].as<std::string>()) : std::nullopt;
      auto metadata = field->metadata();
      if (!printed || !metadata) throw std::runtime_error("the members of this object make no sense");
      object.members_.push_back(
          {field->name(), *printed, metadata->Get("ARROW:extension:metadata").ValueOr("")});
    }
    return object;
  }

  std::shared_ptr<internal::Mapping> mapping_;
};

inline arrow::Result<Object> Object::Get(std::string_view name) const {
  for (auto& member : members_)
    if (member.name == name) return client_->get(member.id, root_);
  return make_error("not-found", format_id(id_) + " has no member '" + std::string(name) + "'");
}

}  // namespace vineyard_arrow
