# distutils: language = c++
# cython: language_level=3, embedsignature=True, freethreading_compatible=False
"""The native core: handles on shared memory, and Arrow IPC messages over it.

Thin by intent: it owns mappings and lifetimes, and does what must touch raw memory or
Arrow's C++ API. Input is checked, and errors are worded, in Python above it. `MemoryError`
means the store has no room; `RuntimeError` carries the operating system's or Arrow's words.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from libcpp cimport bool as cbool
from libcpp.memory cimport make_shared, shared_ptr, static_pointer_cast
from libcpp.pair cimport pair
from libcpp.string cimport string
from libcpp.vector cimport vector

cimport cython
cimport pyarrow.lib as pal
from pyarrow.includes.libarrow cimport CBuffer, CMemoryPool, CRecordBatch, CSchema, CTable

import pyarrow as pa


ctypedef uint8_t* BytePointer

cdef enum:
    CHECKED = 1024


cdef extern from "<unistd.h>" nogil:
    int close(int)


cdef extern from "<fcntl.h>" nogil:
    int fallocate(int, int, int64_t, int64_t)


cdef extern from "vineyard_arrow/layout.h" namespace "vineyard" nogil:
    cdef struct Range:
        uint64_t offset, nbytes
    cdef struct IndexHeader:
        uint64_t num_slots, space_nbytes, catalog_offset, catalog_nbytes, instance
    cdef cppclass Atomic64 "std::atomic<uint64_t>":
        uint64_t load()
    cdef cppclass AtomicI64 "std::atomic<int64_t>":
        int64_t load()
        void fetch_add(int64_t)
    cdef cppclass Atomic32 "std::atomic<uint32_t>":
        uint32_t load()
    cdef cppclass Slot:
        Atomic32 seq
        Atomic64 key, offset, nbytes
    cdef cppclass IndexView:
        IndexHeader* header
        Slot* slots
    cdef cppclass ClientTable:
        AtomicI64 copied, gathered, shared
        Atomic64* words
        @staticmethod
        uint64_t nbytes_ "nbytes"(uint64_t)
    uint64_t c_index_nbytes "vineyard::index_nbytes"(uint64_t, uint64_t)
    uint64_t c_hash_name "vineyard::hash_name"(const char*, size_t)
    uint32_t kObject, kName
    int64_t kSealThreshold
    uint64_t kOutboxNbytes, kCursorKick
    uint32_t kWords


cdef extern from "messages.h" namespace "vineyard" nogil:
    cdef cppclass Lease:
        uint8_t* writable(uint64_t)
        void add_free(uint64_t, uint64_t) except +
        void confirm(const vector[Range]&)
        void abandon(const vector[Range]&)
        vector[Range] sealed_in_use()
        cbool allocate_extent(uint64_t, Range*) except +
        void trim()
    cdef cppclass CPool "vineyard::Pool"(CMemoryPool):
        int64_t spilled()
    cdef cppclass CAttachment "vineyard::Attachment":
        CAttachment(int, int) except +
        void ref()
        void unref()
        cbool try_ref()
        cbool shared()
        void watch()
        void unwatch()
        int socket()
        cbool contains(const void*)
        cbool in_child()
        cbool daemon_alive()
        void set_table(int, int) except +
        void after_fork(int, cbool) except +
        void set_socket(int)
        void map_segment(uint64_t, uint64_t, int, cbool) except +
        void unmap_segment(uint64_t, uint64_t) except +
        void set_lease(uint64_t, uint64_t, int, int, cbool, double, double) except +
        int64_t pin(uint64_t)
        int64_t find_name(const char*, uint64_t, uint64_t*)
        void set_cursor(uint32_t, uint64_t)
        CPool pool, stream_pool, spilling_pool
        uint8_t* base
        uint64_t space
        IndexView index
        ClientTable* table
        Lease* lease
        cbool leave(const void*, uint64_t, int64_t)
        AtomicI64 pinned
    cdef struct BlobHeader:
        uint32_t magic, num_segments
        uint64_t stream_nbytes
        int64_t payload_nbytes, created_ns, copied, gathered, shared
        uint32_t uid, reserved
        uint64_t signature
    uint32_t kSeveralUsers
    cdef struct Blob:
        BlobHeader header
        const uint32_t* segments
        uint8_t* streams
    Blob c_open_blob "vineyard::open_blob"(const IndexView&, int64_t, uint8_t*) except +
    uint64_t blob_stream_offset(uint32_t)
    uint32_t kBlobMagic
    cdef cppclass StoredSchema:
        StoredSchema()
        StoredSchema(shared_ptr[CSchema]) except +
    shared_ptr[CSchema] c_stored_schema "vineyard::stored_schema"(const shared_ptr[CSchema]&, const string&, const char*, cbool) except +
    uint64_t hash_names(const CSchema&)
    cbool same_schema(const CSchema&, const CSchema&)
    cdef cppclass CPlan "vineyard::Plan":
        CPlan(CAttachment*)
        vector[Range] claims
        int64_t copied, gathered, shared, nbytes
        cbool on_pins, on_seals
        void add_part(const StoredSchema&, vector[shared_ptr[CRecordBatch]]) except +
        void place(CAttachment*, cbool) except +
        uint64_t standalone_nbytes()
        int64_t payload_nbytes()
        void place_standalone(uint8_t*, uint64_t) except +
        string streams() except +
    cdef cppclass RawPart:
        pair[BytePointer, uint32_t] schema
        cbool dictionaries
        int64_t rows, num_batches
    vector[Range] c_buffer_ranges "vineyard::buffer_ranges"(uint8_t*, uint64_t, uint64_t) except +
    vector[Range] c_buffer_places "vineyard::buffer_places"(uint8_t*, uint64_t, uint64_t) except +
    cdef struct Move:
        pass
    void c_relocate "vineyard::relocate"(uint8_t*, uint64_t, uint64_t, const Move*, size_t) except +
    vector[RawPart] split_parts(uint8_t*, uint64_t) except +
    shared_ptr[CSchema] read_schema(const RawPart&) except +
    shared_ptr[CTable] read_table(const RawPart&, const shared_ptr[CSchema]&, const shared_ptr[CBuffer]&, cbool) except +
    cdef cppclass Text "std::string_view":
        const char* data()
        size_t size()
        cbool operator==(const Text&)
    cdef cppclass FlatField "vineyard::FlatSchema::Field":
        Text name, value
    cdef cppclass CMembers "vineyard::Members":
        Text params
        vector[FlatField] fields
    cbool c_read_members "vineyard::read_members"(const RawPart&, CMembers*) except +
    cdef struct SegmentPlace:
        uint64_t offset, nbytes
        int ro_fd
    shared_ptr[CBuffer] private_body(CAttachment*, const vector[SegmentPlace]&, shared_ptr[CBuffer], cbool, string*) except +
    cdef cppclass PinnedBody:
        PinnedBody(CAttachment*, int64_t)


cdef extern from "host.h" namespace "vineyard" nogil:
    cdef cppclass CHostTable "vineyard::HostTable":
        CHostTable(int, uint64_t) except +
        int64_t wanted()
        int64_t unsealed()
        int64_t warm()
        int64_t credit()
        void grant(int64_t)
        int64_t revoke(int64_t)
        void answer(cbool)
        void ask_trim()
        cbool give_back(uint64_t, uint64_t)
        void heard()
        cbool has_mail()
        vector[string] take_mail() except +
        void allow(int64_t)
        int64_t disallow()
        uint64_t word(uint32_t)
        void set_word(uint32_t, uint64_t)
        cbool pins(uint32_t)
        int64_t total_pins(uint32_t)
        void copy_pins(const CHostTable&, uint32_t)
    cdef cppclass CHostIndex "vineyard::HostIndex":
        CHostIndex(int, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t) except +
        uint32_t high_water()
        void set_waiters(uint32_t)
        void set_room_waiters(uint32_t)
        int64_t insert(uint64_t, uint32_t, uint64_t, uint64_t, uint64_t)
        void kill(uint32_t)
        void release(uint32_t)
    cdef cppclass Extent "vineyard::ExtentBook::Extent":
        uint64_t nbytes
        uint32_t segment
    cdef cppclass CExtentBook "vineyard::ExtentBook":
        void seal(uint32_t, uint64_t, uint64_t, const vector[Range]&) except +
        void unseal(const vector[Range]&)
        vector[uint64_t] cover(const vector[Range]&) except +
        const Extent& at(uint64_t) except +
        void hold(const vector[uint64_t]&) except +
        vector[Range] drop(const vector[uint64_t]&)
        vector[Range] within(uint64_t, uint64_t)
        cbool empty(uint64_t, uint64_t)
    cdef cppclass CMetadataArena "vineyard::MetadataArena":
        CMetadataArena(int, uint64_t) except +
        int64_t allocate(uint64_t)
        void free(uint64_t, uint64_t)
        uint8_t* at(uint64_t)
        uint64_t committed()
        uint64_t spare()
        uint64_t used()
        void trim()


cdef extern from *:
    """
    #include <arrow/python/pyarrow.h>
    static std::shared_ptr<arrow::Buffer> make_pinned(vineyard::Attachment* a, int64_t slot) {
      return std::make_shared<vineyard::PinnedBody>(a, slot);
    }
    """
    shared_ptr[CBuffer] make_pinned(CAttachment*, int64_t) nogil

pal.import_pyarrow()

SEAL_THRESHOLD = kSealThreshold
OUTBOX_NBYTES = kOutboxNbytes
SEVERAL_USERS = kSeveralUsers
NUM_WORDS = kWords
CURSOR_KICK = kCursorKick
KIND_OBJECT = kObject
KIND_NAME = kName
MISS = object()
BUSY = object()


cdef vector[Range] to_ranges(object pairs):
    cdef vector[Range] out
    cdef Range r
    for offset, nbytes in pairs:
        r.offset = offset
        r.nbytes = nbytes
        out.push_back(r)
    return out


cdef list from_ranges(vector[Range] ranges):
    return [(r.offset, r.nbytes) for r in ranges]


def table_nbytes(uint64_t num_slots):
    """Size of a client table file."""
    return ClientTable.nbytes_(num_slots)


def index_nbytes(uint64_t num_buckets, uint64_t num_slots):
    """Size of the index file."""
    return c_index_nbytes(num_buckets, num_slots)


def name_key(bytes name):
    """Key of a name in the index."""
    return c_hash_name(name, len(name))


def buffer_ranges(const uint8_t[::1] streams, uint64_t space):
    """Ranges (offset, nbytes) of the store that the buffers of these messages need."""
    if streams.shape[0] == 0:
        raise RuntimeError("object metadata is empty")
    return from_ranges(c_buffer_ranges(<uint8_t*>&streams[0], streams.shape[0], space))


def buffer_places(const uint8_t[::1] streams, uint64_t space):
    """Ranges (offset, nbytes) of the store that the buffers of these messages are, each once."""
    if streams.shape[0] == 0:
        raise RuntimeError("object metadata is empty")
    return from_ranges(c_buffer_places(<uint8_t*>&streams[0], streams.shape[0], space))


def relocate(bytes streams, uint64_t space, const uint64_t[::1] moves):
    """These messages, with their buffers where `moves` brought them.

    `moves`: (from, nbytes, to) of each, one after the other, ascending.

    RuntimeError if one lies in no single move.
    """
    if len(streams) == 0 or moves.shape[0] % 3:
        raise RuntimeError("object metadata is empty, or a move has not three numbers")
    cdef bytes out = PyBytes_FromStringAndSize(<char*>streams, len(streams))
    cdef const Move* first = <const Move*>&moves[0] if moves.shape[0] else NULL
    c_relocate(<uint8_t*><char*>out, len(out), space, first, moves.shape[0] // 3)
    return out


def members_place(const uint8_t[::1] streams):
    """Where in these messages the descriptor of the object's members is: (begin, end), or None."""
    cdef CMembers members
    if streams.shape[0] == 0:
        raise RuntimeError("object metadata is empty")
    cdef uint8_t* data = <uint8_t*>&streams[0]
    cdef vector[RawPart] raw = split_parts(data, streams.shape[0])
    if raw.size() < 2 or not c_read_members(raw.back(), &members):
        return None
    cdef Py_ssize_t begin = <uint8_t*>members.params.data() - data
    return begin, begin + <Py_ssize_t>members.params.size()


