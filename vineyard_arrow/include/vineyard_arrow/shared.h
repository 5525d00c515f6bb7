// Objects of shared classes (@vineyard_arrow.shared), for headers that were generated of them by
// `vineyard-arrow codegen --lang cpp`.
//
// An object is read by the class's present fields, by the rule that Python has: a field that the
// object has not is given its default, if there is one; one that was renamed is found by its old
// name; one that was stored as a narrower type is widened; objects of later versions are refused.
// Plain values are copied out. Arrays, columns and tables show the store's memory, and keep it.
#pragma once

#include <arrow/compute/cast.h>
#include <arrow/extension_type.h>

#include <algorithm>
#include <initializer_list>

#include "fields.h"

namespace vineyard_arrow {
namespace read {

constexpr int kMaxNesting = 500;
constexpr int64_t any = -1;  // any length, in a shape

// The part of the same object that a field refers to.
class PartOf {
 public:
  explicit PartOf(const Cell& cell) : place_(cell.place) {
    auto indices = static_cast<const arrow::StructArray&>(cell.array).field(0);
    index_ = static_cast<const arrow::UInt32Array&>(*indices).Value(cell.row);
    // Parts come after what refers to them, so nothing contains itself.
    if (index_ <= place_.part || index_ >= place_.object.parts().size())
      throw std::runtime_error("it refers to part " + std::to_string(index_) + ", and has " +
                               std::to_string(place_.object.parts().size()));
  }
  size_t index() const { return index_; }
  const Part& operator*() const { return place_.object.parts()[index_]; }
  const Part* operator->() const { return &**this; }
  // Throws unless the part is of one of these typenames.
  void expect(std::initializer_list<std::string_view> typenames) const {
    for (auto& name : typenames)
      if ((*this)->type_name() == name) return;
    throw Mismatch((*this)->type_name());
  }

