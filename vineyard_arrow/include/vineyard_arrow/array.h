// NumPy arrays out of the store: `Array<T>` over the mapped elements, and `AnyArray` where the
// type of the elements is known only at run time. Neither copies; both keep what they show.
#pragma once

#include <arrow/array.h>
#include <arrow/buffer.h>
#include <arrow/extension_type.h>
#include <arrow/memory_pool.h>
#include <arrow/util/float16.h>

#include <chrono>
#include <complex>
#include <span>

#include "client.h"

namespace vineyard_arrow {

// numpy.dtype.str of the elements that a T is.
template <typename T>
struct Dtype;
template <> struct Dtype<bool> { static std::string name() { return "|b1"; } };
template <> struct Dtype<int8_t> { static std::string name() { return "|i1"; } };
template <> struct Dtype<uint8_t> { static std::string name() { return "|u1"; } };
template <> struct Dtype<int16_t> { static std::string name() { return "<i2"; } };
template <> struct Dtype<uint16_t> { static std::string name() { return "<u2"; } };
template <> struct Dtype<int32_t> { static std::string name() { return "<i4"; } };
template <> struct Dtype<uint32_t> { static std::string name() { return "<u4"; } };
template <> struct Dtype<int64_t> { static std::string name() { return "<i8"; } };
template <> struct Dtype<uint64_t> { static std::string name() { return "<u8"; } };
template <> struct Dtype<arrow::util::Float16> { static std::string name() { return "<f2"; } };
template <> struct Dtype<float> { static std::string name() { return "<f4"; } };
template <> struct Dtype<double> { static std::string name() { return "<f8"; } };
template <> struct Dtype<std::complex<float>> { static std::string name() { return "<c8"; } };
template <> struct Dtype<std::complex<double>> { static std::string name() { return "<c16"; } };
// Spans of time and, by sys_time, points in it. NumPy's NaT is the least value.
template <typename Period>
struct Dtype<std::chrono::duration<int64_t, Period>> {
  static std::string name() { return std::string("<m8[") + unit() + "]"; }
  static const char* unit() {
    if constexpr (std::is_same_v<Period, std::nano>) return "ns";
    else if constexpr (std::is_same_v<Period, std::micro>) return "us";
    else if constexpr (std::is_same_v<Period, std::milli>) return "ms";
    else if constexpr (std::is_same_v<Period, std::ratio<1>>) return "s";
    else if constexpr (std::is_same_v<Period, std::ratio<60>>) return "m";
    else if constexpr (std::is_same_v<Period, std::ratio<3600>>) return "h";
    else {
      static_assert(std::is_same_v<Period, std::ratio<86400>>, "NumPy has no such unit");
      return "D";
    }
  }
};
template <typename Span>
struct Dtype<std::chrono::time_point<std::chrono::system_clock, Span>> {
  static std::string name() { return std::string("<M8[") + Dtype<Span>::unit() + "]"; }
};

template <typename T>
class Array;

// An array of elements of any type, without gaps, in C order or in Fortran's.
class AnyArray {
 public:
  // The array that a part of typename "vineyard.tensor" holds.
  static arrow::Result<AnyArray> Of(const Part& part) {
    return internal::checked<AnyArray>([&] { return AnyArray(part); });
  }

  AnyArray() = default;  // empty, of no dtype
  // numpy.dtype.str, or "a record".
  const std::string& dtype() const { return dtype_; }
  const std::vector<int64_t>& shape() const { return shape_; }
  bool is_fortran() const { return fortran_; }
  // The elements' bytes; lives as long as this or a copy of it.
  const std::shared_ptr<arrow::Buffer>& buffer() const { return buffer_; }
  // The same elements; an error if T is another type than theirs.
  template <typename T>
  arrow::Result<Array<T>> as() const;
  // An array of the same shape with other elements.
  AnyArray with(std::string dtype, std::shared_ptr<arrow::Buffer> elements) const {
    AnyArray out = *this;
    out.dtype_ = std::move(dtype);
    out.buffer_ = std::move(elements);
    return out;
  }

