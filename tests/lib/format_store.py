"""format_store.py - for system tests: reads a store by docs/format-store.md and nothing else.

The offsets are taken out of the document's tables; what the document says in words is written down
again here. Every checksum on the way is checked, and what the document says must hold."""
import ctypes
import re

import varve

BLOCK, FILE_BYTES, PAGE, ENTRIES = 4096, 32 << 20, 4096, 512
NO_FILE = 0xFFFFFFFF
DATA, TABLE, PACKED = 1, 2, 3
HOLE, RAW, ZERO, NODE = 0, 1, 2, 3
DENSE, SPARSE, DELTA = 1, 2, 3
MIB = 1 << 20
CHECKPOINT_VERSIONS = 1


def need(condition, what):
    if not condition:
        raise AssertionError(what)


# ---- the document ------------------------------------------------------------------------------

class Record:
    """One structure's fields as attributes, read at the offsets of the document."""

    def __init__(self, name, data, at=0):
        for offset, size, field in LAYOUT[name]:
            raw = data[at + offset:at + offset + size]
            need(len(raw) == size, f"{name}.{field} lies beyond the end")
            need(field != "zero" or not any(raw), f"{name}: bytes at {offset} are not zero")
            is_bytes = size > 8 or field == "magic" and size == 8
            setattr(self, field, bytes(raw) if is_bytes else int.from_bytes(raw, "little"))


def read_layout():
    """{structure: [(offset, bytes, field)]} from the tables under headings such as
    ### `entry`: what a table says, 16 bytes"""
    layout, sizes, name = {}, {}, None
    for line in (varve.ROOT / "docs/format-store.md").read_text().splitlines():
        if line.startswith("#"):
            found = re.match(r"### `(\w+)`.*, (\d+) bytes$", line)
            name = found and found[1]
            if found:
                sizes[name] = int(found[2])
        found = re.match(r"\| (\d+) \| (\d+) \| (\w+) \|", line)
        if name and found:
            layout.setdefault(name, []).append((int(found[1]), int(found[2]), found[3]))
    for name, fields in layout.items():
        end = 0
        for offset, size, field in fields:
            need(offset == end, f"the document's {name}.{field} does not begin where the one before it ends")
            end = offset + size
        need(end == sizes[name], f"the document's {name} ends at {end}, not at {sizes[name]}")
    return layout


LAYOUT = read_layout()

# ---- checksums ---------------------------------------------------------------------------------


def crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


CRC_TABLE = crc_table()


def crc(seed, data):
    value = ~seed & 0xFFFFFFFF
    for byte in data:
        value = CRC_TABLE[(value ^ byte) & 255] ^ value >> 8
    return ~value & 0xFFFFFFFF


need(crc(0, b"123456789") == 0xE3069283, "this test's own CRC-32C is wrong")
need(crc(crc(0, b"1234"), b"56789") == 0xE3069283, "this test's own CRC-32C does not go on")

XXH3 = ctypes.CDLL("libxxhash.so.0").XXH3_64bits_withSeed
XXH3.restype = ctypes.c_uint64
XXH3.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]


def sum_at(address, data):
    return XXH3(bytes(data), len(data), address) & 0xFFFFFFFF


def check_crc(name, block, seed=0):
    """The field crc counts as zero."""
    offset = next(o for o, _, field in LAYOUT[name] if field == "crc")
    blank = block[:offset] + bytes(4) + block[offset + 4:]
    record = Record(name, block)
    need(crc(seed, blank) == record.crc, f"{name}: crc")
    return record


# ---- a store -----------------------------------------------------------------------------------


def padded(n, to):
    return (n + to - 1) // to * to


def with_fields(name, block, **values):
    """A copy of a block with some fields of a structure at its beginning set, and its crc."""
    block = bytearray(block)
    for field, value in (*values.items(), ("crc", 0)):
        at, size, _ = next(f for f in LAYOUT[name] if f[2] == field)
        block[at:at + size] = value.to_bytes(size, "little")
        if field == "crc":
            block[at:at + size] = crc(0, block).to_bytes(size, "little")
    return bytes(block)


