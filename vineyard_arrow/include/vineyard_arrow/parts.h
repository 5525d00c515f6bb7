// Stored objects as they lie in the catalog, and how Arrow's own reader reads them.
//
// An object is a header that the daemon writes (BlobHeader) and one or more *parts*, each an
// Arrow IPC stream (Schema, DictionaryBatch and RecordBatch messages, end marker) without
// bodies: the Buffer entries of the messages are offsets into the store. docs/format.md has
// the whole. Nothing here copies payload. Bytes that make no sense are a std::runtime_error.
#pragma once

#include <arrow/buffer.h>
#include <arrow/io/interfaces.h>
#include <arrow/ipc/dictionary.h>
#include <arrow/ipc/message.h>
#include <arrow/ipc/reader.h>
#include <arrow/record_batch.h>
#include <arrow/table.h>
#include <arrow/type.h>

#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "flat.h"
#include "layout.h"

namespace vineyard {

inline void check(const arrow::Status& s) {
  if (s.ok()) return;
  if (s.IsOutOfMemory()) throw std::bad_alloc();
  throw std::runtime_error(s.ToString());
}
template <typename T>
T check(arrow::Result<T> r) {
  check(r.status());
  return std::move(r).ValueUnsafe();
}

constexpr uint32_t kBlobMagic = 0x32594156;  // "VAY2"
constexpr uint32_t kContinuation = 0xFFFFFFFF;

struct BlobHeader {
  uint32_t magic;
  uint32_t num_segments;  // ids follow the header, padded to 8 bytes
  uint64_t stream_nbytes;
  int64_t payload_nbytes;
  int64_t created_ns;  // since 1970, UTC
  int64_t copied, gathered, shared;
  uint32_t uid;  // whose process put it, by SO_PEERCRED; kSeveralUsers
  uint32_t reserved;
  uint64_t signature;
};
// Of an object whose payload also lies in memory that another user's process wrote.
constexpr uint32_t kSeveralUsers = 0xFFFFFFFF;

inline uint64_t blob_stream_offset(uint32_t num_segments) {
  return sizeof(BlobHeader) + round_up(num_segments * 4ull, 8);
}

// An object's place in the catalog.
struct Blob {
  BlobHeader header;
  const uint32_t* segments;  // header.num_segments ids: what its buffers lie in
  uint8_t* streams;          // header.stream_nbytes of messages
};

// What is in a pinned slot. `base`: where the store is mapped.
inline Blob open_blob(const IndexView& index, int64_t slot, uint8_t* base) {
  const IndexHeader& h = *index.header;
  uint64_t offset = index.slots[slot].offset.load(), nbytes = index.slots[slot].nbytes.load();
  if (nbytes < sizeof(BlobHeader) || nbytes > h.catalog_nbytes || offset < h.catalog_offset ||
      offset - h.catalog_offset > h.catalog_nbytes - nbytes)
    throw std::runtime_error("the index points outside of the catalog");
  Blob blob;
  memcpy(&blob.header, base + offset, sizeof(BlobHeader));
  uint64_t start = blob_stream_offset(blob.header.num_segments);
  if (blob.header.magic != kBlobMagic || start > nbytes || blob.header.stream_nbytes > nbytes - start)
    throw std::runtime_error("object metadata is damaged");
  blob.segments = reinterpret_cast<const uint32_t*>(base + offset + sizeof(BlobHeader));
  blob.streams = base + offset + start;
  return blob;
}

// Arrow's reader refuses buffers that do not start on 8 bytes, but slices of stored columns
// do as they please. Such a buffer's entry holds the offset rounded down, and what is left
// of it (1 to 7) in bits 56 to 58; StoreFile adds the two again.
constexpr int kShiftBit = 56;

inline int64_t encode_offset(uint64_t offset) {
  return static_cast<int64_t>(round_down(offset, 8) | (offset % 8) << kShiftBit);
}
inline int64_t decode_offset(int64_t entry) {
  if (entry < 0) return entry;
  return (entry & ((int64_t{1} << kShiftBit) - 1)) + ((entry >> kShiftBit) & 7);
}

// The messages of a stream of parts, in order. Throws on bytes that make no sense.
class StreamCursor {
 public:
  StreamCursor(uint8_t* data, uint64_t nbytes) : p_(data), end_(data + nbytes) {}

  bool done() const { return p_ == end_; }
  // The next flatbuffer; empty at the end of a part.
  std::pair<uint8_t*, uint32_t> next() {
    uint32_t prefix[2];
    if (end_ - p_ < 8) throw std::runtime_error("object metadata is truncated");
    memcpy(prefix, p_, 8);
    if (prefix[0] != kContinuation || prefix[1] > static_cast<uint64_t>(end_ - p_ - 8))
      throw std::runtime_error("object metadata is damaged");
    uint8_t* at = p_ + 8;
    p_ = at + prefix[1];
    return {at, prefix[1]};
  }