cdef class SchemaEntry:
    """A parsed schema, kept by the bytes of its message."""
    cdef shared_ptr[CSchema] user
    cdef bytes key  # the message
    cdef public object schema, typename, params


cdef dict _schemas = {}
cdef SchemaEntry _last = None
cdef dict _no_members = {}
_plain = frozenset()
_user_schema = _member_ids = _part = None


def set_codec(plain, user_schema, member_ids, part):
    """What a schema becomes as it is written and read, see `ipc.schemas`.

    `member_ids(bytes) -> list` decodes the descriptor of a list of members, and
    `part(typename, params, table, writable)` makes what `Attachment.read` returns.
    """
    global _plain, _user_schema, _member_ids, _part
    _plain, _user_schema, _member_ids, _part = plain, user_schema, member_ids, part


cdef shared_ptr[CSchema] as_stored(schema, str typename, bytes params) except *:
    cdef const char* text = NULL
    if params is not None:
        text = params
    return c_stored_schema(pal.pyarrow_unwrap_schema(schema), typename.encode(), text, typename in _plain)


def stored_schema(schema, str typename, bytes params):
    """`schema` as a part of `typename` is stored; `params` is the JSON of its descriptor, or None."""
    return pal.pyarrow_wrap_schema(as_stored(schema, typename, params))


