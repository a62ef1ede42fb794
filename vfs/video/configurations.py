"""How deep a codec's samples are and whether there is colour, from its configuration record or its first packet.

Called by the parsers of containers and by index.py, because the size of an array follows from this before anything is
decoded. Knows the records avcC (ISO/IEC 14496-15, 5.3.3), hvcC (8.3.3), av1C (AV1 in ISOBMFF, 2.3.3) and vpcC (VP
Codec ISO Media File Format Binding), and as much of the bitstreams as says the same. It knows no container. What is
cut off is a ValueError, IndexError or struct.error. Pure: any thread may call it.
"""

from vfs.video.table import UNKNOWN_DEPTH, Samples

# H.264, 7.3.2.1.1: the profiles whose parameter sets say their chroma format and depth; all others are 4:2:0 of 8 bits.
_HIGH_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}

# A decoder that is not told the ProRes profile gives 10 bits, whatever the encoder was fed with.
_FIXED_DEPTHS = {
    "vp8": 8, "mpeg4": 8, "mpeg1video": 8, "mpeg2video": 8, "h263": 8, "prores": 10,
}  # fmt: skip

_MAX_DEPTH = 16

PACKET_BYTES = 16 << 10
"""Of the first packet that `of_packet` wants to see: parameter sets and JPEG tables stand in front."""


def of_record(codec: str, record: bytes | None) -> Samples:
    """Depth and colour that the configuration says; the depth is UNKNOWN_DEPTH where only a packet can tell."""
    if codec in _FIXED_DEPTHS:
        return Samples(_FIXED_DEPTHS[codec])
    if codec == "h264" and record and record[0] == 1:
        return _avcc(record)
    if codec == "hevc" and record and len(record) > 21 and record[0] == 1:
        return _samples(8 + (record[17] & 7), record[16] & 3 == 0)
    if codec == "libdav1d" and record and len(record) >= 4 and record[0] == 0x81:
        high, twelve, monochrome = record[2] & 0x40, record[2] & 0x20, record[2] & 0x10
        return _samples((12 if twelve else 10) if high else 8, bool(monochrome))
    return Samples(UNKNOWN_DEPTH)


def of_packet(codec: str, record: bytes | None, packet: bytes) -> Samples:
    """The same, of a video whose record does not say it; `packet` is the first bytes of its first packet."""
    if codec == "vp9":
        return _vp9(packet)
    if codec == "mjpeg":
        return _jpeg(packet)
    if codec == "h264" and record and len(record) > 4 and record[0] == 1:
        found = _in_band(packet, (record[4] & 3) + 1)
        if found is not None:
            return found
    return Samples()


def _samples(depth: int, monochrome: bool) -> Samples:
    if not 1 <= depth <= _MAX_DEPTH:
        raise ValueError(f"samples of {depth} bits are none")
    return Samples(depth, monochrome)


def _avcc(record: bytes) -> Samples:
    """From the first parameter set, which is what the decoder goes by, else from the record's own last fields."""
    position, sets = 6, record[5] & 31
    for _ in range(sets):
        length = int.from_bytes(record[position : position + 2], "big")
        if length:
            return _sequence(record[position + 2 : position + 2 + length])
        position += 2
    if record[1] not in _HIGH_PROFILES:
        return Samples()
    count, position = record[position], position + 1
    for _ in range(count):
        position += 2 + int.from_bytes(record[position : position + 2], "big")
    if len(record) < position + 3:
        return Samples(UNKNOWN_DEPTH)
    return _samples(8 + (record[position + 1] & 7), record[position] & 3 == 0)


def _sequence(sps: bytes) -> Samples:
    """From an H.264 sequence parameter set (7.3.2.1.1), NAL unit header included."""
    if sps[1] not in _HIGH_PROFILES:
        return Samples()
    bits = _Bits(sps[4:64].replace(b"\0\0\3", b"\0\0"))
    bits.golomb()  # its number
    chroma = bits.golomb()
    if chroma == 3:
        bits.take(1)  # planes coded apart
    return _samples(8 + bits.golomb(), chroma == 0)


def _in_band(packet: bytes, length_bytes: int) -> Samples | None:
    """From the parameter set among a packet's NAL units, each with its length in front."""
    position = 0
    while position + length_bytes < len(packet):
        length = int.from_bytes(packet[position : position + length_bytes], "big")
        position += length_bytes
        if packet[position] & 31 == 7:
            return _sequence(packet[position : position + length])
        position += length
    return None


def _vp9(packet: bytes) -> Samples:
    """From the uncompressed header of a keyframe (VP9 bitstream specification, 6.2)."""
    bits = _Bits(packet[:8])
    if bits.take(2) != 2:
        raise ValueError("its first packet is no VP9 frame")
    profile = bits.take(1) | bits.take(1) << 1
    if profile < 2:
        return Samples()
    if profile == 3:
        bits.take(1)
    if bits.take(1) or bits.take(1):  # shows another frame again, or is no keyframe
        raise ValueError("its first picture is no keyframe")
    bits.take(2)
    if bits.take(24) != 0x498342:
        raise ValueError("its first packet is no VP9 keyframe")
    return Samples(12 if bits.take(1) else 10)


def _jpeg(packet: bytes) -> Samples:
    """From the frame header (ITU-T T.81, B.2.2): depth, and one component where there is no colour."""
    position = 2
    while position + 10 <= len(packet) and packet[position] == 0xFF:
        marker = packet[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return _samples(packet[position + 4], packet[position + 9] == 1)
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        position += 2 + int.from_bytes(packet[position + 2 : position + 4], "big")
    return Samples()


class _Bits:
    """Bits from the first byte's highest on."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        """The next bits as a number."""
        self._left -= count
        if self._left < 0:
            raise ValueError("its codec's parameters are cut off")
        return self._value >> self._left & ((1 << count) - 1)

    def golomb(self) -> int:
        """An unsigned Exp-Golomb code (H.264, 9.1)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > 31:
                raise ValueError("its codec's parameters are damaged")
        return (1 << zeros) - 1 + self.take(zeros)