class Piece:
    def __init__(self, store, file, record):
        self.file, self.first, self.end = file, record.first, record.end
        self.base, self.count, self.segment = record.base, record.count, record.segment
        self.present = None  # all
        store.segments.setdefault(record.segment, []).append(self)

    def place(self, slot):
        """The file's slot, or None."""
        if not self.first <= slot < self.end:
            return None
        if self.present is None:
            return self.base + slot - self.first
        rank = self.present.get(slot - self.first)
        return None if rank is None else self.base + rank


class Store:
    """What the last checkpoint says."""

    def __init__(self, path):
        self.path = path
        self.segments, self.maps, self.forms = {}, {}, {DENSE: 0, SPARSE: 0, DELTA: 0}
        self.vms, self.versions, self.removed = {}, {}, {}  # by name, id, id
        self.disks = {}  # by name: vm/disk, vm/disk@version
        self.referred = {}  # file -> slots that tables refer to
        self.maybe = {}  # the same, of pages of removed versions: they live or not
        self.nodes, self.places = {}, {}  # by address: nodes; where in a family something stands
        self.read_super()
        self.read_checkpoint()
        at = self.read_catalogue()
        need(not any(self.body[at:self.head.catalogue_bytes]), "the catalogue ends in zeros")
        self.read_map()

    def read(self, number, offset, size):
        with open(self.path / "log" / f"{number:08x}", "rb") as file:
            file.seek(offset)
            return file.read(size)

    def read_super(self):
        block = (self.path / "varve.store").read_bytes()
        need(len(block) == BLOCK, "varve.store is one block")
        self.super = check_crc("super_block", block)
        need(self.super.magic == b"VARVE\0ST" and self.super.version == 1, "super block")
        need(self.super.compat == self.super.incompat == self.super.log == 0, "super block: flags")
        need((self.super.file_bytes, self.super.page_bytes) == (FILE_BYTES, PAGE), "super: sizes")
        need(self.super.capacity_bytes == 768 * MIB, "super block: capacity")

    def read_checkpoint(self):
        heads = []
        for i in range(2):
            data = (self.path / f"checkpoint.{i}").read_bytes()
            if data[:8] == b"VARVE\0CP":
                head = check_crc("checkpoint_header", data[:BLOCK])
                need(head.seq % 2 == i and head.uuid == self.super.uuid, "checkpoint: seq, uuid")
                heads.append((head.seq, head, data[BLOCK:BLOCK + head.body_bytes]))
        self.head, self.body = max(heads)[1:]
        need(self.head.body_bytes == self.head.catalogue_bytes + self.head.map_bytes, "checkpoint: bytes")
        need(crc(0, self.body) == self.head.body_crc, "checkpoint: body_crc")
        need(self.head.version == 1 and not self.head.compat, "checkpoint: version")
        need(self.head.incompat == (CHECKPOINT_VERSIONS if self.head.seq > 1 else 0), "checkpoint: incompat")

    def name(self, at, length):
        return self.body[at:at + length].decode(), at + padded(length, 8)

    def read_disk(self, at):
        disk = Record("catalogue_disk", self.body, at)
        descent = Record("catalogue_descent", self.body, at + 40)
        disk.raw = self.body[at:at + 40] + self.body[at + 64:at + 64 + padded(disk.name_len, 8)]
        disk.name, at = self.name(at + 64, disk.name_len)
        disk.family, disk.young_pages = descent.family, descent.young_pages
        disk.release = descent.at, descent.rise
        disk.tree = None
        need(0 < disk.family <= disk.id < self.head.next_id, "a disk's id, family")
        need(disk.young_pages <= disk.used_pages, "young pages")
        return disk, at

    def read_disks(self, owner, n, at):
        owner.disks = {}
        for _ in range(n):
            disk, at = self.read_disk(at)
            owner.disks[disk.name] = disk
        need(len({d.family for d in owner.disks.values()}) == len(owner.disks) == n, "one disk of a family")
        return at

    def read_vm(self, at):
        vm = Record("catalogue_vm", self.body, at)
        vm.raw = self.body[at:at + 24 + padded(vm.name_len, 8)]
        vm.name, at = self.name(at + 24, vm.name_len)
        vm.versions = {}
        need(self.super.created_us < vm.created_us < self.head.time_us and vm.role == 2,
             f"{vm.name}: created, role")
        self.vms[vm.name] = vm
        at = self.read_disks(vm, vm.n_disks, at)
        self.disks.update({f"{vm.name}/{name}": disk for name, disk in vm.disks.items()})
        return at

    def read_version(self, vms, at):
        v = Record("catalogue_version", self.body, at)
        v.name, at = self.name(at + 64, v.name_len)
        v.note, at = self.name(at, v.note_len)
        at = self.read_disks(v, v.n_disks, at)
        need(v.id < self.head.next_id and v.id not in self.versions, "a version's id")
        need(v.epoch <= self.epoch and not v.flags & ~6, "a version's epoch, flags")
        self.versions[v.id] = v
        if not v.vm:
            need(not v.name, "a removed version has no name")
            self.removed[v.id] = v
            return at
        need(not self.removed and any(v.guid), "removed versions are the last; guid")
        vm = vms[v.vm]
        need(v.name and all(v.id > other.id for other in vm.versions.values()), "versions by age")
        vm.versions[v.name] = v
        self.disks.update({f"{vm.name}/{name}@{v.name}": disk for name, disk in v.disks.items()})
        return at

    def read_catalogue(self):
        if not self.head.incompat:
            need(not any(self.body[:8]), "the first checkpoint has no vms")
            self.epoch = self.head.batch_seq + (1 << 40)
            return 8
        head, at = Record("catalogue_header", self.body), 16
        self.epoch = head.epoch
        for _ in range(head.n_vms):
            at = self.read_vm(at)
        need(list(self.vms) == sorted(self.vms), "vms by name")
        by_id = {vm.id: vm for vm in self.vms.values()}
        order = []
        for _ in range(head.n_versions):
            at = self.read_version(by_id, at)
            order.append(list(self.versions.values())[-1].vm)
        named = [vm for vm in order if vm]
        need(named == sorted(named, key=lambda vm: list(by_id).index(vm)), "versions by vm")
        for one in [*self.vms.values(), *self.versions.values()]:
            need(not one.parent or one.parent in self.versions, "a parent")
        return at

    def read_map(self):
        at = self.head.catalogue_bytes
        for _ in range(self.head.n_files):
            m = Record("map_file", self.body, at)
            at += 32
            m.pieces = []
            for _ in range(m.n_pieces):
                m.pieces.append(Piece(self, m, Record("map_piece", self.body, at)))
                at += 24
            words = (m.used_slots + 63) // 64
            m.live = int.from_bytes(self.body[at:at + 8 * words], "little")
            at += 8 * words
            self.maps[m.file] = m
            self.check_file(m)
        need(0 not in self.segments and max(self.segments, default=0) < self.head.next_segment, "next_segment")
        need(at == len(self.body), f"the map ends at {at}, the body at {len(self.body)}")

    def check_file(self, m):
        header = check_crc("file_header", self.read(m.file, 0, BLOCK))
        need(header.magic == 0x46565256 and header.uuid == self.super.uuid, "file header")
        need((header.file, header.kind, header.shift) == (m.file, m.kind, m.shift), "file header, map")
        need(header.fill < self.head.next_fill and header.incarnation <= self.head.incarnation, "fill")
        need(header.flags == (1 if m.kind == TABLE else 0), "a file's flags")
        need(m.shift == (12 if m.kind == DATA else 6 if m.kind == TABLE else m.shift), "shift")
        if m.kind == PACKED:
            self.read_footer(m)
            return
        size = 8192 if m.kind == DATA else 65536
        need([(p.segment, p.first, p.end, p.base, p.count) for p in m.pieces] ==
             [(header.first_segment + i, 0, size, i * size, size)
              for i in range(1 if m.kind == DATA else 8)], "pieces of a fresh file")

    def read_footer(self, m):
        footer = self.read(m.file, m.footer_block * BLOCK, m.footer_bytes)
        need(crc(0, footer) == m.footer_crc, "footer")
        at = 0
        for piece in m.pieces:
            p = Record("map_piece", footer, at)
            at += 24
            need((p.segment, p.first, p.end, p.count) ==
                 (piece.segment, piece.first, piece.end, piece.count), "footer and map")
            words = (p.end - p.first + 63) // 64
            if p.count == p.end - p.first:
                continue
            if 2 * p.count < 8 * words:
                slots = [int.from_bytes(footer[at + 2 * i:at + 2 * i + 2], "little")
                         for i in range(p.count)]
                at += padded(2 * p.count, 8)
            else:
                bits = int.from_bytes(footer[at:at + 8 * words], "little")
                slots = [i for i in range(p.end - p.first) if bits >> i & 1]
                at += 8 * words
            need(len(slots) == p.count and slots == sorted(set(slots)), "footer: slots")
            piece.present = {slot: rank for rank, slot in enumerate(slots)}
        sums = [Record("moved_sum", footer, i) for i in range(at, m.footer_bytes, 12)]
        need(sums[0].slot == 0 and sums[0].count in (1, 2), "how often the footer is there")
        size = padded(m.footer_bytes, BLOCK)
        both = self.read(m.file, m.footer_block * BLOCK, sums[0].count * size)
        need(both == (footer + bytes(size - len(footer))) * sums[0].count, "the footer's copy, its zeros")
        self.check_moved(m, sums[1:])

    def check_moved(self, m, sums):
        need(m.shift == 12 or not sums, "sums of moved pages are of pages")
        for i, s in enumerate(sums):
            need(s.slot and s.count and (i == 0 or s.slot >= sums[i - 1].slot + sums[i - 1].count),
                 "moved pages, in rising order")
            if i < 20:  # this one's crc is slow
                need(crc(0, self.read(m.file, s.slot * PAGE, s.count * PAGE)) == s.crc, "moved pages")
        covered = {slot for s in sums for slot in range(s.slot, s.slot + s.count)}
        need(m.shift != 12 or all(slot in covered for p in m.pieces
                                  for slot in range(p.base, p.base + p.count)), "all that was moved")

    def find(self, address):
        """(file, its slot), or None."""
        need(address >> 48 == self.super.log, "the log of an address")
        for piece in self.segments.get(address >> 16 & 0xFFFFFFFF, ()):
            slot = piece.place(address & 0xFFFF)
            if slot is not None:
                return piece.file, slot
        return None

    def locate(self, address, n_slots, place):
        """(file, offset), and note that the slots are referred to. place: in a family, the only one."""
        found = self.find(address)
        need(found, f"address {address:#x} leads nowhere")
        m, slot = found
        need(self.places.setdefault(address, place) == place, "an address stands at one place")
        referred = self.referred.setdefault(m.file, {})
        for s in range(slot, slot + n_slots):
            need(referred.setdefault(s, address) == address, "a slot belongs to two things")
        return m, slot << m.shift

    def read_form(self, entry, family, level, index, bases=()):
        """(entries, born, forms), where forms is {address: born} of it and its base."""
        place = family, level, index
        slots = entry.flags >> 8 & 0xFFFF
        m, offset = self.locate(entry.address, slots, place)
        if entry.address in self.nodes:
            return self.nodes[entry.address]
        data = self.read(m.file, offset, slots * 64)
        need(m.shift == 6 and sum_at(entry.address, data) == entry.sum, "a node's sum")
        h = Record("node_header", data)
        need((crc(0, data[:12] + bytes(4) + data[16:]) or 1) == h.crc, "a node's crc")
        need((h.magic, h.level, h.family, h.index) == (0x4E56, level, family, index), "node header")
        need(0 < h.born <= self.epoch, "a node is born in an epoch")
        self.forms[h.form] += 1
        forms = {entry.address: h.born}
        if h.form == DENSE:
            need(h.n == ENTRIES, "a dense node has 512 entries")
            entries = {i: Record("entry", data, 64 + 16 * i) for i in range(ENTRIES)}
        else:
            entries = self.read_listed(h, data, place, forms)
        self.nodes[entry.address] = entries, forms
        return entries, forms

    def read_listed(self, h, data, place, forms):
        entries = {}
        if h.form == DELTA:
            below, more = self.read_form(Record("entry", h.base), *place)
            need(len(more) == 1, "the base of a delta is no delta")
            forms.update(more)
            entries.update(below)
        base = 64 + padded(2 * h.n, 16)
        last = -1
        for i in range(h.n):
            at = int.from_bytes(data[64 + 2 * i:66 + 2 * i], "little")
            need(last < at < ENTRIES, "indexes rise")
            entries[at], last = Record("entry", data, base + 16 * i), at
        return entries

    def is_passed(self, disk, level, index):
        at, rise = disk.release
        end = (index + 1) << 9 * (level + 1)
        return end < at or end == at and (not rise or level < rise)

    def walk(self, disk, removed=False):
        """{page: its entry}, {address of a form: born} of all that a disk's table refers to."""
        pages, forms = {}, {}
        stack = [(Record("entry", disk.root), disk.levels - 1, 0)]
        while stack:
            entry, level, index = stack.pop()
            if entry.flags & 15 == HOLE:
                need(not entry.address and not entry.sum and not entry.flags, "a hole is all zeros")
                continue
            if level < 0:
                pages[index] = entry
                continue
            if removed and self.is_passed(disk, level, index):
                continue
            need(entry.flags & 15 == NODE, "what points at a node")
            entries, more = self.read_form(entry, disk.family, level, index)
            forms.update(more)
            stack += [(e, level - 1, index * ENTRIES + i) for i, e in entries.items()]
        return pages, forms

    def tree(self, disk, removed=False):
        if not disk.tree:
            disk.tree = self.walk(disk, removed)
        return disk.tree

    def pages(self, disk):
        """Yields (page, its bytes)."""
        for at, e in sorted(self.tree(disk)[0].items()):
            if e.flags & 15 == ZERO:
                need(not e.address and not e.sum, "a zero")
                yield at, bytes(PAGE)
                continue
            m, offset = self.locate(e.address, 1, (disk.family, -1, at))
            page = self.read(m.file, offset, PAGE)
            need(e.flags & 15 == RAW and m.shift == 12, "a page's encoding")
            need(sum_at(e.address, page) == e.sum, "a page's sum")
            yield at, page

    def walk_removed(self):
        """Their nodes live, but for what was passed; their pages may."""
        for version in self.removed.values():
            for disk in version.disks.values():
                for e in self.tree(disk, True)[0].values():
                    found = self.find(e.address) if e.flags & 15 == RAW else None
                    if found:
                        self.maybe.setdefault(found[0].file, set()).add(found[1])

    def check_live(self):
        """After all disks were read."""
        self.walk_removed()
        for m in self.maps.values():
            live = {i for i, bit in enumerate(reversed(bin(m.live)[2:])) if bit == "1"}
            referred = self.referred.get(m.file, {}).keys()
            need(referred <= live <= referred | self.maybe.get(m.file, set()), f"live bits of file {m.file:08x}")

    def relative(self, version_id, disk):
        """The disk of a version that is of the same family, or None."""
        version = self.versions.get(version_id)
        found = [d for d in version.disks.values() if d.family == disk.family] if version else []
        return (version, found[0]) if found else (version, None)

    def holder(self, owner, disk, level, index):
        """Who counts as the parent at a place: (version, what its disk there has) or None. Page: level -1."""
        parent, before = self.relative(owner.parent, disk)
        if before and not parent.vm and self.is_passed(before, level, index):
            parent, before = self.relative(parent.parent, disk)
        return (parent, self.tree(before, not parent.vm)) if before else None

    def check_age(self, owner):
        """Of a vm's or version's disks: what is older than the parent is the parent's too, and the other
        way round. Returns how many pages and nodes are shared so."""
        shared = [0, 0]
        for disk in owner.disks.values():
            pages, forms = self.tree(disk)
            for at, e in pages.items():
                held = self.holder(owner, disk, -1, at) if e.flags & 15 == RAW else None
                theirs = held and held[1][0].get(at)
                same = bool(theirs and theirs.address == e.address)
                need(not held or (e.address < held[0].cut) == same, f"page {at}: its age")
                shared[0] += same
            for address, born in forms.items():
                held = self.holder(owner, disk, *self.places[address][1:])
                need(not held or (born <= held[0].epoch) == (address in held[1][1]), "the age of a node")
                shared[1] += bool(held and born <= held[0].epoch)
            parent, before = self.relative(owner.parent, disk)
            need(not before or before.release != (0, 0) or disk.young_pages >=
                 sum(e.flags & 15 == RAW and e.address >= parent.cut for e in pages.values()), "young pages")
        return shared

    def check_ages(self):
        shared = [0, 0]
        for vm in self.vms.values():
            for v in vm.versions.values():
                for disk in v.disks.values():
                    pages, forms = self.tree(disk)
                    need(all(e.address < v.cut for e in pages.values()), f"{v.name}: pages below its cut")
                    need(all(born <= v.epoch for born in forms.values()), f"{v.name}: nodes up to its epoch")
            for owner in [vm, *vm.versions.values()]:
                shared = [a + b for a, b in zip(shared, self.check_age(owner))]
        return shared