cdef SchemaEntry schema_entry(const RawPart& part):
    global _last
    cdef SchemaEntry last = _last
    # Objects of a kind are often read together: saves the hash of a long key.
    if last is not None and len(last.key) == part.schema.second and \
            memcmp(<char*>last.key, part.schema.first, part.schema.second) == 0:
        return last
    cdef bytes key = PyBytes_FromStringAndSize(<char*>part.schema.first, part.schema.second)
    cdef SchemaEntry entry = _schemas.get(key)
    if entry is not None:
        _last = entry
        return entry
    schema = pal.pyarrow_wrap_schema(read_schema(part))
    entry = SchemaEntry()
    entry.typename, entry.params, entry.schema, lasting = _user_schema(schema, key.count(b"ARROW:extension:name"))
    entry.user = pal.pyarrow_unwrap_schema(entry.schema)
    if lasting:
        if len(_schemas) >= 512:
            _schemas.clear()
        entry.key = key
        _last = _schemas[key] = entry
    return entry


cdef str to_str(Text text):
    return PyUnicode_DecodeUTF8(text.data(), text.size(), NULL)


cdef uint64_t member_id(str text) except? 0:
    """The id that is written as `o` and 16 hexadecimal digits."""
    cdef uint64_t number = 0
    cdef Py_ssize_t i, n = len(text)
    cdef uint32_t digit
    for i in range(1, n):
        digit = ord(text[i])
        if 48 <= digit <= 57:  # 0 to 9
            number = number << 4 | (digit - 48)
        elif 97 <= digit <= 102:  # a to f
            number = number << 4 | (digit - 87)
        else:
            break
    else:
        if n == 17 and text[0] == "o":
            return number
    raise ValueError(f"{text!r} is no id of a member")


cdef dict take_members(vector[RawPart]& raw):
    """The members that the last part names, which is taken off: {name: (id, typename)}."""
    cdef CMembers members
    if raw.size() < 2 or not c_read_members(raw.back(), &members):
        return _no_members
    ids = _member_ids(PyBytes_FromStringAndSize(members.params.data(), members.params.size()))
    if len(ids) != <Py_ssize_t>members.fields.size():
        raise ValueError("the members of this object have lost their ids")
    cdef dict out = {}
    cdef Text last
    cdef str typename = None
    cdef size_t i
    for i in range(members.fields.size()):
        if typename is None or not (members.fields[i].value == last):
            last = members.fields[i].value
            typename = to_str(last)
        out[to_str(members.fields[i].name)] = (member_id(ids[i]), typename)
    raw.pop_back()
    return out


@cython.no_gc  # of what cannot be part of a cycle; there may be thousands at a time
cdef class Raw:
    """An object as it is read.

    Its parts, as `set_codec`'s ``part`` makes them; its members, see `take_members`; the user
    whose process put it, None if several did.
    """
    cdef readonly tuple parts
    cdef readonly dict members
    cdef readonly object uid


