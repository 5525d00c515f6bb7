// Objects as Arrow IPC messages whose body is the whole store.
//
// An object is one or more *parts*, each an Arrow IPC stream (Schema, DictionaryBatch and
// RecordBatch messages, end marker) without bodies: the Buffer entries of the messages are
// logical offsets into the store. Arrow's own writer makes the messages; what is ours is
// where buffers go, and the patching of the entries. They are read by vineyard_arrow/parts.h.
#pragma once

#include <arrow/api.h>
#include <arrow/io/memory.h>
#include <arrow/ipc/api.h>

#include <algorithm>
#include <unordered_map>

#include "attachment.h"
#include "copy.h"
#include "views.h"
#include "vineyard_arrow/parts.h"

namespace vineyard {

// ---- writing ---------------------------------------------------------------------------

inline arrow::ipc::IpcWriteOptions write_options() {
  auto options = arrow::ipc::IpcWriteOptions::Defaults();
  options.allow_64bit = true;
  options.use_threads = false;
  return options;
}

// A message to be: its flatbuffer, and the buffers that its entries are to point to.
struct Draft {
  std::string metadata;
  std::vector<std::shared_ptr<arrow::Buffer>> buffers;
  bool aligned = false;  // buffers must start on 8 bytes
};

class CollectingWriter final : public arrow::ipc::internal::IpcPayloadWriter {
 public:
  explicit CollectingWriter(std::vector<Draft>* out) : out_(out) {}
  arrow::Status WritePayload(const arrow::ipc::IpcPayload& payload) override {
    out_->push_back({payload.metadata->ToString(), payload.body_buffers});
    return arrow::Status::OK();
  }
  arrow::Status Close() override { return arrow::Status::OK(); }

 private:
  std::vector<Draft>* out_;
};

inline uint64_t hash_names(const arrow::Schema& schema) {
  uint64_t h = schema.num_fields();
  for (auto& f : schema.fields()) h = mix64(h + std::hash<std::string>{}(f->name()) + f->type()->id());
  return h;
}

// Schema::Equals, metadata included, but without the fingerprints that it would compute for a
// schema seen for the first time: those cost more than all the rest of a small put.
inline bool same_schema(const arrow::Schema& a, const arrow::Schema& b) {
  auto same_metadata = [](const std::shared_ptr<const arrow::KeyValueMetadata>& x,
                          const std::shared_ptr<const arrow::KeyValueMetadata>& y) {
    return x == y || (x ? x->size() : 0) + (y ? y->size() : 0) == 0 || (x && y && x->Equals(*y));
  };
  if (&a == &b) return true;
  if (a.num_fields() != b.num_fields() || a.endianness() != b.endianness() ||
      !same_metadata(a.metadata(), b.metadata()))
    return false;
  for (int i = 0; i < a.num_fields(); i++) {
    const arrow::Field &x = *a.field(i), &y = *b.field(i);
    if (&x == &y) continue;
    if (x.name() != y.name() || x.nullable() != y.nullable() || !same_metadata(x.metadata(), y.metadata()) ||
        !(x.type() == y.type() || x.type()->Equals(*y.type(), /*check_metadata=*/true)))
      return false;
  }
  return true;
}

// `schema` as a part of `kind` is stored, `params` (if not null) being the JSON of its
// descriptor: see ipc/schemas.py. `plain`: its fields are the user's own.
inline std::shared_ptr<arrow::Schema> stored_schema(const std::shared_ptr<arrow::Schema>& schema,
                                                    const std::string& kind, const char* params,
                                                    bool plain) {
  auto add = [](const std::shared_ptr<const arrow::KeyValueMetadata>& to, const char* key, std::string value) {
    auto out = to ? to->Copy() : std::make_shared<arrow::KeyValueMetadata>();
    check(out->Set(key, std::move(value)));
    return out;
  };
  auto metadata = add(schema->metadata(), "vineyard.type", kind);
  if (params) metadata = add(metadata, "vineyard.params", params);
  if (plain || schema->num_fields() > 1) return schema->WithMetadata(metadata);
  auto column = schema->num_fields() ? schema->field(0) : arrow::field("data", arrow::null());
  if (schema->num_fields() && (column->name() != "data" || column->nullable() || column->HasMetadata() ||
                               !arrow::is_primitive(column->type()->id())))
    return schema->WithMetadata(metadata);
  auto extension = add(nullptr, "ARROW:extension:name", kind);
  column = column->WithMetadata(add(extension, "ARROW:extension:metadata", params ? params : ""));
  return arrow::schema({column}, schema->endianness(), metadata);
}

// A schema as it is stored, with its message: half the work of writing a small table.
struct StoredSchema {
  std::shared_ptr<arrow::Schema> schema;
  std::string message;
  bool dictionaries = false, views = false;

