// Slices of view types, trimmed. Arrow's IPC writer trims slices of every other layout, but
// writes the whole data buffers of a string view and the whole child of a list view.
//
// Layouts: Arrow columnar format, "Variable-size Binary View" and "ListView".
#pragma once

#include <arrow/api.h>
#include <arrow/util/bitmap_ops.h>

#include <algorithm>
#include <functional>
#include <memory>

namespace vineyard {

using Data = std::shared_ptr<arrow::ArrayData>;
// Whether a buffer lies where sharing it costs nothing.
using IsShared = std::function<bool(const arrow::Buffer&)>;

constexpr int64_t kViewSlack = 4096;

inline const arrow::DataType& storage_of(const arrow::DataType& type) {
  return type.id() == arrow::Type::EXTENSION
             ? storage_of(*static_cast<const arrow::ExtensionType&>(type).storage_type())
             : type;
}

inline bool has_views(const arrow::DataType& declared) {
  const arrow::DataType& type = storage_of(declared);
  switch (type.id()) {
    case arrow::Type::STRING_VIEW:
    case arrow::Type::BINARY_VIEW:
    case arrow::Type::LIST_VIEW:
    case arrow::Type::LARGE_LIST_VIEW:
      return true;
    default:
      return std::any_of(type.fields().begin(), type.fields().end(),
                         [](const auto& field) { return has_views(*field->type()); });
  }
}

// A copy of the validity of the slice, starting at its bit 0; null when all is valid.
inline arrow::Result<std::shared_ptr<arrow::Buffer>> own_validity(const arrow::ArrayData& d,
                                                                  arrow::MemoryPool* pool) {
  if (!d.buffers[0] || d.GetNullCount() == 0) return nullptr;
  return arrow::internal::CopyBitmap(pool, d.buffers[0]->data(), d.offset, d.length);
}

inline arrow::Result<Data> trim_binary_view(const Data& d, const IsShared& is_shared,
                                            arrow::MemoryPool* pool) {
  using View = arrow::BinaryViewType::c_type;
  int64_t held = 0, used = 0;
  for (size_t i = 2; i < d->buffers.size(); i++)
    if (d->buffers[i] && !is_shared(*d->buffers[i])) held += d->buffers[i]->size();
  if (held <= kViewSlack) return d;
  const View* from = reinterpret_cast<const View*>(d->buffers[1]->data()) + d->offset;
  auto is_text = [&](int64_t i) { return d->IsValid(i) && !from[i].is_inline(); };
  for (int64_t i = 0; i < d->length; i++)
    if (is_text(i)) used += from[i].size();
  if (held <= kViewSlack + 2 * used || used > INT32_MAX) return d;
  ARROW_ASSIGN_OR_RAISE(std::shared_ptr<arrow::Buffer> views,
                        arrow::AllocateBuffer(d->length * sizeof(View), pool));
  ARROW_ASSIGN_OR_RAISE(std::shared_ptr<arrow::Buffer> text, arrow::AllocateBuffer(used, pool));
  View* to = reinterpret_cast<View*>(views->mutable_data());
  int32_t at = 0;
  for (int64_t i = 0; i < d->length; i++) {
    to[i] = d->IsValid(i) ? from[i] : View{};
    if (!is_text(i)) continue;
    const uint8_t* source = d->buffers[2 + from[i].ref.buffer_index]->data() + from[i].ref.offset;
    memcpy(text->mutable_data() + at, source, from[i].size());
    to[i].ref.buffer_index = 0;
    to[i].ref.offset = at;
    at += from[i].size();
  }
  ARROW_ASSIGN_OR_RAISE(auto validity, own_validity(*d, pool));
  return arrow::ArrayData::Make(d->type, d->length, {validity, views, text}, d->GetNullCount(), 0);
}

template <typename Offset>
arrow::Result<Data> trim_list_view(const Data& d, arrow::MemoryPool* pool) {
  const Offset* offsets = d->GetValues<Offset>(1);
  const Offset* sizes = d->GetValues<Offset>(2);
  int64_t begin = INT64_MAX, end = 0;
  for (int64_t i = 0; i < d->length; i++) {
    if (!sizes[i] || !d->IsValid(i)) continue;
    begin = std::min<int64_t>(begin, offsets[i]);
    end = std::max<int64_t>(end, int64_t{offsets[i]} + sizes[i]);
  }
  if (begin > end) begin = end = 0;
  const Data& child = d->child_data[0];
  if (child->length - (end - begin) <= 64) return d;
  ARROW_ASSIGN_OR_RAISE(std::shared_ptr<arrow::Buffer> moved,
                        arrow::AllocateBuffer(d->length * sizeof(Offset), pool));
  Offset* to = reinterpret_cast<Offset*>(moved->mutable_data());
  // Rows that are empty or null point anywhere; their sizes must not reach outside either.
  ARROW_ASSIGN_OR_RAISE(std::shared_ptr<arrow::Buffer> counts,
                        arrow::AllocateBuffer(d->length * sizeof(Offset), pool));
  Offset* n = reinterpret_cast<Offset*>(counts->mutable_data());
  for (int64_t i = 0; i < d->length; i++) {
    bool used = sizes[i] && d->IsValid(i);
    to[i] = used ? static_cast<Offset>(offsets[i] - begin) : 0;
    n[i] = used ? sizes[i] : 0;
  }
  ARROW_ASSIGN_OR_RAISE(auto validity, own_validity(*d, pool));
  return arrow::ArrayData::Make(d->type, d->length, {validity, moved, counts},
                                {child->Slice(begin, end - begin)}, d->GetNullCount(), 0);
}

// A list whose child is just what its rows cover.
template <typename Offset>
arrow::Result<Data> trim_list(const Data& d, arrow::MemoryPool* pool) {
  if (!d->length) return d;
  const Offset* offsets = d->GetValues<Offset>(1);
  Offset begin = offsets[0], end = offsets[d->length];
  if (d->child_data[0]->length == end - begin) return d;
  ARROW_ASSIGN_OR_RAISE(std::shared_ptr<arrow::Buffer> moved,
                        arrow::AllocateBuffer((d->length + 1) * sizeof(Offset), pool));
  Offset* to = reinterpret_cast<Offset*>(moved->mutable_data());
  for (int64_t i = 0; i <= d->length; i++) to[i] = offsets[i] - begin;
  ARROW_ASSIGN_OR_RAISE(auto validity, own_validity(*d, pool));
  return arrow::ArrayData::Make(d->type, d->length, {validity, moved},
                                {d->child_data[0]->Slice(begin, end - begin)}, d->GetNullCount(), 0);
}

// `d`, or the same values without the bytes that a slice of views leaves out.
inline arrow::Result<Data> trim_views(const Data& d, const IsShared& is_shared, arrow::MemoryPool* pool) {
  Data out = d;
  switch (storage_of(*d->type).id()) {
    case arrow::Type::STRING_VIEW:
    case arrow::Type::BINARY_VIEW:
      return trim_binary_view(d, is_shared, pool);
    case arrow::Type::LIST_VIEW: {
      ARROW_ASSIGN_OR_RAISE(out, trim_list_view<int32_t>(d, pool));
      break;
    }
    case arrow::Type::LARGE_LIST_VIEW: {
      ARROW_ASSIGN_OR_RAISE(out, trim_list_view<int64_t>(d, pool));
      break;
    }
    case arrow::Type::LIST:
    case arrow::Type::MAP: {
      if (!has_views(*d->type)) return d;
      ARROW_ASSIGN_OR_RAISE(out, trim_list<int32_t>(d, pool));
      break;
    }
    case arrow::Type::LARGE_LIST: {
      if (!has_views(*d->type)) return d;
      ARROW_ASSIGN_OR_RAISE(out, trim_list<int64_t>(d, pool));
      break;
    }
    case arrow::Type::FIXED_SIZE_LIST: {
      if (!has_views(*d->type)) return d;
      int64_t n = static_cast<const arrow::FixedSizeListType&>(storage_of(*d->type)).list_size();
      ARROW_ASSIGN_OR_RAISE(auto validity, own_validity(*d, pool));
      out = arrow::ArrayData::Make(d->type, d->length, {validity},
                                   {d->child_data[0]->Slice(d->offset * n, d->length * n)}, d->GetNullCount(), 0);
      break;
    }
    case arrow::Type::STRUCT: {  // its children are as long as its parent's were
      if (!has_views(*d->type)) return d;
      ARROW_ASSIGN_OR_RAISE(auto validity, own_validity(*d, pool));
      out = arrow::ArrayData::Make(d->type, d->length, {validity}, d->child_data, d->GetNullCount(), 0);
      for (Data& child : out->child_data) child = child->Slice(d->offset, d->length);
      break;
    }
    default:
      break;
  }
  for (size_t i = 0; i < out->child_data.size(); i++) {
    ARROW_ASSIGN_OR_RAISE(Data child, trim_views(out->child_data[i], is_shared, pool));
    if (child == out->child_data[i]) continue;
    if (out == d) out = d->Copy();
    out->child_data[i] = child;
  }
  return out;
}

}  // namespace vineyard
