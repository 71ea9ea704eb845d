"""format_memory.py - for system tests: reads a memory image by docs/format-memory.md and
docs/format-delta.md and nothing else.

The offsets are taken out of the document's tables; what the documents say in words is written down
again here. Every checksum on the way is checked, and what the documents say must hold."""
import ctypes
import ctypes.util
import re

import format_store
import varve

PAGE, UNIT = 4096, 64
DISK_BYTES = 1 << 50
MASK = (1 << 64) - 1
AS_IN_BASE = 66
ZSTD_MAGIC = bytes.fromhex("28b52ffd")

need = format_store.need


# ---- libraries ---------------------------------------------------------------------------------

def load(name):
    found = ctypes.util.find_library(name)
    if not found:
        varve.skip(f"lib{name} is not installed")
    return ctypes.CDLL(found)


XXH3 = load("xxhash").XXH3_64bits_withSeed
XXH3.restype = ctypes.c_uint64
XXH3.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]
ZSTD = load("zstd")
ZSTD.ZSTD_decompress.restype = ctypes.c_size_t
ZSTD.ZSTD_decompress.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
ZSTD.ZSTD_findFrameCompressedSize.restype = ctypes.c_size_t
ZSTD.ZSTD_findFrameCompressedSize.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
ZSTD.ZSTD_getFrameContentSize.restype = ctypes.c_uint64
ZSTD.ZSTD_getFrameContentSize.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
ZSTD.ZSTD_isError.restype = ctypes.c_uint
ZSTD.ZSTD_isError.argtypes = [ctypes.c_size_t]


def sum32(seed, data):
    return XXH3(data, len(data), seed & MASK) & 0xFFFFFFFF


def unzstd(data, most):
    """One frame at the beginning of data. Returns what comes out, and the frame's length."""
    length = ZSTD.ZSTD_findFrameCompressedSize(data, len(data))
    need(not ZSTD.ZSTD_isError(length), "there is no frame of zstd")
    out = ctypes.create_string_buffer(most + 1)
    n = ZSTD.ZSTD_decompress(out, most, data, length)
    need(not ZSTD.ZSTD_isError(n), "a frame of zstd is damaged, or too long")
    return out.raw[:n], length


# ---- the document ------------------------------------------------------------------------------

def read_tables():
    """{heading: {field: (offset, bytes)}}: the first table with offsets under each heading, and
    under words in bold that begin a paragraph."""
    found, heading = {}, None
    for line in (varve.ROOT / "docs/format-memory.md").read_text().splitlines():
        title = re.match(r"#+ (?:.*`(\w+)`|(\w+))", line) or re.match(r"\*\*(\w+)\*\*()", line)
        if title:
            heading = title[1] or title[2]
        row = re.match(r"\| (\d+) \| (\d+) \| (\w+) \|", line)
        if row:
            found.setdefault(heading, {})[row[3]] = int(row[1]), int(row[2])
    return found


TABLES = read_tables()


class Struct:
    """One structure's fields as attributes, at the offsets of the document."""

    def __init__(self, table, data, at=0):
        for field, (offset, size) in TABLES[table].items():
            raw = bytes(data[at + offset:at + offset + size])
            need(len(raw) == size, f"{table}.{field} lies beyond the end")
            setattr(self, field, int.from_bytes(raw, "little") if size <= 8 and field != "magic" else raw)


def size_of(table):
    return max(offset + size for offset, size in TABLES[table].values())


def text_of(raw, what):
    need(b"\0" in raw, f"{what} has no end")
    return raw[:raw.index(b"\0")].decode()


# ---- pages: docs/format-delta.md ---------------------------------------------------------------

def bits(mask):
    return [i for i in range(mask.bit_length()) if mask >> i & 1]


def check_end(data, end):
    need(len(data) - end < UNIT and not any(data[end:]), "a page is followed by something")


def take(data, at, n):
    need(at + n <= len(data), "a page is cut")
    return data[at:at + n], at + n


def apply_delta(chunks, tail, base):
    """Returns the page, and the tail's length."""
    need(chunks, "a delta without chunks")
    chunk_numbers = bits(chunks)
    masks, at = take(tail, 0, len(chunk_numbers))
    need(all(masks), "a chunk without groups")
    groups = [chunk * 8 + g for chunk, mask in zip(chunk_numbers, masks) for g in bits(mask)]
    masks, at = take(tail, at, len(groups))
    need(all(masks), "a group without bytes")
    places = [group * 8 + b for group, mask in zip(groups, masks) for b in bits(mask)]
    values, at = take(tail, at, len(places))
    page = bytearray(base)
    for place, value in zip(places, values):
        page[place] = value
    return bytes(page), at