 private:
  const Place& place_;
  size_t index_;
};

template <typename T>
struct ReadsPart : Reads<T> {
  static void check(const arrow::DataType& found) {
    static const auto expected = arrow::struct_({arrow::field("part", arrow::uint32(), false)});
    if (!found.Equals(*expected)) throw Mismatch(found.ToString());
  }
};

// ---- arrays

inline void check_shape(const std::vector<int64_t>& shape, const std::optional<std::vector<int64_t>>& wanted) {
  bool fits = !wanted || wanted->size() == shape.size();
  for (size_t i = 0; wanted && fits && i < shape.size(); i++) fits = (*wanted)[i] == any || (*wanted)[i] == shape[i];
  if (fits) return;
  std::string text;
  for (int64_t n : shape) text += (text.empty() ? "" : ", ") + std::to_string(n);
  throw Mismatch("an array of shape (" + text + ")");
}

struct AnyTensor : ReadsPart<AnyArray> {
  AnyArray operator()(const Cell& cell) const {
    PartOf part(cell);
    part.expect({"vineyard.tensor"});
    AnyArray array = internal::unwrap(AnyArray::Of(*part));
    check_shape(array.shape(), shape);
    return array;
  }
  std::optional<std::vector<int64_t>> shape;
};
// The Arrow type of numbers of a dtype; null for any other.
inline std::shared_ptr<arrow::DataType> number_type(const std::string& dtype) {
  static const auto types = [] {
    auto out = arrow::NumericTypes();
    out.push_back(arrow::float16());
    return out;
  }();
  for (auto& type : types) {
    bool is_float = arrow::is_floating(type->id());
    std::string kind = is_float ? "f" : arrow::is_signed_integer(type->id()) ? "i" : "u";
    int width = type->bit_width() / 8;
    if (dtype == (width == 1 ? "|" : "<") + kind + std::to_string(width)) return type;
  }
  return nullptr;
}
// Numbers of the other byte order, converted by copy; any other array itself.
inline AnyArray native(const AnyArray& array) {
  const std::string& dtype = array.dtype();
  if (dtype[0] != '>' || !strchr("iufc", dtype[1])) return array;
  int64_t width = std::stoi(dtype.substr(2)) / (dtype[1] == 'c' ? 2 : 1), n = array.buffer()->size();
  if (width <= 0) return array;
  std::shared_ptr<arrow::Buffer> elements = internal::unwrap(arrow::AllocateBuffer(n));
  for (int64_t i = 0; i + width <= n; i += width)
    std::reverse_copy(array.buffer()->data() + i, array.buffer()->data() + i + width, elements->mutable_data() + i);
  return array.with("<" + dtype.substr(1), std::move(elements));
}
// The array with elements of another dtype that has all their values, converted by copy; itself
// if it has not, or there is nothing to convert.
inline AnyArray widened(const AnyArray& array, const std::string& dtype) {
  if (array.dtype() == dtype) return array;
  AnyArray found = native(array);
  if (found.dtype() == dtype) return found;
  bool complex = found.dtype() == "<c8" && dtype == "<c16";
  auto from = number_type(complex ? "<f4" : found.dtype()), to = number_type(complex ? "<f8" : dtype);
  if (!from || !to || !is_widening(*from, *to)) return array;
  int64_t count = found.buffer()->size() / from->byte_width();
  auto elements = arrow::MakeArray(arrow::ArrayData::Make(from, count, {nullptr, found.buffer()}, 0));
  return found.with(dtype, internal::unwrap(arrow::compute::Cast(*elements, to))->data()->buffers[1]);
}

template <typename T>
struct Tensor : ReadsPart<Array<T>> {
  Array<T> operator()(const Cell& cell) const {
    AnyArray found = widened(any_tensor(cell), Dtype<T>::name());
    if (found.dtype() != Dtype<T>::name()) throw Mismatch("an array of dtype " + found.dtype());
    return internal::unwrap(found.as<T>());
  }
  AnyTensor any_tensor;
};
// Of any shape, or of one with as many dimensions, of these lengths or `any`.
template <typename T>
Tensor<T> array(std::optional<std::vector<int64_t>> shape = {}) { return {{}, {{}, std::move(shape)}}; }
inline AnyTensor any_array(std::optional<std::vector<int64_t>> shape = {}) { return {{}, std::move(shape)}; }

// ---- columns and tables

using Type = std::shared_ptr<arrow::DataType>;
using Schema = std::shared_ptr<arrow::Schema>;

inline std::shared_ptr<arrow::ChunkedArray> cast(std::shared_ptr<arrow::ChunkedArray> column, const Type& wanted) {
  if (!wanted || column->type()->Equals(*wanted)) return column;
  if (!is_widening(*column->type(), *wanted)) throw Mismatch("a column of " + column->type()->ToString());
  return internal::unwrap(arrow::compute::Cast(arrow::Datum(column), wanted)).chunked_array();
}

struct Column : ReadsPart<std::shared_ptr<arrow::ChunkedArray>> {
  std::shared_ptr<arrow::ChunkedArray> operator()(const Cell& cell) const {
    PartOf part(cell);
    part.expect({"vineyard.chunked_array", "vineyard.array"});
    return of(*part, type);
  }
  static std::shared_ptr<arrow::ChunkedArray> of(const Part& part, const Type& type) {
    auto table = internal::unwrap(part.Table());
    if (table->num_columns() != 1) throw std::runtime_error("a " + part.type_name() + " that is no column");
    return cast(table->column(0), type);
  }
  Type type;  // null: any
};
inline Column chunked_array(Type type = nullptr) { return {{}, std::move(type)}; }

// `T` is arrow::Array, or the class of the arrays of `type`.
template <typename T>
struct OneChunk : ReadsPart<std::shared_ptr<T>> {
  std::shared_ptr<T> operator()(const Cell& cell) const {
    PartOf part(cell);
    part.expect({"vineyard.array"});
    auto column = Column::of(*part, type);
    if (column->num_chunks() != 1) throw std::runtime_error("a vineyard.array that is not one");
    return std::static_pointer_cast<T>(column->chunk(0));
  }
  Type type;
};
template <typename T = arrow::Array>
OneChunk<T> column(Type type = nullptr) { return {{}, std::move(type)}; }

struct Rows : ReadsPart<std::shared_ptr<arrow::Table>> {
  std::shared_ptr<arrow::Table> operator()(const Cell& cell) const {
    PartOf part(cell);
    part.expect({"vineyard.table", "vineyard.record_batch"});
    return of(*part, schema);
  }
  static std::shared_ptr<arrow::Table> of(const Part& part, const Schema& schema) {
    auto table = internal::unwrap(part.Table());
    if (!schema) return table;
    if (table->schema()->field_names() != schema->field_names())
      throw Mismatch("columns " + table->schema()->ToString());
    bool same = true;
    std::vector<std::shared_ptr<arrow::ChunkedArray>> columns;
    for (int i = 0; i < schema->num_fields(); i++) {
      auto& field = schema->field(i);
      if (!field->nullable() && table->column(i)->null_count()) throw Mismatch("nulls in '" + field->name() + "'");
      columns.push_back(cast(table->column(i), field->type()));
      same &= columns.back() == table->column(i);
    }
    return same ? table : arrow::Table::Make(schema, std::move(columns), table->num_rows());
  }
  Schema schema;  // null: any
};
inline Rows table(Schema schema = nullptr) { return {{}, std::move(schema)}; }

struct OneBatch : ReadsPart<std::shared_ptr<arrow::RecordBatch>> {
  std::shared_ptr<arrow::RecordBatch> operator()(const Cell& cell) const {
    PartOf part(cell);
    part.expect({"vineyard.record_batch"});
    auto table = Rows::of(*part, schema);
    std::vector<std::shared_ptr<arrow::Array>> columns;
    for (auto& column : table->columns()) {
      if (column->num_chunks() != 1) throw std::runtime_error("a vineyard.record_batch that is not one");
      columns.push_back(column->chunk(0));
    }
    return arrow::RecordBatch::Make(table->schema(), table->num_rows(), std::move(columns));
  }
  Schema schema;
};
inline OneBatch record_batch(Schema schema = nullptr) { return {{}, std::move(schema)}; }

// A frame or a series of polars, by the table that it is stored as.
struct Frame : ReadsPart<std::shared_ptr<arrow::Table>> {
  std::shared_ptr<arrow::Table> operator()(const Cell& cell) const {
    PartOf part(cell);
    part.expect({"vineyard.polars.frame"});
    return of(*part);
  }
  static std::shared_ptr<arrow::Table> of(const Part& part) {
    if (internal::unwrap(part.params()).find("aside"))
      throw std::runtime_error("a " + part.type_name() + " has columns that Arrow has no type for");
    return internal::unwrap(part.Table());
  }
};
struct Series : ReadsPart<std::shared_ptr<arrow::ChunkedArray>> {
  std::shared_ptr<arrow::ChunkedArray> operator()(const Cell& cell) const {
    PartOf part(cell);
    part.expect({"vineyard.polars.series"});
    auto table = Frame::of(*part);
    if (table->num_columns() != 1) throw std::runtime_error("a vineyard.polars.series that is no column");
    return table->column(0);
  }
};
inline Frame polars_frame() { return {}; }
inline Series polars_series() { return {}; }

// ---- classes

// A typename, and the version of the class that this program has. (A class's objects may also be
// those of classes derived from it, with fields of their own, which are not looked at.)
struct Known {
  std::string_view type_name;
  int64_t version;
};

// The one row of an object of a class, on its way into the fields of `T`.
class Row {
 public:
  Row(std::string name, const Place& place, const arrow::StructArray& cells, int64_t version, Value declared)
      : name_(std::move(name)), place_(place), cells_(cells), version_(version), declared_(std::move(declared)) {}