cdef class Pin:
    """Keeps an object readable, deleted or not."""
    cdef shared_ptr[CBuffer] body
    cdef int64_t slot


cdef class Attachment:
    """A process's mapping of a store. Not thread-safe but for what the GIL gives."""

    cdef CAttachment* a
    cdef object __weakref__
    cdef dict segments      # id -> (offset, nbytes, ro_fd)
    cdef public unsigned long forking  # the thread that forks just now: no other may pin
    cdef uint64_t checked[CHECKED]  # versions of the objects that were found valid, by slot

    def __cinit__(self, index_fd=None, socket_fd=None):
        if index_fd is not None:
            self.a = new CAttachment(index_fd, socket_fd)
        self.segments = {}
        self.forking = 0
        memset(self.checked, 0xFF, sizeof(self.checked))

    def __dealloc__(self):
        if self.a != NULL:
            self.a.unref()
        if self.segments:
            for _, _, fd in self.segments.values():
                if fd >= 0:
                    close(fd)

    def make_pool(self, bint whole=False):
        """An Arrow memory pool over this attachment; `whole`: for streams, see `StreamWriter`."""
        return self.pool_of(&self.a.stream_pool if whole else &self.a.pool)

    cdef SharedMemoryPool pool_of(self, CPool* one):
        cdef SharedMemoryPool pool = SharedMemoryPool.__new__(SharedMemoryPool)
        pool.attachment = self
        pool.init(one)
        return pool

    def set_table(self, int table_fd, int event_fd):
        self.a.set_table(table_fd, event_fd)

    @property
    def in_use(self):
        """Whether anything but this object needs the mapping: a buffer, a block of the pool."""
        return self.a.shared()

    @property
    def socket(self):
        """The connection's descriptor, owned by the mapping; -1 if it is a parent's, or none."""
        return -1 if self.a.in_child() else self.a.socket()

    def set_socket(self, int fd):
        """Take ownership of the connection's descriptor: closed with the last buffer."""
        self.a.set_socket(fd)

    def after_fork(self, int socket_fd, bint prepared):
        """In a child: let go of what is the parent's. `prepared`: the next table has its pins."""
        self.a.after_fork(socket_fd, prepared)

    def add_segment(self, uint32_t segment, uint64_t offset, uint64_t nbytes, int ro_fd, bint huge):
        """Map a segment read-only; takes ownership of `ro_fd` once it is mapped."""
        self.a.map_segment(offset, nbytes, ro_fd, huge)
        self.segments[segment] = (offset, nbytes, ro_fd)

    def set_lease(self, uint32_t segment, int rw_fd, int ro_fd, bint huge, double idle_s,
                  double deadline_s, free):
        offset, nbytes, _ = self.segments[segment]
        self.a.set_lease(offset, nbytes, rw_fd, ro_fd, huge, idle_s, deadline_s)
        for start, n in free:
            self.a.lease.add_free(start, n)

    def segment_ids(self):
        """Ids of all mapped segments."""
        return list(self.segments)

    def has_segment(self, uint32_t segment):
        return segment in self.segments

    @property
    def has_lease(self):
        return self.a.lease != NULL

    @property
    def instance(self):
        return self.a.index.header.instance

    @property
    def catalog(self):
        """(offset, nbytes) of the daemon's own segment."""
        return self.a.index.header.catalog_offset, self.a.index.header.catalog_nbytes

    @property
    def daemon_alive(self):
        return self.a.daemon_alive()

    @property
    def pinned(self):
        """Gets whose buffers are alive."""
        return self.a.pinned.load()

    def offset_of(self, uint64_t address):
        """Logical offset of an address, or None when it lies outside of the store."""
        if not self.a.contains(<void*>address):
            return None
        return address - <uint64_t>self.a.base

    def remove_segments(self, segments):
        """Unmap segments that the daemon retired, and close their descriptors."""
        for segment in segments:
            found = self.segments.pop(segment, None)
            if found is not None:
                offset, nbytes, fd = found
                self.a.unmap_segment(offset, nbytes)
                if fd >= 0:
                    close(fd)

    def sealed_in_use(self):
        """Sealed ranges that live pool blocks of this process still show."""
        return from_ranges(self.a.lease.sealed_in_use()) if self.a.lease != NULL else []

    def trim(self):
        """Give back the pages of free memory."""
        if self.a.lease != NULL:
            with nogil:
                self.a.lease.trim()

    def count(self, Plan plan):
        """Add a put's figures to this client's statistics."""
        self.a.table.copied.fetch_add(plan.plan.copied)
        self.a.table.gathered.fetch_add(plan.plan.gathered)
        self.a.table.shared.fetch_add(plan.plan.shared)

    def leave(self, bytes message, list plans):
        """Leave a put of these plans in the outbox; False when it must go by the socket.

        In one step with their confirmation: an exception between the two (of a signal
        handler, say) would free memory that the daemon is to seal.
        """
        if not self.a.leave(<const char*>message, len(message), len(plans)):
            return False
        for plan in plans:
            (<Plan>plan).confirm()
        return True

    def set_cursor(self, uint32_t word, uint64_t batch):
        """Say that the reader with this word needs nothing before `batch` any more."""
        if word < kWords and self.a.table != NULL:
            self.a.set_cursor(word, batch)

    def word(self, uint32_t word):
        """What the daemon says in a word."""
        return self.a.table.words[word].load() if word < kWords and self.a.table != NULL else 0

    def find_name(self, bytes name):
        """The object id a name points to, or MISS."""
        cdef uint64_t target = 0
        if self.a.find_name(name, len(name), &target) < 0:
            return MISS
        return target

    cdef shared_ptr[CBuffer] open_blob(self, uint64_t key, Pin pin, Blob* blob,
                                       vector[uint32_t]* missing, uint64_t* version):
        """Pin the object, or take it as pinned already, which finds it even if it is deleted.

        Null on a miss; `missing` receives ids of unmapped segments, `version` a number that
        no other object is given while this process is attached: an id may come again.
        """
        cdef shared_ptr[CBuffer] body
        if self.a.table == NULL:
            raise RuntimeError("this process has not attached itself yet")
        cdef int64_t slot = self.a.pin(key) if pin is None else pin.slot
        if slot < 0:
            return body
        version[0] = <uint64_t>slot << 32 | self.a.index.slots[slot].seq.load()
        if pin is None:
            body = make_pinned(self.a, slot)
        elif self.a.index.slots[slot].key.load() == key:
            body = pin.body
        else:  # a pin inherited by a fork that no connection was prepared for
            return body
        blob[0] = c_open_blob(self.a.index, slot, self.a.base)
        for i in range(blob.header.num_segments):
            if blob.segments[i] not in self.segments:
                missing.push_back(blob.segments[i])
        return body

    def read(self, uint64_t key, int mode, Pin pin=None):
        """An object, as a Raw; MISS when the index does not know the object (unless it is held by `pin`),
        BUSY while another thread forks, a tuple of segment ids when these must be mapped
        first. mode: 0 read-only, 1 copy-on-write, 2 copy.
        """
        if self.forking and self.forking != PyThread_get_thread_ident():
            return BUSY
        cdef Blob blob
        cdef vector[uint32_t] missing
        cdef uint64_t version = 0
        cdef shared_ptr[CBuffer] body = self.open_blob(key, pin, &blob, &missing, &version)
        if body.get() == NULL:
            return MISS
        if not missing.empty():
            return tuple(missing)
        cdef string text
        cdef vector[SegmentPlace] places
        cdef SegmentPlace place
        cdef uint8_t* streams = blob.streams
        cdef uint64_t nbytes = blob.header.stream_nbytes
        cdef shared_ptr[CBuffer] pinned = body
        cdef size_t i
        if mode:
            text.assign(<char*>streams, nbytes)
            # Only its own: a forked child may still know segments that were retired since.
            for i in range(blob.header.num_segments):
                offset, size, fd = self.segments[blob.segments[i]]
                place.offset = offset
                place.nbytes = size
                place.ro_fd = fd
                places.push_back(place)
            with nogil:
                body = private_body(self.a, places, pinned, mode == 1, &text)
            streams = <uint8_t*>text.data()
        cdef vector[RawPart] raw = split_parts(streams, nbytes)
        cdef dict members = take_members(raw)
        cdef SchemaEntry entry
        cdef list out = []
        # Once is enough: an object's messages never change.
        cdef uint64_t* checked = &self.checked[(version >> 32) % CHECKED]
        cdef bint validate = checked[0] != version
        for i in range(raw.size()):
            entry = schema_entry(raw[i])
            table = pal.pyarrow_wrap_table(read_table(raw[i], entry.user, body, validate))
            out.append(_part(entry.typename, entry.params, table, mode != 0))
        checked[0] = version
        cdef Raw found = Raw.__new__(Raw)
        found.parts = tuple(out)
        found.members = members
        found.uid = None if blob.header.uid == kSeveralUsers else blob.header.uid
        return found

    def read_batch(self, uint64_t key):
        """The one record batch of the one part of an object, in a list; else as `read`."""
        found = self.read(key, 0)
        if type(found) is not Raw:
            return found
        table = found.parts[0].table
        return table.to_batches() or [pa.RecordBatch.from_pylist([], table.schema)]

    def hold(self, uint64_t key):
        """A pin on an object, until it dies; MISS when unknown, BUSY while another thread forks."""
        if self.forking and self.forking != PyThread_get_thread_ident():
            return BUSY
        cdef int64_t slot = self.a.pin(key)
        if slot < 0:
            return MISS
        cdef Pin pin = Pin()
        pin.body = make_pinned(self.a, slot)
        pin.slot = slot
        return pin

    def describe(self, uint64_t key, Pin pin=None):
        """Header fields and parts of an object without its data; MISS when unknown.

        Returns (payload_nbytes, created_ns, copied, gathered, shared, uid or None, signature,
        [(typename, schema, rows, batches, params)], members, ranges).
        """
        if self.forking and self.forking != PyThread_get_thread_ident():
            return BUSY
        cdef Blob blob
        cdef vector[uint32_t] missing
        cdef uint64_t version = 0
        cdef shared_ptr[CBuffer] body = self.open_blob(key, pin, &blob, &missing, &version)
        if body.get() == NULL:
            return MISS
        cdef BlobHeader header = blob.header
        cdef vector[RawPart] raw = split_parts(blob.streams, header.stream_nbytes)
        cdef dict members = take_members(raw)
        cdef SchemaEntry entry
        cdef list parts = []
        cdef size_t i
        for i in range(raw.size()):
            entry = schema_entry(raw[i])
            parts.append((entry.typename, entry.schema, raw[i].rows, raw[i].num_batches, entry.params))
        return (header.payload_nbytes, header.created_ns, header.copied, header.gathered, header.shared,
                None if header.uid == kSeveralUsers else header.uid, header.signature, parts, members,
                from_ranges(c_buffer_ranges(blob.streams, header.stream_nbytes, self.a.space)))


    def messages(self, uint64_t key, Pin pin not None):
        """A copy of the messages of a pinned object; MISS, or segments to be mapped, as `read`."""
        cdef Blob blob
        cdef vector[uint32_t] missing
        cdef uint64_t version = 0
        if self.open_blob(key, pin, &blob, &missing, &version).get() == NULL:
            return MISS
        if not missing.empty():
            return tuple(missing)
        return PyBytes_FromStringAndSize(<char*>blob.streams, blob.header.stream_nbytes)

    def buffer(self, uint64_t offset, uint64_t nbytes, Pin pin not None):
        """A range of the store that an object pinned by `pin` lies in, as a read-only buffer."""
        for begin, size, _ in self.segments.values():
            if begin <= offset and offset - begin <= size and nbytes <= size - (offset - begin):
                return pa.foreign_buffer(<uint64_t>self.a.base + offset, nbytes, pin)
        raise ValueError("a range lies in no mapped segment")

    @property
    def space(self):
        """Size of the address space."""
        return self.a.space


