// Plain values, and the two texts they come in: JSON (descriptors of parts) and msgpack
// (messages of the daemon). Knows no Arrow and no store. Bytes that make no sense are a
// std::runtime_error.
#pragma once

#include <stdint.h>
#include <string.h>

#include <charconv>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace vineyard_arrow {

// None, bool, int of 64 bits (unsigned only beyond int64), float, text or bytes, list, map.
class Value {
 public:
  using List = std::vector<Value>;
  using Map = std::vector<std::pair<std::string, Value>>;  // in the order it was written

  Value() = default;
  template <typename T>
  Value(T value) : data_(std::move(value)) {}  // one of the types below

  bool is_null() const { return data_.index() == 0; }
  template <typename T>
  const T* get_if() const {
    return std::get_if<T>(&data_);
  }
  // The value as T: bool, int64_t, uint64_t, double (of an integer too), std::string, List or
  // Map. std::runtime_error if it is another, or an integer that does not fit.
  template <typename T>
  T as() const {
    if (const T* same = get_if<T>()) return *same;
    if constexpr (std::is_same_v<T, double>) {
      if (auto i = get_if<int64_t>()) return static_cast<double>(*i);
      if (auto u = get_if<uint64_t>()) return static_cast<double>(*u);
    } else if constexpr (std::is_same_v<T, uint64_t>) {
      if (auto i = get_if<int64_t>(); i && *i >= 0) return static_cast<uint64_t>(*i);
    }
    throw std::runtime_error(std::string("a value is ") + kind() + ", which is not what was expected");
  }
  // What a map has under `key`; null if nothing.
  const Value* find(std::string_view key) const {
    if (auto map = get_if<Map>())
      for (auto& [name, value] : *map)
        if (name == key) return &value;
    return nullptr;
  }
  // Item i of a list; std::runtime_error if there is none.
  const Value& operator[](size_t i) const {
    auto list = get_if<List>();
    if (!list || i >= list->size()) throw std::runtime_error("a list is too short");
    return (*list)[i];
  }
  const char* kind() const {
    static constexpr const char* names[] = {"null",     "a boolean", "an integer", "an integer beyond int64",
                                            "a number", "a text",    "a list",     "a map"};
    return names[data_.index()];
  }

 private:
  std::variant<std::monostate, bool, int64_t, uint64_t, double, std::string, List, Map> data_;
};

namespace internal {

constexpr int kMaxDepth = 256;

class Reader {
 public:
  explicit Reader(std::string_view text) : p_(text.data()), end_(p_ + text.size()) {}

 protected:
  [[noreturn]] static void damaged() { throw std::runtime_error("a value is damaged"); }
  size_t left() const { return end_ - p_; }
  uint8_t byte() {
    if (p_ == end_) damaged();
    return static_cast<uint8_t>(*p_++);
  }
  std::string bytes(size_t n) {
    if (n > left()) damaged();
    std::string out(p_, n);
    p_ += n;
    return out;
  }
  struct Nest {  // counts how deep we are
    explicit Nest(int* depth) : depth(depth) {
      if (++*depth > kMaxDepth) throw std::runtime_error("a value nests too deeply");
    }
    ~Nest() { --*depth; }
    int* depth;
  };

  const char *p_, *end_;
  int depth_ = 0;
};

class MsgpackReader : Reader {  // the msgpack specification, without extension types
 public:
  using Reader::Reader;
  Value read_all() {
    Value value = read();
    if (left()) damaged();
    return value;
  }

 private:
  template <typename T>
  T big_endian() {
    uint64_t n = 0;
    for (size_t i = 0; i < sizeof(T); i++) n = n << 8 | byte();
    return static_cast<T>(n);
  }
  static Value integer(uint64_t n) {
    if (n <= INT64_MAX) return static_cast<int64_t>(n);
    return n;
  }
  template <typename To, typename From>
  static To same_bits(From from) {
    To to;
    memcpy(&to, &from, sizeof(to));
    return to;
  }

  Value list(size_t n) {
    Nest nest(&depth_);
    if (n > left()) damaged();
    Value::List out;
    out.reserve(n);
    while (n--) out.push_back(read());
    return out;
  }
  Value map(size_t n) {
    Nest nest(&depth_);
    if (n > left()) damaged();
    Value::Map out;
    out.reserve(n);
    while (n--) {
      std::string key = read().as<std::string>();
      out.emplace_back(std::move(key), read());
    }
    return out;
  }