  StoredSchema() = default;
  explicit StoredSchema(std::shared_ptr<arrow::Schema> s) : schema(std::move(s)) {
    arrow::ipc::DictionaryFieldMapper mapper(*schema);
    dictionaries = mapper.num_fields() > 0;
    for (auto& field : schema->fields()) views |= has_views(*field->type());
    arrow::ipc::IpcPayload payload;
    check(arrow::ipc::GetSchemaPayload(*schema, write_options(), mapper, &payload));
    message = payload.metadata->ToString();
  }
};

// One object on its way into the store. Keeps the sources of all buffers alive.
class Plan {
 public:
  std::vector<Range> claims;
  int64_t copied = 0, gathered = 0, shared = 0, nbytes = 0;
  // Some buffers are taken as they lie since a pin of this process holds them, or since an
  // earlier put sealed the block they lie in. Of the latter the daemon may know better.
  bool on_pins = false, on_seals = false;

  // What Arrow must compute on the way (offsets of sliced strings from zero, bitmaps of
  // slices) it writes straight into the store.
  explicit Plan(Attachment* a) : attachment_(a), options_(write_options()) {
    options_.memory_pool = &a->pool;
  }

  void add_part(const StoredSchema& schema, std::vector<std::shared_ptr<arrow::RecordBatch>> batches) {
    if (schema.views)
      for (auto& batch : batches) batch = trimmed(*batch);
    if (schema.dictionaries) {
      // Arrow's stream writer decides which dictionaries must be written again. Its stream
      // reader, which reads them, knows nothing of StoreFile: hence `aligned`.
      size_t first = drafts_.size();
      auto writer = check(arrow::ipc::internal::OpenRecordBatchWriter(
          std::make_unique<CollectingWriter>(&drafts_), schema.schema, options_));
      for (auto& batch : batches) check(writer->WriteRecordBatch(*batch));
      check(writer->Close());
      for (size_t d = first; d < drafts_.size(); d++) drafts_[d].aligned = true;
    } else {
      drafts_.push_back({schema.message, {}});
      for (auto& batch : batches) {
        arrow::ipc::IpcPayload payload;
        check(arrow::ipc::GetRecordBatchPayload(*batch, options_, &payload));
        drafts_.push_back({payload.metadata->ToString(), std::move(payload.body_buffers)});
      }
    }
    drafts_.push_back({});  // end marker
  }

  // Finds a place for every buffer and copies what must be copied. `share`: take buffers
  // that already lie in the store as they are. Throws std::bad_alloc when the store is full;
  // the caller then abandons `claims`.
  void place(Attachment* a, bool share) {
    std::vector<CopyTask> tasks;
    std::vector<std::pair<BufferEntry*, const arrow::Buffer*>> small;
    std::unordered_map<const uint8_t*, std::pair<uint64_t, uint64_t>> seen;
    entries_.resize(drafts_.size());
    uint64_t small_nbytes = 0;
    for (size_t d = 0; d < drafts_.size(); d++) {
      entries_[d].resize(drafts_[d].buffers.size());
      for (size_t i = 0; i < drafts_[d].buffers.size(); i++) {
        const arrow::Buffer* b = drafts_[d].buffers[i].get();
        BufferEntry& entry = entries_[d][i];
        entry = {0, b ? b->size() : 0};
        if (!entry.length) continue;
        nbytes += entry.length;
        if (share && take_as_is(a, b, drafts_[d].aligned, &entry)) {
          shared += entry.length;
        } else if (entry.length < kSealThreshold) {
          small.push_back({&entry, b});
          small_nbytes += round_up(entry.length, 64);
          gathered += entry.length;
        } else {
          auto [it, fresh] = seen.try_emplace(b->data(), entry.length, 0);
          if (fresh || it->second.first < static_cast<uint64_t>(entry.length)) {
            Range extent = extent_for(a, entry.length);
            tasks.push_back({a->lease->writable(extent.offset), b->data(), static_cast<uint64_t>(entry.length)});
            it->second = {entry.length, extent.offset};
            copied += entry.length;
          }
          entry.offset = it->second.second;
        }
      }
    }
    if (small_nbytes) {
      uint64_t at = extent_for(a, small_nbytes).offset;
      for (auto& [entry, b] : small) {
        entry->offset = at;
        tasks.push_back({a->lease->writable(at), b->data(), static_cast<uint64_t>(entry->length)});
        at += round_up(entry->length, 64);
      }
    }
    copy_all(tasks);
  }