def decode(data, base=None):
    """A page in a form; base: the page that it is a delta to."""
    form = data[0]
    if form == 0x13:
        need(base is None, "a delta record that needs no base")
        page, length = unzstd(ZSTD_MAGIC + data[1:], PAGE)
        need(len(page) == PAGE, "a page has another size")
        check_end(data, 1 + length - 4)
        return page
    need(form in (0x11, 0x12), f"there is no form {form:#x}")
    need(base is not None, "a whole record that needs a base")
    chunks = int.from_bytes(data[1:9], "little")
    if form == 0x11:
        page, length = apply_delta(chunks, data[9:], base)
        check_end(data, 9 + length)
        return page
    tail, length = unzstd(ZSTD_MAGIC + data[9:], 4672)
    page, used = apply_delta(chunks, tail, base)
    need(used == len(tail), "a tail is longer than it says")
    check_end(data, 9 + length - 4)
    return page


# ---- the image ---------------------------------------------------------------------------------

class Numbers:
    def __init__(self, data, at=0):
        self.data, self.at = data, at

    def take(self):
        value = 0
        for i in range(10):
            need(self.at < len(self.data), "a number is cut")
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << 7 * i
            if not byte & 0x80:
                return value & MASK
        raise AssertionError("a number has more than 10 bytes")


def unzigzag(v):
    return ~(v >> 1) & MASK if v & 1 else v >> 1


class Block:
    def __init__(self, name, first, pages, shared):
        self.name, self.first, self.pages, self.shared = name, first, pages, shared