  Value read() {
    uint8_t tag = byte();
    if (tag < 0x80) return int64_t{tag};
    if (tag < 0x90) return map(tag & 15);
    if (tag < 0xa0) return list(tag & 15);
    if (tag < 0xc0) return bytes(tag & 31);
    if (tag >= 0xe0) return int64_t{static_cast<int8_t>(tag)};
    switch (tag) {
      case 0xc0: return {};
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: case 0xd9: return bytes(byte());
      case 0xc5: case 0xda: return bytes(big_endian<uint16_t>());
      case 0xc6: case 0xdb: return bytes(big_endian<uint32_t>());
      case 0xca: return double{same_bits<float>(big_endian<uint32_t>())};
      case 0xcb: return same_bits<double>(big_endian<uint64_t>());
      case 0xcc: return int64_t{byte()};
      case 0xcd: return int64_t{big_endian<uint16_t>()};
      case 0xce: return int64_t{big_endian<uint32_t>()};
      case 0xcf: return integer(big_endian<uint64_t>());
      case 0xd0: return int64_t{big_endian<int8_t>()};
      case 0xd1: return int64_t{big_endian<int16_t>()};
      case 0xd2: return int64_t{big_endian<int32_t>()};
      case 0xd3: return big_endian<int64_t>();
      case 0xdc: return list(big_endian<uint16_t>());
      case 0xdd: return list(big_endian<uint32_t>());
      case 0xde: return map(big_endian<uint16_t>());
      case 0xdf: return map(big_endian<uint32_t>());
      default: damaged();
    }
  }
};

class JsonReader : Reader {  // RFC 8259
 public:
  using Reader::Reader;
  Value read_all() {
    Value value = read();
    skip();
    if (left()) damaged();
    return value;
  }

 private:
  char skip() {  // white space; the character after it, or 0
    while (p_ != end_ && (*p_ == ' ' || *p_ == '\n' || *p_ == '\r' || *p_ == '\t')) p_++;
    return p_ == end_ ? '\0' : *p_;
  }
  bool take(char c) {
    if (skip() != c) return false;
    p_++;
    return true;
  }
  void expect(char c) {
    if (!take(c)) damaged();
  }
  Value word(std::string_view text, Value value) {
    if (left() < text.size() || std::string_view(p_, text.size()) != text) damaged();
    p_ += text.size();
    return value;
  }

  Value read() {
    switch (skip()) {
      case 'n': return word("null", {});
      case 't': return word("true", true);
      case 'f': return word("false", false);
      case '"': return text();
      case '[': return list();
      case '{': return map();
      default: return number();
    }
  }
  Value list() {
    Nest nest(&depth_);
    Value::List out;
    expect('[');
    if (take(']')) return out;
    do out.push_back(read());
    while (take(','));
    expect(']');
    return out;
  }
  Value map() {
    Nest nest(&depth_);
    Value::Map out;
    expect('{');
    if (take('}')) return out;
    do {
      if (skip() != '"') damaged();
      std::string key = text();
      expect(':');
      out.emplace_back(std::move(key), read());
    } while (take(','));
    expect('}');
    return out;
  }

  Value number() {
    const char* begin = p_;
    while (p_ != end_ && (strchr("+-.eE", *p_) || (*p_ >= '0' && *p_ <= '9')) && *p_) p_++;
    auto parsed = [&](auto value) -> Value {
      auto [stop, error] = std::from_chars(begin, p_, value);
      return error == std::errc() && stop == p_ && stop != begin ? Value(value) : Value();
    };
    Value value = parsed(int64_t{});
    if (value.is_null()) value = parsed(uint64_t{});
    if (value.is_null()) value = parsed(double{});
    if (value.is_null()) damaged();
    return value;
  }

  uint32_t hex4() {
    std::string digits = bytes(4);
    uint32_t unit = 0;
    auto [stop, error] = std::from_chars(digits.data(), digits.data() + 4, unit, 16);
    if (error != std::errc() || stop != digits.data() + 4) damaged();
    return unit;
  }
  static void append_utf8(std::string* out, uint32_t c) {
    auto put = [&](uint32_t lead, int shift) {
      out->push_back(static_cast<char>(lead | c >> shift));
      while (shift > 0) out->push_back(static_cast<char>(0x80 | ((c >> (shift -= 6)) & 63)));
    };
    if (c < 0x80) put(0, 0);
    else if (c < 0x800) put(0xc0, 6);
    else if (c < 0x10000) put(0xe0, 12);
    else put(0xf0, 18);
  }
  std::string text() {
    std::string out;
    for (byte();;) {  // the quote
      char c = static_cast<char>(byte());
      if (c == '"') return out;
      if (c != '\\') {
        out.push_back(c);
        continue;
      }
      c = static_cast<char>(byte());
      static constexpr char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
      if (c == 'u') {
        uint32_t unit = hex4();
        if (unit >> 10 == 0x36) {  // the first half of a surrogate pair
          if (byte() != '\\' || byte() != 'u') damaged();
          uint32_t low = hex4();
          if (low >> 10 != 0x37) damaged();
          unit = 0x10000 + ((unit & 1023) << 10) + (low & 1023);
        }
        append_utf8(&out, unit);
      } else if (const char* at = c ? strchr(from, c) : nullptr) {
        out.push_back(to[at - from]);
      } else {
        damaged();
      }
    }
  }
};

}  // namespace internal

inline Value parse_json(std::string_view text) { return internal::JsonReader(text).read_all(); }
inline Value parse_msgpack(std::string_view bytes) { return internal::MsgpackReader(bytes).read_all(); }

}  // namespace vineyard_arrow