  // Bytes of all buffers; after `place`, `nbytes`.
  int64_t payload_nbytes() const {
    int64_t n = 0;
    for (auto& d : drafts_)
      for (auto& b : d.buffers)
        if (b) n += b->size();
    return n;
  }

  // Bytes of a segment that holds a copy of every buffer.
  uint64_t standalone_nbytes() const {
    uint64_t end = lay_out([](size_t, const arrow::Buffer*, uint64_t, bool) {});
    return round_up(std::max<uint64_t>(end, 1), kPage);
  }

  // Copies every buffer to `to`, the start of a segment of standalone_nbytes() whose
  // logical offset is `offset`.
  void place_standalone(uint8_t* to, uint64_t offset) {
    std::vector<CopyTask> tasks;
    entries_.resize(drafts_.size());
    lay_out([&](size_t draft, const arrow::Buffer* b, uint64_t at, bool fresh) {
      int64_t n = b ? b->size() : 0;
      entries_[draft].push_back({n ? static_cast<int64_t>(offset + at) : 0, n});
      nbytes += n;
      if (!fresh) return;
      tasks.push_back({to + at, b->data(), static_cast<uint64_t>(n)});
      copied += n;
    });
    copy_all(tasks);
  }

  // The encapsulated messages, entries patched.
  std::string streams() {
    std::string out;
    for (size_t d = 0; d < drafts_.size(); d++) {
      std::string& m = drafts_[d].metadata;
      FlatMessage flat(reinterpret_cast<uint8_t*>(m.data()), m.size());
      if (!m.empty() && flat.num_buffers() != entries_[d].size())
        throw std::runtime_error("Arrow wrote a message this build does not understand");
      for (size_t i = 0; i < entries_[d].size(); i++) flat.set_offset(i, entries_[d][i].offset);
      uint32_t prefix[2] = {kContinuation, static_cast<uint32_t>(round_up(m.size(), 8))};
      out.append(reinterpret_cast<char*>(prefix), sizeof(prefix));
      out.append(m);
      out.append(prefix[1] - m.size(), '\0');
    }
    return out;
  }

 private:
  // Visits all buffers with their places in a segment of their own; returns its end. What
  // comes again, whole or its beginning, has the place of the first and is not `fresh`.
  template <typename Visit>
  uint64_t lay_out(Visit visit) const {
    std::unordered_map<const uint8_t*, std::pair<int64_t, uint64_t>> seen;
    uint64_t end = 0;
    for (size_t d = 0; d < drafts_.size(); d++) {
      for (auto& b : drafts_[d].buffers) {
        int64_t n = b ? b->size() : 0;
        if (!n) {
          visit(d, nullptr, 0, false);
          continue;
        }
        auto [it, fresh] = seen.try_emplace(b->data(), n, end);
        if (!fresh && it->second.first < n) {
          it->second = {n, end};
          fresh = true;
        }
        if (fresh) end += round_up(n, 64);
        visit(d, b.get(), it->second.second, fresh);
      }
    }
    return end;
  }