cdef class WeakAttachment:
    """Finds an attachment again for as long as anything needs it, and keeps none alive."""

    cdef CAttachment* a
    cdef dict segments

    def __cinit__(self, Attachment attachment):
        self.a = attachment.a
        self.a.watch()
        self.segments = {i: (offset, nbytes, -1) for i, (offset, nbytes, _) in attachment.segments.items()}

    def __dealloc__(self):
        self.a.unwatch()

    def __call__(self):
        """The attachment, to fork with (its segments cannot be read from), or None."""
        if not self.a.try_ref():
            return None
        cdef Attachment attachment = Attachment.__new__(Attachment)
        attachment.a = self.a
        attachment.segments = self.segments
        return attachment


cdef class _Written:
    """A schema with typename and descriptor, as written; keeps the schema it was made of."""
    cdef StoredSchema stored
    cdef shared_ptr[CSchema] source


cdef dict _written = {}


cdef _Written written_schema(schema, str typename, bytes params):
    # By content: tables made alike have equal schemas, but each its own.
    cdef shared_ptr[CSchema] source = pal.pyarrow_unwrap_schema(schema)
    cdef tuple key = (hash_names(source.get()[0]), typename, params)
    cdef _Written entry = _written.get(key)
    if entry is not None and same_schema(entry.source.get()[0], source.get()[0]):
        return entry
    entry = _Written()
    entry.source = source
    entry.stored = StoredSchema(as_stored(schema, typename, params))
    if len(_written) >= 512:
        _written.clear()
    _written[key] = entry
    return entry