 private:
  uint8_t *p_, *end_;
};

// A part as read: its messages, not yet decoded.
struct RawPart {
  std::pair<uint8_t*, uint32_t> schema{nullptr, 0};
  std::vector<std::pair<uint8_t*, uint32_t>> batches;  // and dictionaries, in order
  bool dictionaries = false;
  int64_t rows = 0, num_batches = 0;
};

inline std::vector<RawPart> split_parts(uint8_t* data, uint64_t nbytes) {
  std::vector<RawPart> parts;
  for (StreamCursor cursor(data, nbytes); !cursor.done();) {
    RawPart part;
    for (;;) {
      auto message = cursor.next();
      if (!message.second) break;
      FlatMessage flat(message.first, message.second);
      if (!part.schema.first) {
        if (flat.kind() != kSchema && flat.kind() != kNoMessage) throw std::runtime_error("a part has no schema");
        part.schema = message;
        continue;
      }
      if (flat.compressed()) throw std::runtime_error("a stored batch is compressed");
      if (flat.kind() == kDictionaryBatch) part.dictionaries = true;
      else part.rows += flat.rows(), part.num_batches++;
      part.batches.push_back(message);
    }
    if (!part.schema.first) throw std::runtime_error("a part has no schema");
    parts.push_back(std::move(part));
  }
  return parts;
}

inline std::unique_ptr<arrow::ipc::Message> open_message(std::pair<uint8_t*, uint32_t> m,
                                                         const std::shared_ptr<arrow::Buffer>& body) {
  return check(arrow::ipc::Message::Open(std::make_shared<arrow::Buffer>(m.first, m.second), body));
}

inline std::shared_ptr<arrow::Schema> read_schema(const RawPart& part) {
  arrow::ipc::DictionaryMemo memo;
  return check(arrow::ipc::ReadSchema(*open_message(part.schema, nullptr), &memo));
}

// What the members' part of a composite object says; ids are in the JSON of its descriptor.
struct Members {
  std::string_view params;
  std::vector<FlatSchema::Field> fields;  // names, and typenames
};

// Whether it is one. The views last as long as the messages.
inline bool read_members(const RawPart& part, Members* out) {
  if (!part.batches.empty()) return false;
  FlatSchema flat(part.schema.first, part.schema.second);
  if (flat.metadata("vineyard.type") != "vineyard.members") return false;
  out->params = flat.metadata("vineyard.params");
  out->fields = flat.fields("ARROW:extension:metadata");
  return true;
}

class PartReader final : public arrow::ipc::MessageReader {
 public:
  PartReader(const RawPart& part, std::shared_ptr<arrow::Buffer> body) : part_(part), body_(std::move(body)) {}
  arrow::Result<std::unique_ptr<arrow::ipc::Message>> ReadNextMessage() override {
    if (next_ > part_.batches.size()) return nullptr;
    auto m = next_ == 0 ? part_.schema : part_.batches[next_ - 1];
    next_++;
    return arrow::ipc::Message::Open(std::make_shared<arrow::Buffer>(m.first, m.second),
                                     next_ == 1 ? nullptr : body_);
  }

 private:
  const RawPart& part_;
  std::shared_ptr<arrow::Buffer> body_;
  size_t next_ = 0;
};

// The store as a file that Arrow reads buffers of a batch from, without copying.
class StoreFile final : public arrow::io::RandomAccessFile {
 public:
  explicit StoreFile(std::shared_ptr<arrow::Buffer> body) : body_(std::move(body)) {}
  using arrow::io::RandomAccessFile::ReadAt;
  arrow::Result<std::shared_ptr<arrow::Buffer>> ReadAt(int64_t entry, int64_t nbytes) override {
    int64_t offset = decode_offset(entry);
    if (offset < 0 || nbytes < 0 || offset > body_->size() || nbytes > body_->size() - offset)
      return arrow::Status::Invalid("a buffer lies outside of the store");
    return arrow::SliceBuffer(body_, offset, nbytes);
  }
  arrow::Result<int64_t> GetSize() override { return body_->size(); }
  arrow::Status Close() override { return arrow::Status::OK(); }
  bool closed() const override { return false; }
  arrow::Result<int64_t> Tell() const override { return no(); }
  arrow::Status Seek(int64_t) override { return no(); }
  arrow::Result<int64_t> Read(int64_t, void*) override { return no(); }
  arrow::Result<std::shared_ptr<arrow::Buffer>> Read(int64_t) override { return no(); }

 private:
  static arrow::Status no() { return arrow::Status::NotImplemented("the store is read at offsets"); }
  std::shared_ptr<arrow::Buffer> body_;
};

// The batches of a part as a table over `body`, with `schema` (the part's own, but for the
// metadata). Copies nothing. `validate`: see that no row lies outside of its column's buffers.
inline std::shared_ptr<arrow::Table> read_table(const RawPart& part,
                                                const std::shared_ptr<arrow::Schema>& schema,
                                                const std::shared_ptr<arrow::Buffer>& body, bool validate) {
  auto options = arrow::ipc::IpcReadOptions::Defaults();
  options.use_threads = false;
  std::vector<std::shared_ptr<arrow::RecordBatch>> batches;
  if (part.dictionaries) {
    auto reader = check(arrow::ipc::RecordBatchStreamReader::Open(
        std::make_unique<PartReader>(part, body), options));
    std::shared_ptr<arrow::RecordBatch> batch;
    for (;;) {
      check(reader->ReadNext(&batch));
      if (!batch) break;
      batches.push_back(check(batch->ReplaceSchema(schema)));
    }
  } else {
    // The schema is known: Arrow need not parse it again, half the cost of a wide get.
    arrow::ipc::DictionaryMemo memo;
    StoreFile file(body);
    for (auto& m : part.batches)
      batches.push_back(check(arrow::ipc::ReadRecordBatch(arrow::Buffer(m.first, m.second), schema, &memo, options, &file)));
  }
  auto table = check(arrow::Table::FromRecordBatches(schema, batches));
  if (validate) check(table->Validate());
  return table;
}

}  // namespace vineyard
