// Finds the Buffer{offset, length} entries in the flatbuffer of an Arrow IPC message.
//
// Layout from the Arrow columnar format (Message.fbs) and the FlatBuffers internals page:
// a table starts with a signed offset to its vtable; vtable[2 + i] is the place of field
// i; a vector is a length and its elements. Every step is checked against the size, since
// the bytes may come from another process.
#pragma once

#include <stdint.h>
#include <string.h>

namespace vineyard {

enum MessageKind : uint8_t { kNoMessage = 0, kSchema = 1, kDictionaryBatch = 2, kRecordBatch = 3 };

struct BufferEntry {  // struct Buffer in Message.fbs
  int64_t offset, length;
};

class FlatMessage {
 public:
  FlatMessage(uint8_t* data, uint64_t nbytes) : data_(data), nbytes_(nbytes) {
    uint64_t root = table_at(0);
    if (!root) return;
    uint64_t type = field(root, 1), header = indirect(field(root, 2));
    if (!type || !header) return;
    kind_ = data_[type];
    if (kind_ == kDictionaryBatch) header = indirect(field(header, 1));
    if (kind_ != kDictionaryBatch && kind_ != kRecordBatch) return;
    uint64_t length = field(header, 0), vector = indirect(field(header, 2));
    if (length && fits(length, 8)) rows_ = read<int64_t>(length);
    if (kind_ == kRecordBatch && field(header, 3)) compressed_ = true;
    if (!vector || !fits(vector, 4)) return;
    uint64_t n = read<uint32_t>(vector);
    if (n > (nbytes_ - vector) / sizeof(BufferEntry)) return;
    if (n && !fits(vector + 4, n * sizeof(BufferEntry))) return;
    count_ = n;
    buffers_ = vector + 4;
  }

  uint8_t kind() const { return kind_; }
  int64_t rows() const { return rows_; }
  bool compressed() const { return compressed_; }
  uint64_t num_buffers() const { return count_; }

  BufferEntry buffer(uint64_t i) const {
    BufferEntry entry;
    memcpy(&entry, data_ + buffers_ + i * sizeof(entry), sizeof(entry));
    return entry;
  }
  void set_offset(uint64_t i, int64_t offset) {
    memcpy(data_ + buffers_ + i * sizeof(BufferEntry), &offset, sizeof(offset));
  }

 private:
  bool fits(uint64_t at, uint64_t n) const { return at <= nbytes_ && n <= nbytes_ - at; }
  template <typename T>
  T read(uint64_t at) const {
    T value;
    memcpy(&value, data_ + at, sizeof(value));
    return value;
  }
  uint64_t table_at(uint64_t at) const { return indirect_from(at); }
  uint64_t indirect(uint64_t at) const { return at ? indirect_from(at) : 0; }
  uint64_t indirect_from(uint64_t at) const {
    if (!fits(at, 4)) return 0;
    uint64_t to = at + read<uint32_t>(at);
    return fits(to, 4) ? to : 0;
  }
  // Place of field i of the table at `table`; 0 when absent or outside.
  uint64_t field(uint64_t table, int i) const {
    if (!table) return 0;
    int64_t vtable = static_cast<int64_t>(table) - read<int32_t>(table);
    if (vtable < 0 || !fits(vtable, 4)) return 0;
    uint64_t entry = 4 + 2 * i;
    if (entry + 2 > read<uint16_t>(vtable) || !fits(vtable + entry, 2)) return 0;
    uint64_t offset = read<uint16_t>(vtable + entry);
    return offset && fits(table + offset, 1) ? table + offset : 0;
  }

  uint8_t* data_;
  uint64_t nbytes_;
  uint8_t kind_ = kNoMessage;
  bool compressed_ = false;
  int64_t rows_ = 0;
  uint64_t count_ = 0, buffers_ = 0;
};

}  // namespace vineyard
