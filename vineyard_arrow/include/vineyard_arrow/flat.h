// Finds what is wanted in the flatbuffer of an Arrow IPC message: the Buffer{offset, length}
// entries of a batch, names and metadata of a schema.
//
// Layout from the Arrow columnar format (Message.fbs, Schema.fbs) and the FlatBuffers internals
// page: a table starts with a signed offset to its vtable; vtable[2 + i] is the place of field
// i; a vector is a length and its elements. Every step is checked against the size, since
// the bytes may come from another process.
#pragma once

#include <stdint.h>
#include <string.h>

#include <stdexcept>
#include <string_view>
#include <vector>

namespace vineyard {

enum MessageKind : uint8_t { kNoMessage = 0, kSchema = 1, kDictionaryBatch = 2, kRecordBatch = 3 };

struct BufferEntry {  // struct Buffer in Message.fbs
  int64_t offset, length;
};

class FlatBytes {
 protected:
  FlatBytes(uint8_t* data, uint64_t nbytes) : data_(data), nbytes_(nbytes) {}

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
};

class FlatMessage : FlatBytes {
 public:
  FlatMessage(uint8_t* data, uint64_t nbytes) : FlatBytes(data, nbytes) {
    uint64_t root = table_at(0);
    if (!root) return;
    uint64_t type = field(root, 1), header = indirect(field(root, 2));
    if (!type || !header) return;
    kind_ = data_[type];
    if (kind_ == kDictionaryBatch) header = indirect(field(header, 1));
    if (kind_ != kDictionaryBatch && kind_ != kRecordBatch) return;
    uint64_t length = field(header, 0), vector = indirect(field(header, 2));
    if (length && fits(length, 8)) rows_ = read<int64_t>(length);
    if (field(header, 3)) compressed_ = true;
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
  uint8_t kind_ = kNoMessage;
  bool compressed_ = false;
  int64_t rows_ = 0;
  uint64_t count_ = 0, buffers_ = 0;
};

// Views into the message. Throws on what makes no sense.
class FlatSchema : FlatBytes {
 public:
  FlatSchema(uint8_t* data, uint64_t nbytes) : FlatBytes(data, nbytes) {
    uint64_t root = table_at(0), type = field(root, 1);
    if (type && data_[type] == kSchema) schema_ = indirect(field(root, 2));
  }

  // A value of the schema's own metadata; empty if there is none.
  std::string_view metadata(std::string_view key) const { return value(field(schema_, 2), key); }

  struct Field {
    std::string_view name, value;
  };
  // The fields' names, each with a value of its metadata.
  std::vector<Field> fields(std::string_view key) const {
    std::vector<Field> out;
    for (uint64_t table : tables(field(schema_, 1)))
      out.push_back({text(field(table, 0)), value(field(table, 6), key)});
    return out;
  }

 private:
  std::vector<uint64_t> tables(uint64_t place) const {
    std::vector<uint64_t> out;
    uint64_t vector = indirect(place);
    if (!vector) return out;
    uint64_t n = read<uint32_t>(vector);
    if (!fits(vector + 4, n * 4)) throw std::runtime_error("a schema's message is damaged");
    for (uint64_t i = 0; i < n; i++) out.push_back(indirect_from(vector + 4 + 4 * i));
    return out;
  }
  std::string_view text(uint64_t place) const {
    uint64_t at = indirect(place);
    if (!at) return {};
    uint64_t n = read<uint32_t>(at);
    if (!fits(at + 4, n)) throw std::runtime_error("a schema's message is damaged");
    return {reinterpret_cast<char*>(data_ + at + 4), n};
  }
  std::string_view value(uint64_t place, std::string_view key) const {
    for (uint64_t pair : tables(place))
      if (text(field(pair, 0)) == key) return text(field(pair, 1));
    return {};
  }

  uint64_t schema_ = 0;
};

}  // namespace vineyard
