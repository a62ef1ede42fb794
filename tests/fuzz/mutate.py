"""Damage: other bytes made of those of a corpus, of a kind that parsers stumble over. Deterministic for a seed.

Each mutator takes a random generator, the input, and the corpus (for splices). It knows formats only as far as to hit
what matters in them: where lengths and counts stand, what a checksum is over.
"""

import random
import re
import struct
from collections.abc import Callable, Sequence

Mutator = Callable[[random.Random, bytes, Sequence[bytes]], bytes]

_MOST_BYTES = 1 << 20
_EDGES = (0, 1, 2, 3, 7, 8, 15, 16, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000)
_EDGES += (0xFFFFFFF0, 0xFFFFFFFF, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_NASTY = (
    b"", b"0", b"-1", b"-0", b"1e999", b"NaN", b"Infinity", b"-Infinity", b"true", b"null", b"1.5", b"9" * 25,
    b"9" * 5000, b"0x10", b"1_000", "٣".encode(), b"..", b"../..", b"/", b"//", b"/etc/passwd", b".", b"\0",
    b"\xff", b"\xed\xa0\x80", "\u202e".encode(), b"a" * 256, b"a" * 5000, b"\r", b"\n", b"\r\n", b'"', b"'", b'""',
    b"\\", b"\\u0000", b"\\ud800", b"%00", b"%2f", b"%2e%2e", b"%", b"&#0;", b"&#x110000;", b"&amp;", b"<", b"<!",
    b"<![", b"<![CDATA[", b"<!DOCTYPE a [<!ENTITY b \"c\">]>", b"<?", b"<!--", b"]]>", b"[" * 3000, b'{"a":' * 3000,
    b"(" * 50, b",", b"," * 3000, b"\t", b"=", b"[]", b"{}", b"[[]]", b'"a"',
    b"0001-01-01T00:00:00+23:59", b"9999-12-31T23:59:59Z",
    b"\xef\xbb\xbf", b"s3://", b"file:///etc/passwd", b"http://[", b"http://a:99999/", b"//b/c", b"?", b"#", b"\x1b[2J",
)  # fmt: skip


def plain(draw: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """Bits, bytes, numbers, pieces: of any format."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        draw.choice(_PLAIN)(draw, out, corpus)
    return bytes(out[:_MOST_BYTES])


def _flip(draw: random.Random, out: bytearray, corpus: Sequence[bytes]) -> None:
    if out:
        out[draw.randrange(len(out))] ^= 1 << draw.randrange(8)


def _byte(draw: random.Random, out: bytearray, corpus: Sequence[bytes]) -> None:
    if out:
        out[draw.randrange(len(out))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))


def _number(draw: random.Random, out: bytearray, corpus: Sequence[bytes]) -> None:
    """An edge, or a little more or less than what stands there."""
    width = draw.choice((1, 2, 4, 4, 8))
    if len(out) < width:
        return
    at, order = draw.randrange(len(out) - width + 1), draw.choice(("big", "little"))
    there = int.from_bytes(out[at : at + width], order)
    value = draw.choice(_EDGES) if draw.random() < 0.7 else there + draw.randrange(-16, 17)
    out[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, order)


def _cut(draw: random.Random, out: bytearray, corpus: Sequence[bytes]) -> None:
    if out:
        first = draw.randrange(len(out))
        del out[first : first + draw.choice((1, 4, 16, draw.randrange(1, len(out) + 1)))]


def _end(draw: random.Random, out: bytearray, corpus: Sequence[bytes]) -> None:
    if out:
        del out[draw.randrange(len(out)) :]


def _again(draw: random.Random, out: bytearray, corpus: Sequence[bytes]) -> None:
    if out:
        first = draw.randrange(len(out))
        piece = out[first : first + draw.choice((1, 8, 64, draw.randrange(1, len(out) + 1)))]
        at = draw.randrange(len(out))
        out[at:at] = piece * draw.choice((1, 1, 2, 50))


def _strange(draw: random.Random, out: bytearray, corpus: Sequence[bytes]) -> None:
    at = draw.randrange(len(out) + 1)
    out[at:at] = draw.choice((draw.randbytes(draw.randrange(1, 32)), bytes(draw.randrange(1, 600))))


def _splice(draw: random.Random, out: bytearray, corpus: Sequence[bytes]) -> None:
    other = draw.choice(corpus)
    if other and out:
        first = draw.randrange(len(other))
        at = draw.randrange(len(out))
        length = draw.randrange(1, len(other) + 1)
        out[at : at + draw.choice((0, length))] = other[first : first + length]


_PLAIN = (_flip, _flip, _byte, _number, _number, _number, _cut, _end, _again, _strange, _splice)


def boxes(draw: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """MP4: lengths and the numbers that boxes begin with, whole boxes left out, doubled or called otherwise; else as
    `plain`. Damage in the pictures themselves is rare: they are most of the bytes."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 3))):
        heads = [found.start() - 4 for found in _BOX.finditer(out) if found.start() >= 4]
        if not heads or draw.random() < 0.2:
            return plain(draw, bytes(out), corpus)
        at = draw.choice(heads)
        size = int.from_bytes(out[at : at + 4], "big")
        how = draw.randrange(6)
        if how == 0:
            _put(out, at, draw.choice((*_EDGES[:-4], size + 1, size - 1, 2 * size)), 4)
        elif how <= 2:
            _put(out, at + 8 + 4 * draw.randrange(12), draw.choice((*_EDGES[:-4], draw.getrandbits(32))), 4)
        elif how == 3:
            out[at + 4 : at + 8] = out[(other := draw.choice(heads)) + 4 : other + 8]
        elif how == 4 and 8 <= size <= len(out):
            del out[at : at + size]
        elif 8 <= size <= len(out):
            out[at:at] = out[at : at + size]
    return bytes(out[:_MOST_BYTES])


_BOX = re.compile(
    rb"ftyp|moov|mvhd|trak|tkhd|edts|elst|mdia|mdhd|hdlr|minf|vmhd|dinf|dref|url |stbl|stsd|avc1|hvc1|hev1|vp09|av01|"
    rb"avcC|hvcC|vpcC|av1C|stts|stss|ctts|stsc|stsz|stz2|stco|co64|mvex|mehd|trex|moof|mfhd|traf|tfhd|tfdt|trun|mfra|"
    rb"tfra|mfro|sidx|mdat|free|colr|pasp|tref|chap|sgpd|sbgp|mp4v|esds"
)


def elements(draw: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """EBML: the lengths behind known ids, and what stands behind these; else as `plain`."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 3))):
        heads = [found.end() for found in _ELEMENT.finditer(out)]
        if not heads or draw.random() < 0.2:
            return plain(draw, bytes(out), corpus)
        at = draw.choice(heads)
        how = draw.randrange(4)
        if how == 0 and at < len(out):
            out[at] = draw.choice((0x80, 0x81, 0x88, 0xFF, 0x40, 0x7F, 0x20, 0x10, 0x01, 0x00, 0xFE))
        elif how == 1:
            out[at : at + draw.choice((1, 4, 8))] = draw.choice(
                (b"\x01" + b"\xff" * 7, b"\x01" + bytes(7), b"\x1f" * 4)
            )
        elif how == 2:
            _put(out, at + draw.randrange(1, 9), draw.choice(_EDGES[:-4]), draw.choice((1, 2, 4)))
        else:
            other = draw.choice(heads)
            out[at:at] = out[other - 4 : other + draw.randrange(64)]
    return bytes(out[:_MOST_BYTES])


_ELEMENT = re.compile(
    rb"\x1a\x45\xdf\xa3|\x18\x53\x80\x67|\x11\x4d\x9b\x74|\x4d\xbb|\x53\xab|\x53\xac|\x15\x49\xa9\x66|\x2a\xd7\xb1|"
    rb"\x16\x54\xae\x6b|\xae|\xd7|\x83|\x86|\xe0|\xb0|\xba|\x63\xa2|\x23\xe3\x83|\x1f\x43\xb6\x75|\xe7|\xa3|\xa0|\xa1|"
    rb"\x1c\x53\xbb\x6b|\xbb|\xb3|\xb7|\xf7|\xf1|\x6d\x80|\x62\x40|\x50\x34|\x42\x54|\x76\x70"
)


def words(draw: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """Text: words, numbers and signs replaced, left out, doubled or made strange; else as `plain`."""
    if draw.random() < 0.2:
        return plain(draw, data, corpus)
    parts = re.findall(rb"\w+|\s+|[^\w\s]", data) or [b""]
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        at, how = draw.randrange(len(parts)), draw.randrange(6)
        if how <= 2:
            parts[at] = draw.choice(_NASTY)
        elif how == 3:
            parts.insert(at, draw.choice(_NASTY))
        elif how == 4:
            del parts[at : at + draw.choice((1, 1, 5, 50))]
            parts = parts or [b""]
        else:
            other = draw.choice((parts, re.findall(rb"\w+|\s+|[^\w\s]", draw.choice(corpus)) or [b""]))
            first = draw.randrange(len(other))
            parts[at:at] = other[first : first + draw.choice((1, 5, 50))] * draw.choice((1, 1, 20))
    return b"".join(parts)[:_MOST_BYTES]


def tars(draw: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """Tar: fields of headers, whose checksum is then made right, mostly."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 3))):
        if len(out) < 512 or draw.random() < 0.2:
            out = bytearray(plain(draw, bytes(out), corpus))
            continue
        at = 512 * draw.randrange(len(out) // 512)
        first, length = draw.choice(
            ((0, 100), (100, 8), (124, 12), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8))
        )
        field = draw.choice(
            (b"\xff" * 12, b"\x80" + b"\xff" * 11, b"77777777777\0", b"-1", b" " * 12, b"\x80" + bytes(10) + b"\1")
            if first in (124, 136)
            else (draw.choice(_NASTY), draw.choice(b"0123456789gxLKSDVX\0".split(b"|")), bytes([draw.randrange(256)]))
        )[:length]
        out[at + first : at + first + length] = field.ljust(length, b"\0")
        if first == 156:
            out[at + 156] = draw.choice(b"01234567gxLKSDVXN\0")
    if draw.random() < 0.85:
        for at in range(0, len(out) - 511, 512):
            if out[at + 257 : at + 262] == b"ustar":
                out[at + 148 : at + 156] = b" " * 8
                out[at + 148 : at + 156] = b"%06o\0 " % sum(out[at : at + 512])
    return bytes(out[:_MOST_BYTES])


def _put(out: bytearray, at: int, value: int, width: int) -> None:
    if 0 <= at <= len(out) - width:
        struct.pack_into({1: ">B", 2: ">H", 4: ">I"}[width], out, at, value % (1 << 8 * width))