def read_batches(store):
    """The batches after the checkpoint: yields (header, block, slot of its first page, its file)."""
    file, slot = store.head.position_file, store.head.position_slot
    segment, seq, next_file = store.head.position_segment, store.head.batch_seq, NO_FILE
    while file != NO_FILE:
        block = store.read(file, slot * BLOCK, BLOCK)
        h = Record("batch_header", block) if len(block) == BLOCK else None
        if h is None or (h.magic, h.seq) != (0x42565256, seq + 1):
            file, slot, segment, next_file = next_file, 1, None, NO_FILE
            continue
        seed = crc(0, store.super.uuid) ^ h.incarnation & 0xFFFFFFFF ^ h.segment << 16 & 0xFFFFFFFF
        check_crc("batch_header", block, seed)
        need(h.incarnation == store.head.incarnation and h.slot == slot, "batch header")
        need(segment in (None, h.segment) and h.synced_seq < h.seq, "batch header: segment, synced")
        yield h, block, slot + 1, file
        slot, segment, seq, next_file = slot + 1 + h.n_pages, h.segment, h.seq, h.next_file


def read_records(store):
    """What they say, in order: yields (disk id, page, bytes or None), or a change."""
    for h, block, page_slot, file in read_batches(store):
        at, end, first = 64, 64 + h.records_bytes, page_slot
        while at < end:
            r = Record("record", block, at)
            at += 16
            if r.kind == 4:
                yield parse_change(block[at:at + r.count],
                                   store.super.log << 48 | h.segment << 16 | page_slot)
                at += padded(r.count, 8)
            for i in range(r.count if r.kind < 4 else 0):
                data = None if r.kind == 2 else bytes(PAGE)
                if r.kind == 1:
                    data = store.read(file, page_slot * BLOCK, PAGE)
                    total = int.from_bytes(block[at + 4 * i:at + 4 * i + 4], "little")
                    address = store.super.log << 48 | h.segment << 16 | page_slot
                    need(sum_at(address, data) == total, "a sum in a record")
                    page_slot += 1
                yield r.disk, r.page + i, data
            if r.kind == 1:
                at += padded(4 * r.count, 8)
        need(page_slot == first + h.n_pages and not any(block[end:]), "a batch's records")


def read_tail(store):
    """{(disk id, page): bytes or None}, the changes, and how many batches."""
    pages, changes = {}, []
    for what in read_records(store):
        if isinstance(what, Record):
            changes.append(what)
        else:
            pages[what[:2]] = what[2]
    return pages, changes, sum(1 for _ in read_batches(store))


SNAP, REMOVE_VERSIONS, HOLD, RENAME_VERSION, ROLL_BACK, CLONE, ADOPT = range(8, 15)


def parse_change(data, cut):
    c = Record("change_record", data)
    names, at = [], 32
    for length in (c.vm_len, c.disk_len, c.new_len):
        names.append(data[at:at + length].decode())
        at += length
    c.vm, c.name, c.new = names
    c.cut, c.ids = cut, []
    if c.kind in (SNAP, ROLL_BACK):
        snap = Record("snap_record", data, at)
        c.guid, c.consistency = snap.guid, snap.consistency
        c.note = data[at + 24:at + 24 + snap.note_len].decode()
        at += 24 + snap.note_len
    while c.kind == REMOVE_VERSIONS and at < len(data):
        c.ids.append(int.from_bytes(data[at:at + 4], "little"))
        at += 4
    need(at == len(data), "a change's length")
    return c