cdef class Reserved:
    """Memory of this process's lease that a put copies to: a writable buffer.

    To be written only until its plan is decided.
    """

    cdef Attachment attachment
    cdef uint8_t* at
    cdef readonly uint64_t offset, nbytes

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.at, self.nbytes, False, flags)


cdef class Plan:
    """One object on its way into the store: parts, then places, then messages.

    Claims are extents that the daemon must seal; until `confirm` or `abandon` they are
    this plan's. A plan that dies undecided abandons them.
    """

    cdef CPlan* plan
    cdef Attachment attachment
    cdef bint decided

    def __cinit__(self, Attachment attachment):
        self.attachment = attachment
        self.plan = new CPlan(attachment.a)
        self.decided = False

    def __dealloc__(self):
        self._abandon()
        del self.plan

    cdef _abandon(self):
        if not self.decided and self.attachment is not None and self.attachment.a.lease != NULL:
            if not self.attachment.a.in_child():
                self.attachment.a.lease.abandon(self.plan.claims)
        self.decided = True

    def add_part(self, schema, str typename, bytes params, batches):
        """Add a stream: `params` is the JSON of its descriptor, or None."""
        cdef vector[shared_ptr[CRecordBatch]] c_batches
        for batch in batches:
            c_batches.push_back(pal.pyarrow_unwrap_batch(batch))
        cdef _Written written = written_schema(schema, typename, params)
        with nogil:
            self.plan.add_part(written.stored, c_batches)

    @property
    def payload_nbytes(self):
        """Bytes of all buffers that were added."""
        return self.plan.payload_nbytes()

    def place(self, bint share=True):
        """Find places for all buffers and copy what must be; MemoryError when full."""
        with nogil:
            self.plan.place(self.attachment.a, share)

    @property
    def standalone_nbytes(self):
        return self.plan.standalone_nbytes()

    def place_standalone(self, target, uint64_t offset):
        """Copy everything to `target` (writable buffer), which lies at logical `offset`."""
        cdef Py_buffer view
        PyObject_GetBuffer(target, &view, PyBUF_WRITABLE)
        try:
            if <uint64_t>view.len < self.plan.standalone_nbytes():
                raise ValueError("target is too small")
            with nogil:
                self.plan.place_standalone(<uint8_t*>view.buf, offset)
        finally:
            PyBuffer_Release(&view)

    def reserve(self, uint64_t nbytes):
        """Memory to be filled, one claim more of this plan; MemoryError when full."""
        cdef Reserved extent = Reserved.__new__(Reserved)
        cdef Range place
        cdef cbool found
        with nogil:
            found = self.attachment.a.lease.allocate_extent(nbytes, &place)
        if not found:
            raise MemoryError
        self.plan.claims.push_back(place)
        extent.attachment = self.attachment
        extent.at = self.attachment.a.lease.writable(place.offset)
        extent.offset = place.offset
        extent.nbytes = nbytes
        return extent

    def streams(self):
        cdef string s = self.plan.streams()
        return PyBytes_FromStringAndSize(s.data(), s.size())

    @property
    def claims(self):
        return from_ranges(self.plan.claims)

    @property
    def nbytes(self):
        return self.plan.nbytes

    @property
    def copied(self):
        return self.plan.copied

    @property
    def gathered(self):
        return self.plan.gathered

    @property
    def shared(self):
        return self.plan.shared

    def is_certain(self, bint pins_hold):
        """Whether the daemon will find all buffers sealed, so that nobody need wait for it.

        `pins_hold`: this process's pins are known to the daemon, all of them.
        """
        return not self.plan.on_seals and (pins_hold or not self.plan.on_pins)

    def figures(self):
        """(messages, claims, bytes of payload, copied, gathered, shared), for a PutItem."""
        return (self.streams(), from_ranges(self.plan.claims), self.plan.nbytes,
                self.plan.copied, self.plan.gathered, self.plan.shared)

    cpdef confirm(self):
        """The daemon has sealed the claims."""
        if not self.decided and self.attachment.a.lease != NULL:
            self.attachment.a.lease.confirm(self.plan.claims)
        self.decided = True
        self.attachment.count(self)

    def abandon(self):
        """The daemon has refused the claims: they are free again."""
        self._abandon()

    def forget(self):
        """Nobody knows whether the daemon sealed the claims: never use them again."""
        # Counted as sealed, which they most often are; they come home with the object then.
        if not self.decided and self.attachment.a.lease != NULL and not self.attachment.a.in_child():
            self.attachment.a.lease.confirm(self.plan.claims)
        self.decided = True