class Image:
    """read(offset, length): bytes of the disk."""

    def __init__(self, read):
        self.read = read
        self.cache = (None, b"")
        self.read_head()
        self.read_directory()
        self.entries = {}  # page: (whole, delta), each None or (unit, units)
        for piece in self.base:
            self.read_index(piece, False)
        for piece in self.overlay:
            self.read_index(piece, True)

    def read_head(self):
        page = self.read(0, PAGE)
        need(any(page), "there is no state")
        head = Struct("memory_head", page)
        need(head.magic == b"VARVE\0MI", "it has another magic")
        offset, size = TABLES["memory_head"]["crc"]
        need(format_store.crc(0, page[:offset] + bytes(size) + page[offset + size:]) == head.crc,
             "page 0 does not match its crc")
        need(head.version == 1 and head.incompat == 0, "it is of another version")
        need(head.seq >= 1 and head.tail % PAGE == 0 and head.tail <= DISK_BYTES, "page 0 makes no sense")
        self.head, self.tail = head, head.tail
        self.directory_piece = Struct("memory_piece", page, TABLES["memory_head"]["directory"][0])

    def piece(self, piece):
        need(PAGE <= piece.offset and piece.offset + piece.stored <= self.tail, "a piece lies elsewhere")
        need(piece.stored <= piece.raw and piece.zero == 0, "a piece makes no sense")
        begin = piece.offset // PAGE * PAGE
        end = -(-(piece.offset + piece.stored) // PAGE) * PAGE
        data = self.read(begin, end - begin)[piece.offset - begin:][:piece.stored]
        need(sum32(piece.offset, data) == piece.sum, "a piece does not match its sum")
        if piece.stored == piece.raw:
            return data
        need(ZSTD.ZSTD_getFrameContentSize(data, len(data)) == piece.raw, "a piece says another size")
        raw, length = unzstd(data, piece.raw)
        need(len(raw) == piece.raw and length == piece.stored, "a piece has another size")
        return raw

    def check_together(self, pieces, what):
        pieces = [p for p in pieces if p.stored]
        if not pieces:
            return
        first = min(p.offset // PAGE for p in pieces)
        last = max((p.offset + p.stored - 1) // PAGE for p in pieces)
        stored = sum(p.stored for p in pieces)
        need(last - first + 1 <= stored // PAGE + 2, f"the pieces of {what} do not stand together")

    def read_directory(self):
        raw = self.piece(self.directory_piece)
        d = Struct("Directory", raw)
        at = size_of("Directory")

        def many(n, table, size=None):
            nonlocal at
            found = [Struct(table, raw, at + i * (size or size_of(table))) for i in range(n)]
            at += n * (size or size_of(table))
            return found

        need(1 <= d.blocks <= 256 and d.epochs <= 65536 and d.base <= 65536 and d.overlay <= 65536 and
             d.blobs <= 4096, "the directory has too many of something")
        self.blocks, first = [], 0
        for block in many(d.blocks, "Blocks"):
            need(block.zero == 0, "a block is not zero where it should be")
            self.blocks.append(Block(text_of(block.name, "a block's name"), first, block.pages,
                                     bool(block.flags & 1)))
            first += block.pages
        self.pages = first
        need(first <= 1 << 32, "there are too many pages")
        self.epochs = []
        for _ in range(d.epochs):
            self.epochs.append(tuple(int.from_bytes(raw[at + i:at + i + 8], "little") for i in (0, 8)))
            at += 16
        starts = [start for start, _ in self.epochs]
        need(starts == sorted(set(starts)) and all(s < self.tail for s in starts), "epochs are in disorder")
        self.base, self.overlay = many(d.base, "memory_piece"), many(d.overlay, "memory_piece")
        for pieces in (self.base, self.overlay):
            end = 0
            for piece in pieces:
                need(piece.first >= end, "pieces of the index overlap")
                end = piece.first + piece.pages
            need(end <= self.pages, "a piece tells of pages that are not there")
        self.blobs = {}
        blob_pieces = []
        for _ in range(d.blobs):
            name = text_of(raw[at:at + 64], "a blob's name")
            self.blobs[name] = Struct("memory_piece", raw, at + 64)
            blob_pieces.append(self.blobs[name])
            at += 112
        for _ in range(d.trims):
            page, pages = (int.from_bytes(raw[at + i:at + i + 8], "little") for i in (0, 8))
            need(page > 0 and (page + pages) * PAGE <= self.tail, "a trim lies elsewhere")
            at += 16
        need(at == len(raw), "something follows the directory")
        self.check_together(self.base, "the base")
        self.check_together(self.overlay, "the overlay")
        self.check_together(blob_pieces, "the blobs")

    def read_index(self, piece, overlay):
        raw = self.piece(piece)
        numbers = Numbers(raw)
        n, gap_bytes = numbers.take(), numbers.take()
        gaps = Numbers(raw[:numbers.at + gap_bytes], numbers.at)
        at = numbers.at + gap_bytes
        wholes, deltas = raw[at:at + n], raw[at + n:at + 2 * n]
        places = Numbers(raw, at + 2 * n)
        page, whole_end, delta_end = piece.first, 0, 0
        for i in range(n):
            page += gaps.take()
            need(piece.first <= page < piece.first + piece.pages, "an index tells of another page")
            need(wholes[i] <= 65 or overlay and wholes[i] == AS_IN_BASE, "a record has too many units")
            need(deltas[i] <= 64, "a delta has too many units")
            whole = delta = None
            if wholes[i] == AS_IN_BASE:
                whole = self.entries.get(page, (None, None))[0]
            elif wholes[i]:
                unit = (whole_end + unzigzag(places.take())) & MASK
                whole, whole_end = (unit, wholes[i]), unit + wholes[i]
            if deltas[i]:
                unit = (delta_end + unzigzag(places.take())) & MASK
                delta, delta_end = (unit, deltas[i]), unit + deltas[i]
            need(overlay and wholes[i] == 0 and not deltas[i] or whole, "a page has no whole record")
            for place in (whole, delta):
                need(place is None or PAGE <= place[0] * UNIT and (place[0] + place[1]) * UNIT <= self.tail,
                     "a record lies elsewhere")
            self.entries[page] = whole, delta
            page += 1
        need(gaps.at == at and places.at == len(raw), "an index is longer than it says")

    def record(self, place):
        offset, length = place[0] * UNIT, place[1] * UNIT
        epoch = [id for start, id in self.epochs if start <= offset]
        need(epoch, "a record belongs to no epoch")
        chunk = 1 << 20
        begin = offset // chunk * chunk
        if self.cache[0] != begin or offset + length > begin + len(self.cache[1]):
            end = min(max(begin + chunk, -(-(offset + length) // PAGE) * PAGE), self.tail)
            self.cache = begin, self.read(begin, end - begin)
        data = self.cache[1][offset - begin:offset - begin + length]
        need(sum32(epoch[-1] + offset, data[4:]) == int.from_bytes(data[:4], "little"),
             "a record does not match its sum")
        return data[4:]

    def page(self, number):
        """The 4,096 bytes of a page, counted through all blocks."""
        whole, delta = self.entries.get(number, (None, None))
        if not whole:
            return bytes(PAGE)
        data = self.record(whole)
        if whole[1] == 65:
            need(not any(data[PAGE:]), "a plain page is followed by something")
            page = data[:PAGE]
        else:
            page = decode(data)
        return decode(self.record(delta), page) if delta else page

    def block(self, name):
        return next(b for b in self.blocks if b.name == name or b.name.endswith("/" + name))

    def blob(self, name):
        return self.piece(self.blobs[name])
