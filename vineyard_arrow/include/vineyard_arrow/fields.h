// Readers of the fields of shared classes, as far as they are one cell: plain values, and
// containers. See shared.h.
//
// A *reader* is made of what a field is declared to be. It looks at the type that the field was
// stored as (`check`), then makes values of cells. Layout and rules are those of
// vineyard_arrow/codegen/model.py and types/shared_readers.py.
#pragma once

#include <arrow/array/array_nested.h>
#include <arrow/array/array_primitive.h>
#include <arrow/array/array_binary.h>

#include <tuple>

#include "array.h"

namespace vineyard_arrow {
namespace read {

// What was found is not what a field is declared to be.
struct Mismatch : std::runtime_error {
  explicit Mismatch(const std::string& found) : std::runtime_error(found) {}
  std::string path;  // within the field, such as [3]
};

// An object of a shared class that is being read: a part of a stored object.
struct Place {
  const Object& object;
  size_t part;
  int depth;
};

// One value of a field or of a container in it.
struct Cell {
  const arrow::Array& array;
  int64_t row;
  const Place& place;
};

template <typename Reader>
typename Reader::type get(const Reader& reader, const Cell& cell) {
  if constexpr (!Reader::nullable)
    if (cell.array.IsNull(cell.row)) throw Mismatch("None");
  return reader(cell);
}
template <typename Reader, typename Key>
typename Reader::type get_at(const Key& key, const Reader& reader, const Cell& cell) {
  try {
    return get(reader, cell);
  } catch (Mismatch& error) {
    if constexpr (std::is_integral_v<Key>) error.path = "[" + std::to_string(key) + "]" + error.path;
    else error.path = "['" + std::string(key) + "']" + error.path;
    throw;
  }
}

template <typename T>
struct Reads {
  using type = T;
  static constexpr bool nullable = false;
};
// One whose values are stored as `arrow`, exactly.
template <typename T>
struct ReadsExactly : Reads<T> {
  explicit ReadsExactly(std::shared_ptr<arrow::DataType> arrow) : arrow(std::move(arrow)) {}
  void check(const arrow::DataType& found) const {
    if (!found.Equals(*arrow)) throw Mismatch(found.ToString());
  }
  std::shared_ptr<arrow::DataType> arrow;
};

// ---- plain values

// Whether `to` has every value of `from` exactly.
inline bool is_widening(const arrow::DataType& from, const arrow::DataType& to) {
  using Id = arrow::Type;
  if (from.Equals(to)) return true;
  auto is = [&](Id::type a, Id::type b) { return from.id() == a && to.id() == b; };
  if (is(Id::STRING, Id::LARGE_STRING) || is(Id::BINARY, Id::LARGE_BINARY)) return true;
  auto bits = [](const arrow::DataType& type) {  // of whole numbers: the sign not counted
    if (arrow::is_floating(type.id())) return type.bit_width() == 16 ? 11 : type.bit_width() == 32 ? 24 : 53;
    return type.bit_width() - arrow::is_signed_integer(type.id());
  };
  if (!arrow::is_integer(from.id()))
    return arrow::is_floating(from.id()) && arrow::is_floating(to.id()) && from.bit_width() <= to.bit_width();
  bool keeps_sign = arrow::is_floating(to.id()) || arrow::is_signed_integer(to.id()) || !arrow::is_signed_integer(from.id());
  return (arrow::is_integer(to.id()) || arrow::is_floating(to.id())) && keeps_sign && bits(from) <= bits(to);
}

template <typename Stored>
auto value_at(const Cell& cell) {
  return static_cast<const typename arrow::TypeTraits<Stored>::ArrayType&>(cell.array).Value(cell.row);
}
// A stored integer, its 64 bits; those of an unsigned one as they are.
inline int64_t integer_at(const Cell& cell) {
  switch (cell.array.type_id()) {
    case arrow::Type::INT8: return value_at<arrow::Int8Type>(cell);
    case arrow::Type::UINT8: return value_at<arrow::UInt8Type>(cell);
    case arrow::Type::INT16: return value_at<arrow::Int16Type>(cell);
    case arrow::Type::UINT16: return value_at<arrow::UInt16Type>(cell);
    case arrow::Type::INT32: return value_at<arrow::Int32Type>(cell);
    case arrow::Type::UINT32: return value_at<arrow::UInt32Type>(cell);
    case arrow::Type::INT64: return value_at<arrow::Int64Type>(cell);
    default: return static_cast<int64_t>(value_at<arrow::UInt64Type>(cell));
  }
}
inline double number_at(const Cell& cell) {
  switch (cell.array.type_id()) {
    case arrow::Type::HALF_FLOAT: return arrow::util::Float16::FromBits(value_at<arrow::HalfFloatType>(cell)).ToDouble();
    case arrow::Type::FLOAT: return value_at<arrow::FloatType>(cell);
    case arrow::Type::DOUBLE: return value_at<arrow::DoubleType>(cell);
    default: return static_cast<double>(integer_at(cell));
  }
}

// Integers and double; may be stored as narrower ones.
template <typename T>
struct Plain : Reads<T> {
  void check(const arrow::DataType& found) const {
    if (!is_widening(found, *arrow::CTypeTraits<T>::type_singleton())) throw Mismatch(found.ToString());
  }
  T operator()(const Cell& cell) const {
    if constexpr (std::is_same_v<T, double>) return number_at(cell);
    else return static_cast<T>(integer_at(cell));
  }
};
template <>
struct Plain<bool> : ReadsExactly<bool> {
  Plain() : ReadsExactly(arrow::boolean()) {}
  bool operator()(const Cell& cell) const {
    return value_at<arrow::BooleanType>(cell);
  }
};
template <typename T>
Plain<T> plain() { return {}; }

struct Text : ReadsExactly<std::string> {
  using ReadsExactly::ReadsExactly;
  std::string operator()(const Cell& cell) const {
    return static_cast<const arrow::BinaryArray&>(cell.array).GetString(cell.row);
  }
};
inline Text text() { return Text(arrow::utf8()); }
inline Text bytes() { return Text(arrow::binary()); }

// Dates and times of day, and points in time, by their count of days or microseconds.
template <typename T, typename Stored>
struct Clock : ReadsExactly<T> {
  using ReadsExactly<T>::ReadsExactly;
  T operator()(const Cell& cell) const {
    auto count = value_at<Stored>(cell);
    if constexpr (requires { typename T::clock; }) return T(typename T::duration(count));
    else return T(count);
  }
};
inline auto date() { return Clock<std::chrono::sys_days, arrow::Date32Type>(arrow::date32()); }
inline auto time() {
  return Clock<std::chrono::microseconds, arrow::Time64Type>(arrow::time64(arrow::TimeUnit::MICRO));
}
inline auto timedelta() {
  return Clock<std::chrono::microseconds, arrow::DurationType>(arrow::duration(arrow::TimeUnit::MICRO));
}
// Without a zone, as Python's naive ones.
inline auto datetime() {
  return Clock<std::chrono::local_time<std::chrono::microseconds>, arrow::TimestampType>(
      arrow::timestamp(arrow::TimeUnit::MICRO));
}
// A moment; `zone` is where its writer showed it.
inline auto datetime(const std::string& zone) {
  return Clock<std::chrono::sys_time<std::chrono::microseconds>, arrow::TimestampType>(
      arrow::timestamp(arrow::TimeUnit::MICRO, zone));
}

// A member of an enumeration, by its name.
template <typename T>
struct Choice : ReadsExactly<T> {
  explicit Choice(std::span<const std::pair<std::string_view, T>> names)
      : ReadsExactly<T>(arrow::utf8()), names(names) {}
  T operator()(const Cell& cell) const {
    std::string_view found = static_cast<const arrow::StringArray&>(cell.array).GetView(cell.row);
    for (auto& [name, value] : names)
      if (name == found) return value;
    throw Mismatch("'" + std::string(found) + "'");
  }
  std::span<const std::pair<std::string_view, T>> names;
};
template <typename T, size_t n>
Choice<T> choice(const std::pair<std::string_view, T> (&names)[n]) { return Choice<T>(names); }

// ---- containers

template <typename T>
struct IsPointer : std::false_type {};
template <typename T>
struct IsPointer<std::shared_ptr<T>> : std::true_type {};

// What may be None: a std::optional, or null if it is a std::shared_ptr anyway.
template <typename Item>
struct Maybe {
  using type = std::conditional_t<IsPointer<typename Item::type>::value, typename Item::type,
                                  std::optional<typename Item::type>>;
  static constexpr bool nullable = true;
  void check(const arrow::DataType& found) const { item.check(found); }
  type operator()(const Cell& cell) const {
    if (cell.array.IsNull(cell.row)) return {};
    return item(cell);
  }
  Item item;
};
template <typename Item>
Maybe<Item> maybe(Item item) { return {std::move(item)}; }

template <typename Item>
struct List : Reads<std::vector<typename Item::type>> {
  explicit List(Item item) : item(std::move(item)) {}
  void check(const arrow::DataType& found) const {
    if (found.id() != arrow::Type::LIST) throw Mismatch(found.ToString());
    item.check(*found.field(0)->type());
  }
  std::vector<typename Item::type> operator()(const Cell& cell) const {
    auto& lists = static_cast<const arrow::ListArray&>(cell.array);
    std::vector<typename Item::type> out;
    out.reserve(lists.value_length(cell.row));
    int64_t begin = lists.value_offset(cell.row);
    for (int64_t i = 0; i < lists.value_length(cell.row); i++)
      out.push_back(get_at(i, item, {*lists.values(), begin + i, cell.place}));
    return out;
  }
  Item item;
};
template <typename Item>
List<Item> list(Item item) { return List<Item>(std::move(item)); }

template <typename Item>
struct Map : Reads<std::map<std::string, typename Item::type>> {
  explicit Map(Item item) : item(std::move(item)) {}
  void check(const arrow::DataType& found) const {
    if (found.id() != arrow::Type::MAP) throw Mismatch(found.ToString());
    auto& map = static_cast<const arrow::MapType&>(found);
    if (map.key_type()->id() != arrow::Type::STRING) throw Mismatch(found.ToString());
    item.check(*map.item_type());
  }
  std::map<std::string, typename Item::type> operator()(const Cell& cell) const {
    auto& maps = static_cast<const arrow::MapArray&>(cell.array);
    auto& keys = static_cast<const arrow::StringArray&>(*maps.keys());
    std::map<std::string, typename Item::type> out;
    for (int64_t i = maps.value_offset(cell.row); i < maps.value_offset(cell.row) + maps.value_length(cell.row); i++)
      out.emplace(keys.GetString(i), get_at(keys.GetView(i), item, {*maps.items(), i, cell.place}));
    return out;
  }
  Item item;
};
template <typename Item>
Map<Item> map(Item item) { return Map<Item>(std::move(item)); }

template <typename... Items>
struct Tuple : Reads<std::tuple<typename Items::type...>> {
  explicit Tuple(Items... items) : items(std::move(items)...) {}
  void check(const arrow::DataType& found) const {
    bool fits = found.id() == arrow::Type::STRUCT && found.num_fields() == sizeof...(Items);
    for (int i = 0; fits && i < found.num_fields(); i++) fits = found.field(i)->name() == std::to_string(i);
    if (!fits) throw Mismatch(found.ToString());
    each([&](int i, auto& item) {
      item.check(*found.field(i)->type());
      return 0;
    });
  }
  std::tuple<typename Items::type...> operator()(const Cell& cell) const {
    auto& structs = static_cast<const arrow::StructArray&>(cell.array);
    return each([&](int i, auto& item) { return get_at(i, item, {*structs.field(i), cell.row, cell.place}); });
  }
  // A tuple of what `function` makes of each, in order.
  template <typename Function>
  auto each(Function function) const {
    return [&]<size_t... i>(std::index_sequence<i...>) {
      return std::tuple<decltype(function(0, std::get<i>(items)))...>{
          function(static_cast<int>(i), std::get<i>(items))...};
    }(std::index_sequence_for<Items...>());
  }
  std::tuple<Items...> items;
};
template <typename... Items>
Tuple<Items...> tuple(Items... items) { return Tuple<Items...>(std::move(items)...); }

}  // namespace read
}  // namespace vineyard_arrow