cdef class SharedMemoryPool(pal.MemoryPool):
    """An `arrow::MemoryPool` whose blocks lie in the store.

    Pass it as ``memory_pool=`` anywhere in pyarrow, or use it as a context manager to make
    it the process's default pool for a block of code. Buffers of 64 KiB and more are then
    sealed by `Client.put` without a copy. Thread-safe. Blocks below 64 KiB, which a put
    gathers by copy wherever they lie, come from Arrow's own default pool. Buffers stay
    valid after the client is closed; the pool lives as long as the last of them.

    Raises `pyarrow.ArrowMemoryError` (a MemoryError) from the allocating call when the
    store is full. pyarrow's CSV reader ends the process instead: `Client.read` guards it,
    and your own calls can by way of `spilling`.
    """

    cdef Attachment attachment
    cdef list _previous

    def __init__(self):
        raise TypeError("use Client.memory_pool")

    def release_unused(self):
        """Give back the pages of free memory to the operating system."""
        cdef CMemoryPool* pool = self.pool
        with nogil:
            pool.ReleaseUnused()

    def spilling(self):
        """The same pool, but one that never refuses: see `spilled`."""
        return self.attachment.pool_of(&self.attachment.a.spilling_pool)

    @property
    def spilled(self):
        """Bytes of blocks of 64 KiB and more in private memory, as the store had no room."""
        return (<CPool*>self.pool).spilled()

    def __enter__(self):
        if self._previous is None:
            self._previous = []
        self._previous.append(pa.default_memory_pool())
        pa.set_memory_pool(self)
        return self

    def __exit__(self, *exc):
        pa.set_memory_pool(self._previous.pop())

    def __repr__(self):
        return (f"<vineyard_arrow.SharedMemoryPool bytes_allocated={self.bytes_allocated()} "
                f"max_memory={self.max_memory()}>")


cdef class BatchReader(pal.RecordBatchReader):
    """A `pyarrow.RecordBatchReader` that other classes can extend: over another one's batches."""

    def __init__(self, pal.RecordBatchReader source):
        self.reader = source.reader


def punch_hole(int fd, uint64_t offset, uint64_t nbytes):
    """Give the pages of a range of a shared file back to the machine."""
    if fallocate(fd, 3, offset, nbytes) != 0:  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
        raise OSError("cannot punch a hole into a shared file")


# ---- the daemon's side --------------------------------------------------------------------


cdef class HostTable:
    """One client's table, as the daemon sees it."""

    cdef CHostTable* t

    def __cinit__(self, int fd, uint64_t num_slots):
        self.t = new CHostTable(fd, num_slots)

    def __dealloc__(self):
        del self.t

    @property
    def wanted(self):
        return self.t.wanted()

    @property
    def unsealed(self):
        return self.t.unsealed()

    @property
    def warm(self):
        return self.t.warm()

    @property
    def credit(self):
        return self.t.credit()

    def grant(self, int64_t nbytes):
        self.t.grant(nbytes)

    def revoke(self, int64_t nbytes):
        return self.t.revoke(nbytes)

    def answer(self, bint granted=True):
        self.t.answer(granted)

    def ask_trim(self):
        self.t.ask_trim()

    def give_back(self, uint64_t offset, uint64_t nbytes):
        return self.t.give_back(offset, nbytes)

    def heard(self):
        """The writer's kick has come; to be called before its outbox is looked at."""
        self.t.heard()

    @property
    def has_mail(self):
        return self.t.has_mail()

    def take_mail(self):
        """The messages in the outbox, each once. ValueError when they make no sense."""
        return self.t.take_mail()

    def allow(self, int64_t objects):
        self.t.allow(objects)

    def disallow(self):
        """Take the allowance back; returns how much was left."""
        return self.t.disallow()

    def word(self, uint32_t i):
        """A word of the client's."""
        return self.t.word(i)

    def set_word(self, uint32_t i, uint64_t value):
        """Say something to the client."""
        self.t.set_word(i, value)

    def pins(self, uint32_t slot):
        return self.t.pins(slot)

    def total_pins(self, uint32_t num_slots):
        return self.t.total_pins(num_slots)

    def copy_pins(self, HostTable other, uint32_t num_slots):
        self.t.copy_pins(other.t[0], num_slots)