  std::shared_ptr<arrow::RecordBatch> trimmed(const arrow::RecordBatch& batch) {
    for (; noted_ < drafts_.size(); noted_++)
      for (auto& b : drafts_[noted_].buffers)
        if (b) written_[b->data()] = std::max(written_[b->data()], b->size());
    auto is_shared = [this](const arrow::Buffer& b) {
      auto found = written_.find(b.data());
      return (found != written_.end() && found->second >= b.size()) || attachment_->contains(b.data());
    };
    std::vector<Data> columns;
    for (auto& column : batch.column_data())
      columns.push_back(check(trim_views(column, is_shared, options_.memory_pool)));
    return arrow::RecordBatch::Make(batch.schema(), batch.num_rows(), std::move(columns));
  }

  Range extent_for(Attachment* a, uint64_t n) {
    Range extent;
    if (!a->lease || !a->lease->allocate_extent(n, &extent)) throw std::bad_alloc();
    claims.push_back(extent);
    return extent;
  }

  // Only small buffers of live blocks, which share pages with memory that is still being
  // written, cannot be taken as they lie.
  bool take_as_is(Attachment* a, const arrow::Buffer* b, bool aligned, BufferEntry* entry) {
    const uint8_t* p = b->data();
    if (!a->contains(p) || (aligned && reinterpret_cast<uintptr_t>(p) % 8)) return false;
    if (a->lease && a->lease->owns_block(p) && a->lease->is_live(p)) {
      size_t before = claims.size();
      if (b->size() < kSealThreshold || !a->lease->claim(p, b->size(), &claims)) return false;
      bool whole = claims.size() == before + 1 && claims[before].offset <= a->offset_of(p) &&
                   claims[before].offset + claims[before].nbytes >= a->offset_of(p) + b->size();
      on_seals |= !whole;
    } else {
      on_pins = true;
    }
    entry->offset = encode_offset(a->offset_of(p));
    return true;
  }

