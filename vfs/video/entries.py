"""What a sample description of MP4 or QuickTime says: codec, size, depth, colour (ISO/IEC 14496-12, 8.5.2 and 12.1).

Called by mp4.py. A clean aperture (`clap`) and the shape of a pixel (`pasp`) are not followed: frames are given in the
size they are coded in, and pixels are taken for squares. Pure: any thread may call it; what does not fit is a
ValueError, struct.error or IndexError.
"""

import struct
from dataclasses import dataclass, replace

from vfs.video import configurations
from vfs.video.boxes import boxes, child, need
from vfs.video.table import Samples, check_size

_CODECS = {
    b"avc1": "h264", b"avc3": "h264", b"dva1": "h264", b"dvav": "h264",
    b"hvc1": "hevc", b"hev1": "hevc", b"dvh1": "hevc", b"dvhe": "hevc",
    b"vp08": "vp8", b"vp09": "vp9", b"av01": "libdav1d",
    b"jpeg": "mjpeg", b"mjpa": "mjpeg", b"mjpg": "mjpeg", b"s263": "h263", b"H263": "h263",
    b"apcn": "prores", b"apch": "prores", b"apcs": "prores", b"apco": "prores", b"ap4h": "prores", b"ap4x": "prores",
}  # fmt: skip
# ISO/IEC 14496-1, table 5 (objectTypeIndication).
_OBJECT_TYPES = {0x20: "mpeg4", 0x6A: "mpeg1video", 0x6C: "mjpeg"} | dict.fromkeys(range(0x60, 0x66), "mpeg2video")
_CONFIGURATIONS = {b"avcC", b"hvcC", b"av1C"}

_STILLS = {b"jpeg", b"mjpg", b"png ", b"tiff", b"gif ", b"BMP "}

_FIELDS_BYTES = 78  # of a VisualSampleEntry, before the boxes within


@dataclass(frozen=True)
class Description:
    """One sample description, as far as a decoder needs it."""

    codec: str
    width: int
    height: int
    extradata: bytes | None
    samples: Samples


def is_still(stbl: memoryview) -> bool:
    """Whether the track's pictures are of a kind that covers and posters are made of."""
    stsd = child(stbl, b"stsd")
    kind = next((kind for kind, _ in boxes(stsd[8:])), b"") if stsd else b""
    return kind in _STILLS


def describe(stbl: memoryview, used: frozenset[int]) -> Description:
    """The sample description that all packets have; `used` are numbers, from 1. Raises ValueError where those differ
    by more than their number: a decoder is opened once for all packets."""
    entries = list(boxes(need(stbl, b"stsd")[8:]))
    if not used or not 1 <= min(used) <= max(used) <= len(entries):
        raise ValueError("its sample descriptions are missing")
    first, *others = (_description(*entries[number - 1]) for number in sorted(used))
    if any(other != first for other in others):
        raise ValueError("it changes its codec's description midway, which is not supported")
    return first


def _description(fourcc: bytes, entry: memoryview) -> Description:
    if fourcc in (b"encv", b"drmi"):
        raise ValueError("it is encrypted")
    if len(entry) < _FIELDS_BYTES:
        raise ValueError("its sample description is cut off")
    width, height = check_size(*struct.unpack_from(">HH", entry, 24))
    extensions = entry[_FIELDS_BYTES:]
    if fourcc == b"mp4v":
        codec, extradata = _elementary(need(extensions, b"esds"))
    elif fourcc in _CODECS:
        found = (content for kind, content in boxes(extensions) if kind in _CONFIGURATIONS)
        configuration = next(found, None)
        codec, extradata = _CODECS[fourcc], None if configuration is None else bytes(configuration)
    else:
        raise ValueError(f"its codec {fourcc.decode('latin-1')!r} is not supported")
    return Description(codec, width, height, extradata, _samples(codec, extradata, extensions))


def _samples(codec: str, extradata: bytes | None, extensions: memoryview) -> Samples:
    """Depth from the codec's configuration; colour from `colr` (12.1.5; QuickTime's kind has no range), else vpcC."""
    samples = configurations.of_record(codec, extradata)
    tags = [content for kind, content in boxes(extensions) if kind == b"colr"]
    vpcc = child(extensions, b"vpcC") if codec in ("vp8", "vp9") else None
    if vpcc is not None and len(vpcc) > 9:  # version, flags, profile, level, depth with chroma and range, 3 colours
        depth = vpcc[6] >> 4 if vpcc[6] >> 4 in (8, 10, 12) else samples.depth
        samples = replace(samples, depth=depth, colorspace=vpcc[9], color_range=1 + (vpcc[6] & 1))
    for tag in tags:
        kind = bytes(tag[:4])
        if kind in (b"nclx", b"nclc"):
            (matrix,) = struct.unpack_from(">H", tag, 8)
            known = 0 if kind == b"nclc" else 1 + (tag[10] >> 7)
            return replace(samples, colorspace=matrix, color_range=known)
    return samples


def _elementary(esds: memoryview) -> tuple[str, bytes | None]:
    """(codec, extradata) of an esds box: descriptors within descriptors (ISO/IEC 14496-1, 7.2.6)."""
    view, codec = esds[4:], ""
    while len(view) >= 2:
        tag, content, following = _descriptor(view)
        if tag == 3:  # ES_Descriptor: id, flags, and what the flags say
            flags = content[2]
            skip = 3 + 2 * bool(flags & 0x80) + 2 * bool(flags & 0x20)
            view = content[skip + (1 + content[3] if flags & 0x40 else 0) :]
        elif tag == 4:  # DecoderConfigDescriptor
            if content[0] not in _OBJECT_TYPES:
                raise ValueError(f"its MPEG-4 object type {content[0]:#x} is not supported")
            codec = _OBJECT_TYPES[content[0]]
            view = content[13:]
        elif tag == 5:  # DecoderSpecificInfo
            return codec or "mpeg4", bytes(content)
        else:
            view = following
    if not codec:
        raise ValueError("its elementary stream descriptor names no codec")
    return codec, None


def _descriptor(view: memoryview) -> tuple[int, memoryview, memoryview]:
    """(tag, content, what follows); the length is 7 bits a byte, at most 4 bytes."""
    length, at = 0, 1
    for _ in range(4):
        byte = view[at]
        at += 1
        length = length << 7 | byte & 0x7F
        if not byte & 0x80:
            break
    return view[0], view[at : at + length], view[at + length :]