cdef class HostIndex:
    """The index, as the daemon writes it. Make it on the thread that lives longest."""

    cdef CHostIndex* i

    def __cinit__(self, int fd, uint64_t num_buckets, uint64_t num_slots, uint64_t space,
                  uint64_t catalog_offset, uint64_t catalog_nbytes, uint64_t instance):
        self.i = new CHostIndex(fd, num_buckets, num_slots, space, catalog_offset, catalog_nbytes, instance)

    def __dealloc__(self):
        del self.i

    @property
    def high_water(self):
        return self.i.high_water()

    def set_waiters(self, uint32_t n):
        self.i.set_waiters(n)

    def set_room_waiters(self, uint32_t n):
        self.i.set_room_waiters(n)

    def insert(self, uint64_t key, uint32_t kind, uint64_t offset, uint64_t nbytes, uint64_t target=0):
        """The slot, or -1 when the index is full."""
        return self.i.insert(key, kind, offset, nbytes, target)

    def kill(self, uint32_t slot):
        self.i.kill(slot)

    def release(self, uint32_t slot):
        self.i.release(slot)


cdef class ExtentBook:
    """The sealed extents of a store, by offset, with their users. ValueError on bad input."""

    cdef CExtentBook book

    def seal(self, uint32_t segment, uint64_t begin, uint64_t end, claims):
        """Enter extents (offset, nbytes) of `segment`, [begin, end), with no users; all or none."""
        self.book.seal(segment, begin, end, to_ranges(claims))

    def unseal(self, claims):
        """Take extents out again that have no users."""
        self.book.unseal(to_ranges(claims))

    def cover(self, ranges):
        """Offsets of the extents that hold all of `ranges`, ascending."""
        return self.book.cover(to_ranges(sorted(ranges)))

    def take(self, const uint8_t[::1] streams, uint64_t space):
        """Become a user of all extents that these messages need.

        Returns (offsets, ids of their segments, bytes of the extents). RuntimeError when the
        messages make no sense, ValueError when a buffer is not sealed.
        """
        if streams.shape[0] == 0:
            raise RuntimeError("object metadata is empty")
        cdef vector[uint64_t] keys = self.book.cover(c_buffer_ranges(<uint8_t*>&streams[0], streams.shape[0], space))
        cdef uint64_t stored = 0
        cdef list segments = []
        for key in keys:
            stored += self.book.at(key).nbytes
            segment = self.book.at(key).segment
            if segment not in segments:
                segments.append(segment)
        self.book.hold(keys)
        return keys, segments, stored

    def hold(self, keys):
        """One more user of each."""
        self.book.hold(keys)

    def drop(self, keys):
        """One user less of each; returns those left without, which are out of the book."""
        return from_ranges(self.book.drop(keys))

    def empty(self, uint64_t begin, uint64_t end):
        """Whether no extent starts in [begin, end)."""
        return self.book.empty(begin, end)

    def within(self, uint64_t begin, uint64_t end):
        """Extents (offset, nbytes) that start in [begin, end), ascending."""
        return from_ranges(self.book.within(begin, end))


cdef class MetadataArena:
    """The daemon's segment of metadata."""

    cdef CMetadataArena* m

    def __cinit__(self, int fd, uint64_t nbytes):
        self.m = new CMetadataArena(fd, nbytes)

    def __dealloc__(self):
        del self.m

    def store(self, bytes data):
        """Offset of a copy of `data`, or -1."""
        cdef int64_t offset = self.m.allocate(len(data))
        if offset >= 0:
            memcpy(self.m.at(offset), <const char*>data, len(data))
        return offset

    def store_object(self, bytes streams, segments, int64_t nbytes, int64_t created_ns,
                     int64_t copied, int64_t gathered, int64_t shared, uint32_t uid,
                     uint64_t signature):
        """(offset, nbytes) of header and messages, or None."""
        cdef BlobHeader header
        cdef uint32_t n = len(segments)
        cdef uint64_t start = blob_stream_offset(n)
        cdef int64_t offset = self.m.allocate(start + len(streams))
        if offset < 0:
            return None
        header.magic = kBlobMagic
        header.num_segments = n
        header.stream_nbytes = len(streams)
        header.payload_nbytes = nbytes
        header.created_ns = created_ns
        header.copied = copied
        header.gathered = gathered
        header.shared = shared
        header.uid = uid
        header.reserved = 0
        header.signature = signature
        cdef uint8_t* at = self.m.at(offset)
        memcpy(at, &header, sizeof(header))
        cdef uint32_t* ids = <uint32_t*>(at + sizeof(header))
        for i, segment in enumerate(segments):
            ids[i] = segment
        memcpy(at + start, <const char*>streams, len(streams))
        return offset, start + len(streams)

    def free(self, uint64_t offset, uint64_t nbytes):
        self.m.free(offset, nbytes)

    def trim(self):
        self.m.trim()

    @property
    def committed(self):
        return self.m.committed()

    @property
    def spare(self):
        """Bytes of the largest piece that is given to nothing."""
        return self.m.spare()

    @property
    def used(self):
        return self.m.used()
