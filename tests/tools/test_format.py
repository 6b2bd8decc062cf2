# SPDX-License-Identifier: MIT
"""The .folio writer against its reader, its promise to leave nothing behind, and damaged files."""
import struct

import numpy as np
import pytest
import xxhash

from folio import ConvertError, format

META = {"arch": "decoder", "dim": 64, "norm.eps": 1e-5, "empty": [], "ints": [1, -2, 2**62], "reals": [0.5, 1.0, 2],
        "texts": ["a", "ü\n", ""], "text": "дом", "flag": True, "minus": -1}


def entries():
    return [format.Entry("a", "f32", (3, 2)), format.Entry("b.weight", "q8_0", (2, 64)), format.Entry("c", "u8", (5,)),
            format.Entry("d", "i32", (1, 2, 3, 1))]


def data(entry):
    yield np.arange(entry.bytes // 2, dtype=np.uint8)
    yield bytes(entry.bytes - entry.bytes // 2)


def write(path, metadata=META, chunks=data):
    return format.write(path, metadata, entries(), chunks)


def test_round_trip(tmp_path):
    path = tmp_path / "x.folio"
    assert write(path) == path.stat().st_size
    folio = format.read(path)
    assert folio.metadata == META and list(folio.metadata) == list(META)
    assert [(e.name, e.format, e.shape) for e in folio.tensors.values()] == [(e.name, e.format, e.shape) for e in entries()]
    for e in folio.tensors.values():
        assert e.offset % 256 == 0
        assert folio.raw(e.name).tobytes() == b"".join(bytes(c) for c in data(e))
    assert folio.verify() == [] and folio.array("d").shape == (1, 2, 3, 1)


def test_head_as_described(tmp_path):
    path = tmp_path / "x.folio"
    write(path)
    raw = path.read_bytes()
    magic, version, zero, index, total, digest = struct.unpack("<8sIIQQQ", raw[:40])
    assert (magic, version, zero, total) == (b"FOLIO\r\n\x1a", 1, 0, len(raw)) and raw[40:64] == bytes(24)
    assert xxhash.xxh3_64_intdigest(raw[64:64 + index]) == digest
    ends = sorted((e.offset, e.offset + e.bytes) for e in format.read(path).tensors.values())
    covered = [(0, 64 + index), *ends, (len(raw), len(raw))]
    for (_, end), (start, _) in zip(covered, covered[1:]):
        assert end <= start < end + 256 and not any(raw[end:start])


def test_metadata_by_hand():
    index = format.pack_index({"k": [7]}, [])
    assert index == b"\x01\0\0\0" + b"\x01\0k" + b"\x03" + b"\x01\0\0\0" + (7).to_bytes(8, "little") + b"\0\0\0\0"


@pytest.mark.parametrize("error", [ConvertError, KeyboardInterrupt, ValueError])
def test_a_failure_leaves_nothing(tmp_path, error):
    def chunks(entry):
        yield bytes(4)
        raise error("half way")

    with pytest.raises(error):
        write(tmp_path / "x.folio", chunks=chunks)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "x.folio"
    path.write_bytes(b"old")
    with pytest.raises(ConvertError, match="came to 4 bytes, expected 24"):
        write(path, chunks=lambda e: [bytes(4)])
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_the_name_is_taken_at_the_end(tmp_path):
    path = tmp_path / "x.folio"

    def chunks(entry):
        assert not path.exists() and (tmp_path / "x.folio.part").exists()
        yield from data(entry)

    write(path, chunks=chunks)
    assert list(tmp_path.iterdir()) == [path]


def test_damage_is_found(tmp_path):
    path = tmp_path / "x.folio"
    write(path)
    good = path.read_bytes()
    index = struct.unpack("<Q", good[16:24])[0]
    for at, word in ((0, "not a .folio"), (8, "version"), (24, "bytes where"), (32, "hash"), (70, "hash")):
        bad = bytearray(good)
        bad[at] ^= 1
        path.write_bytes(bad)
        with pytest.raises(ConvertError, match=word):
            format.read(path)
    for length in (0, 7, 39, 64 + index - 1, len(good) - 1):
        path.write_bytes(good[:length])
        with pytest.raises(ConvertError):
            format.read(path)
    bad = bytearray(good)
    bad[-1] ^= 1
    path.write_bytes(bad)
    assert format.read(path).verify() == ["d"]


def test_hostile_index(tmp_path):
    """Counts, ranks and sizes that lie, under a hash that is right."""
    path = tmp_path / "x.folio"
    tensor = b"\x01\0t" + b"\x03f32"
    place = lambda shape, offset, size: struct.pack("<BQQQQ", 1, shape, offset, size, 0)
    for index in (b"\xff\xff\xff\xff", b"\0\0\0\0" + b"\xff\xff\xff\x7f", bytes(4) + b"\x01\0\0\0" + tensor + place(2**62, 256, 2**63),
                  bytes(4) + b"\x01\0\0\0" + tensor + place(4, 2**64 - 256, 16), bytes(4) + b"\x01\0\0\0" + tensor + place(4, 257, 16),
                  b"\x01\0\0\0" + b"\x01\0k" + b"\x05\xff\xff\xff\xff" + bytes(4)):
        body = index.ljust(512, b"\0")
        head = b"FOLIO\r\n\x1a" + struct.pack("<IIQQQ", 1, 0, len(index), 64 + len(body), xxhash.xxh3_64_intdigest(index)) + bytes(24)
        path.write_bytes(head + body)
        with pytest.raises(ConvertError):
            format.read(path)