 private:
  explicit AnyArray(const Part& part) {
    if (part.type_name() != "vineyard.tensor")
      throw std::runtime_error("a " + part.type_name() + " is no vineyard.tensor");
    Value params = internal::unwrap(part.params());
    const Value *shape = params.find("shape"), *dtype = params.find("dtype"), *order = params.find("order");
    auto table = internal::unwrap(part.Table());
    if (!shape || !dtype || !order || table->num_columns() != 1 || table->column(0)->num_chunks() > 1)
      throw std::runtime_error("a vineyard.tensor without its descriptor");
    auto name = dtype->get_if<std::string>();
    dtype_ = name ? *name : "a record";
    fortran_ = order->as<std::string>() == "F";
    shape_.clear();
    for (auto& n : shape->as<Value::List>()) {
      shape_.push_back(n.as<int64_t>());
      if (shape_.back() < 0) throw std::runtime_error("a vineyard.tensor of a negative length");
    }
    buffer_ = std::make_shared<arrow::Buffer>(nullptr, 0);
    if (!table->column(0)->num_chunks()) return;
    auto& data = *table->column(0)->chunk(0)->data();
    auto storage = data.type;
    if (storage->id() == arrow::Type::EXTENSION)  // arrow.bool8, or a type of ours that is registered here
      storage = static_cast<const arrow::ExtensionType&>(*storage).storage_type();
    int64_t width = storage->byte_width();
    if (width > 0 && data.buffers.size() == 2 && data.buffers[1])
      buffer_ = arrow::SliceBuffer(data.buffers[1], data.offset * width, data.length * width);
  }

  std::string dtype_;
  std::vector<int64_t> shape_{0};
  bool fortran_ = false;
  std::shared_ptr<arrow::Buffer> buffer_ = std::make_shared<arrow::Buffer>(nullptr, 0);
};

// An array whose elements are of type T.
template <typename T>
class Array {
 public:
  static arrow::Result<Array> Of(const Part& part) {
    ARROW_ASSIGN_OR_RAISE(AnyArray array, AnyArray::Of(part));
    return array.as<T>();
  }

  Array() = default;  // empty, of one dimension
  // All elements as they lie in memory: see is_fortran.
  std::span<const T> values() const { return values_; }
  const std::vector<int64_t>& shape() const { return any_.shape(); }
  bool is_fortran() const { return any_.is_fortran(); }
  // Keeps the elements; valid as long as this or a copy of it.
  const std::shared_ptr<arrow::Buffer>& buffer() const { return any_.buffer(); }
  // The element at an index for each dimension, which nobody checks.
  template <typename... Index>
  const T& operator()(Index... index) const {
    int64_t at = 0, i[] = {static_cast<int64_t>(index)...}, n = sizeof...(index);
    for (int64_t k = 0; k < n; k++) {
      int64_t axis = is_fortran() ? n - 1 - k : k;
      at = at * shape()[axis] + i[axis];
    }
    return values_[at];
  }

 private:
  friend class AnyArray;
  explicit Array(const AnyArray& any) : any_(any) {
    uint64_t count = 1;
    for (int64_t n : any.shape())
      if (__builtin_mul_overflow(count, static_cast<uint64_t>(n), &count)) count = UINT64_MAX;
    uint64_t nbytes = any.buffer()->size();
    if (nbytes % sizeof(T) || nbytes / sizeof(T) != count)
      throw std::runtime_error("a vineyard.tensor whose shape does not fit its elements");
    if (reinterpret_cast<uintptr_t>(any.buffer()->data()) % alignof(T)) {
      std::shared_ptr<arrow::Buffer> copy = internal::unwrap(arrow::AllocateBuffer(nbytes));
      memcpy(copy->mutable_data(), any.buffer()->data(), nbytes);
      any_ = any.with(any.dtype(), std::move(copy));
    }
    values_ = {reinterpret_cast<const T*>(any_.buffer()->data()), count};
  }
  AnyArray any_;
  std::span<const T> values_;
};

template <typename T>
arrow::Result<Array<T>> AnyArray::as() const {
  if (dtype_ != Dtype<T>::name())
    return make_error("invalid", "an array of dtype " + dtype_ + " is none of " + Dtype<T>::name());
  return internal::checked<Array<T>>([&] { return Array<T>(*this); });
}

}  // namespace vineyard_arrow