  // Reads a field into `out`. `names`: the field's, and those that it had. `wanted`: what it is
  // declared to be.
  template <typename Reader>
  void required(std::initializer_list<const char*> names, const char* wanted, const Reader& reader,
                typename Reader::type* out) const {
    if (!optional(names, wanted, reader, out)) throw missing(*names.begin());
  }
  // The same; `out` stays as it is, which is the default, where the object has no such field.
  template <typename Reader>
  bool optional(std::initializer_list<const char*> names, const char* wanted, const Reader& reader,
                typename Reader::type* out) const {
    // All that does not depend on the reader's type is compiled once.
    return field(
        names, wanted, &reader, out,
        [](const void* reader, const arrow::DataType& found) { static_cast<const Reader*>(reader)->check(found); },
        [](const void* reader, const Cell& cell, void* out) {
          *static_cast<typename Reader::type*>(out) = get(*static_cast<const Reader*>(reader), cell);
        });
  }

 private:
  bool field(std::initializer_list<const char*> names, const char* wanted, const void* reader, void* out,
             void (*check)(const void*, const arrow::DataType&),
             void (*take)(const void*, const Cell&, void*)) const {
    for (const char* name : names) {
      int index = cells_.struct_type()->GetFieldIndex(name);
      if (index < 0) continue;
      auto column = cells_.field(index);
      bool checked = false;
      try {
        check(reader, *column->type());
        checked = true;
        take(reader, {*column, 0, place_}, out);
      } catch (Mismatch& error) {
        const Value* text = checked ? nullptr : declared_.find(name);
        throw misread(*names.begin() + error.path, text ? text->as<std::string>() : error.what(), wanted);
      }
      return true;
    }
    return false;
  }