  Attachment* attachment_;
  arrow::ipc::IpcWriteOptions options_;
  std::vector<Draft> drafts_;
  std::vector<std::vector<BufferEntry>> entries_;
  // Buffers of the first `noted_` drafts, by address: text of theirs costs views nothing.
  std::unordered_map<const uint8_t*, int64_t> written_;
  size_t noted_ = 0;
};

// ---- where buffers lie ---------------------------------------------------------------

// Ranges of the store that the buffers of these messages are, ascending, each once.
inline std::vector<Range> buffer_places(uint8_t* data, uint64_t nbytes, uint64_t space) {
  std::vector<Range> all;
  for (StreamCursor cursor(data, nbytes); !cursor.done();) {
    auto [at, n] = cursor.next();
    FlatMessage flat(at, n);
    if (n && flat.kind() == kNoMessage) throw std::runtime_error("object metadata is damaged");
    for (uint64_t i = 0; i < flat.num_buffers(); i++) {
      BufferEntry e = flat.buffer(i);
      if (e.length == 0) continue;
      e.offset = decode_offset(e.offset);
      if (e.offset < 0 || e.length < 0 || static_cast<uint64_t>(e.offset) > space ||
          static_cast<uint64_t>(e.length) > space - e.offset)
        throw std::runtime_error("a buffer lies outside of the store");
      all.push_back({static_cast<uint64_t>(e.offset), static_cast<uint64_t>(e.length)});
    }
  }
  auto key = [](const Range& r) { return std::pair(r.offset, r.nbytes); };
  std::sort(all.begin(), all.end(), [&](const Range& a, const Range& b) { return key(a) < key(b); });
  all.erase(std::unique(all.begin(), all.end(), [&](const Range& a, const Range& b) { return key(a) == key(b); }),
            all.end());
  return all;
}

// The same, merged by page: what must be sealed.
inline std::vector<Range> buffer_ranges(uint8_t* data, uint64_t nbytes, uint64_t space) {
  std::vector<Range> all = buffer_places(data, nbytes, space);
  std::vector<Range> out;
  for (auto& r : all) {
    if (!out.empty()) {
      Range& last = out.back();
      uint64_t end = last.offset + last.nbytes;
      if (r.offset <= end || (end - 1) / kPage == r.offset / kPage) {
        last.nbytes = std::max(end, r.offset + r.nbytes) - last.offset;
        continue;
      }
    }
    out.push_back(r);
  }
  return out;
}

// A range of the store whose bytes now lie elsewhere.
struct Move {
  uint64_t from, nbytes, to;
};

// Lets the buffers of these messages lie where `moves`, ascending, have brought them. Throws if
// one does not lie within a single move.
inline void relocate(uint8_t* data, uint64_t nbytes, uint64_t space, const Move* moves, size_t n_moves) {
  buffer_places(data, nbytes, space);  // all make sense
  for (StreamCursor cursor(data, nbytes); !cursor.done();) {
    auto [at, n] = cursor.next();
    FlatMessage flat(at, n);
    for (uint64_t i = 0; i < flat.num_buffers(); i++) {
      BufferEntry e = flat.buffer(i);
      if (!e.length) {
        flat.set_offset(i, 0);
        continue;
      }
      uint64_t from = decode_offset(e.offset), end = from + e.length;
      const Move* m = std::upper_bound(moves, moves + n_moves, from,
                                       [](uint64_t o, const Move& move) { return o < move.from; });
      if (m == moves || (--m, end > m->from + m->nbytes))
        throw std::runtime_error("a buffer lies where nothing was received");
      flat.set_offset(i, encode_offset(m->to + (from - m->from)));
    }
  }
}

// ---- private copies ------------------------------------------------------------------------

struct SegmentPlace {
  uint64_t offset, nbytes;
  int ro_fd;
};

// The same messages over a private body: either copied, or mapped copy-on-write. `text`
// receives the patched messages and must outlive their use.
inline std::shared_ptr<arrow::Buffer> private_body(Attachment* a, const std::vector<SegmentPlace>& segments,
                                                   std::shared_ptr<arrow::Buffer> pinned, bool cow,
                                                   std::string* text) {
  auto data = reinterpret_cast<uint8_t*>(text->data());
  auto ranges = buffer_ranges(data, text->size(), a->space);
  // Page-rounded ranges, and where each will lie in the private body. Ranges that do not
  // share a page still may after rounding, so their ends are merged again.
  struct Piece { uint64_t begin, end, to; };
  std::vector<Piece> pieces;
  uint64_t total = 0;
  for (auto& r : ranges) {
    uint64_t begin = round_down(r.offset, kPage), end = round_up(r.offset + r.nbytes, kPage);
    pieces.push_back({begin, end, total});
    total += end - begin;
  }
  std::shared_ptr<arrow::Buffer> body;
  if (!total) {
    body = std::make_shared<arrow::MutableBuffer>(nullptr, 0);
  } else if (cow) {
    void* at = mmap(nullptr, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) throw system_error("mmap of a copy-on-write body");
    body = std::make_shared<CowBody>(static_cast<uint8_t*>(at), total, std::move(pinned));
    for (auto& p : pieces) {
      for (uint64_t begin = p.begin; begin < p.end;) {
        auto s = std::find_if(segments.begin(), segments.end(), [&](const SegmentPlace& s) {
          return begin >= s.offset && begin < s.offset + s.nbytes;
        });
        if (s == segments.end()) throw std::runtime_error("a buffer lies in no mapped segment");
        uint64_t end = std::min(p.end, s->offset + s->nbytes);
        if (mmap(static_cast<uint8_t*>(at) + p.to + (begin - p.begin), end - begin, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, s->ro_fd, begin - s->offset) == MAP_FAILED)
          throw system_error("mmap of a copy-on-write body");
        begin = end;
      }
    }
  } else {
    body = check(arrow::AllocateBuffer(total));
    std::vector<CopyTask> tasks;
    for (auto& p : pieces) tasks.push_back({body->mutable_data() + p.to, a->base + p.begin, p.end - p.begin});
    copy_all(tasks);
  }
  for (StreamCursor cursor(data, text->size()); !cursor.done();) {
    auto [at, n] = cursor.next();
    FlatMessage flat(at, n);
    for (uint64_t i = 0; i < flat.num_buffers(); i++) {
      BufferEntry e = flat.buffer(i);
      if (!e.length) continue;
      uint64_t from = decode_offset(e.offset);
      auto p = std::prev(std::upper_bound(pieces.begin(), pieces.end(), from,
                                          [](uint64_t o, const Piece& p) { return o < p.begin; }));
      flat.set_offset(i, encode_offset(p->to + (from - p->begin)));
    }
  }
  return body;
}

}  // namespace vineyard