  std::runtime_error missing(const std::string& name) const {
    return std::runtime_error(name_ + "." + name + ": an object of version " + std::to_string(version_) +
                              " has no such field, and the field no default");
  }
  std::runtime_error misread(const std::string& where, const std::string& found, const char* wanted) const {
    return std::runtime_error(name_ + "." + where + ": found " + found + " in an object of version " +
                              std::to_string(version_) + ", wanted " + wanted);
  }

  std::string name_;
  const Place& place_;
  const arrow::StructArray& cells_;
  int64_t version_;
  Value declared_;
};

// The object of class `T` that a part is the root of.
template <typename T>
T root(const Place& place) {
  const Part& part = place.object.parts()[place.part];
  const Known* known = nullptr;
  for (auto& each : T::kKnown)
    if (each.type_name == part.type_name()) known = &each;
  if (!known) throw Mismatch("a " + part.type_name());
  if (place.depth > kMaxNesting) throw std::runtime_error("a " + part.type_name() + " nests too deeply to be read");
  auto table = internal::unwrap(part.Table());
  auto field = table->schema()->GetFieldByName("object");
  auto wrong = [&] { return std::runtime_error("this " + part.type_name() + " was not stored as a shared class"); };
  if (!field || table->num_rows() != 1) throw wrong();
  if (auto status = table->ValidateFull(); !status.ok()) throw internal::Raised(status);
  std::shared_ptr<arrow::Array> cells = table->GetColumnByName("object")->chunk(0);
  std::string text;
  if (cells->type_id() == arrow::Type::EXTENSION) {  // its type is registered in this process
    text = static_cast<const arrow::ExtensionType&>(*cells->type()).Serialize();
    cells = static_cast<const arrow::ExtensionArray&>(*cells).storage();
  } else if (field->metadata()) {
    text = field->metadata()->Get("ARROW:extension:metadata").ValueOr("");
  }
  if (cells->type_id() != arrow::Type::STRUCT) throw wrong();
  Value described = parse_json(text);
  const Value *version = described.find("version"), *declared = described.find("fields");
  if (!version || !declared) throw wrong();
  if (version->as<int64_t>() > known->version)
    throw std::runtime_error("a " + part.type_name() + " of version " + std::to_string(version->as<int64_t>()) +
                             ", and this class is of version " + std::to_string(known->version));
  return T::Read(
      Row(T::kName, place, static_cast<const arrow::StructArray&>(*cells), version->as<int64_t>(), *declared));
}

// An object of another shared class, in the same stored object or (given by its id) a member of it.
template <typename T>
struct Ref : ReadsPart<T> {
  T operator()(const Cell& cell) const {
    PartOf part(cell);
    if (part->type_name() != "vineyard.shared.member")
      return root<T>({cell.place.object, part.index(), cell.place.depth + 1});
    Value params = internal::unwrap(part->params());
    const Value* name = params.find("member");
    if (!name) throw std::runtime_error("a vineyard.shared.member without a name");
    Object member = internal::unwrap(cell.place.object.Get(name->as<std::string>()));
    return root<T>({member, 0, cell.place.depth + 1});
  }
};
template <typename T>
Ref<T> ref() { return {}; }

// The same where classes refer to each other in a circle.
template <typename T>
struct Pointer : ReadsPart<std::shared_ptr<const T>> {
  std::shared_ptr<const T> operator()(const Cell& cell) const { return std::make_shared<const T>(Ref<T>()(cell)); }
};
template <typename T>
Pointer<T> pointer() { return {}; }

}  // namespace read

// The object of class `T` by its id, its printed id, or a name. Errors: "not-found", and
// "invalid" for what is no `T` that this program can read.
template <typename T, typename Key>
arrow::Result<T> get_shared(const Client& client, const Key& key) {
  ARROW_ASSIGN_OR_RAISE(Object object, client.Get(key));
  return internal::checked<T>([&] {
    if (std::none_of(std::begin(T::kKnown), std::end(T::kKnown),
                     [&](auto& each) { return each.type_name == object.type_name(); }))
      throw std::runtime_error(format_id(object.id()) + " is a " + object.type_name() + ", no " + T::kName);
    return read::root<T>({object, 0, 0});
  });
}

}  // namespace vineyard_arrow
