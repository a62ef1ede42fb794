"""A frame number drawn into a picture, for people and for programs, so that a wrong frame cannot pass for a right one.

The demo's videos and the tests' clips carry it. A band of 24 cells across the top holds the number in binary with a
checksum; it survives lossy codecs, scaling and conversion to gray. Below it stand a label and the number in digits.
Pure functions over numpy arrays: any thread may call them.
"""

import numpy as np
import numpy.typing as npt

_CELLS = 24
_NUMBER_BITS = 18
_BAND = 1 / 12  # of the height
_WIDTH, _HEIGHT = 5, 7  # of a glyph, in dots

# 5x7 dots a glyph, a row a number, most significant bit leftmost.
_GLYPHS = {
    "0": (14, 17, 19, 21, 25, 17, 14), "1": (4, 12, 4, 4, 4, 4, 14), "2": (14, 17, 1, 2, 4, 8, 31),
    "3": (31, 2, 4, 2, 1, 17, 14), "4": (2, 6, 10, 18, 31, 2, 2), "5": (31, 16, 30, 1, 1, 17, 14),
    "6": (6, 8, 16, 30, 17, 17, 14), "7": (31, 1, 2, 4, 8, 8, 8), "8": (14, 17, 17, 14, 17, 17, 14),
    "9": (14, 17, 17, 15, 1, 2, 12), "A": (14, 17, 17, 31, 17, 17, 17), "B": (30, 17, 17, 30, 17, 17, 30),
    "C": (14, 17, 16, 16, 16, 17, 14), "D": (30, 17, 17, 17, 17, 17, 30), "E": (31, 16, 16, 30, 16, 16, 31),
    "F": (31, 16, 16, 30, 16, 16, 16), "G": (14, 17, 16, 23, 17, 17, 15), "H": (17, 17, 17, 31, 17, 17, 17),
    "I": (14, 4, 4, 4, 4, 4, 14), "J": (7, 2, 2, 2, 2, 18, 12), "K": (17, 18, 20, 24, 20, 18, 17),
    "L": (16, 16, 16, 16, 16, 16, 31), "M": (17, 27, 21, 21, 17, 17, 17), "N": (17, 17, 25, 21, 19, 17, 17),
    "O": (14, 17, 17, 17, 17, 17, 14), "P": (30, 17, 17, 30, 16, 16, 16), "Q": (14, 17, 17, 17, 21, 18, 13),
    "R": (30, 17, 17, 30, 20, 18, 17), "S": (15, 16, 16, 14, 1, 1, 30), "T": (31, 4, 4, 4, 4, 4, 4),
    "U": (17, 17, 17, 17, 17, 17, 14), "V": (17, 17, 17, 17, 17, 10, 4), "W": (17, 17, 17, 21, 21, 21, 10),
    "X": (17, 17, 10, 4, 10, 17, 17), "Y": (17, 17, 17, 10, 4, 4, 4), "Z": (31, 1, 2, 4, 8, 16, 31),
    "_": (0, 0, 0, 0, 0, 0, 31), "-": (0, 0, 0, 31, 0, 0, 0), " ": (0,) * 7,
}  # fmt: skip


def draw(luma: npt.NDArray[np.integer], number: int, label: str = "", black: int = 16, white: int = 235) -> None:
    """Draws the number, and a label of A–Z, 0–9, _ and -, into a (height, width) luma plane in place.

    `black` and `white` are the plane's own levels (16 and 235 for 8-bit limited range, 64 and 940 for 10-bit).
    The plane must be at least 96 wide and 96 high for the band to survive a codec.
    """
    if not 0 <= number < 1 << _NUMBER_BITS:
        raise ValueError(f"{number} does not fit {_NUMBER_BITS} bits")
    height, width = luma.shape
    band = max(4, round(height * _BAND))
    for cell, bit in enumerate(_bits(number)):
        left, right = cell * width // _CELLS, (cell + 1) * width // _CELLS
        luma[:band, left:right] = white if bit else black
    dot = max(1, width // 160)
    _text(luma, label.upper(), top=band + 2 * dot, left=2 * dot, dot=dot, black=black, white=white)
    top = band + (4 + _HEIGHT) * dot + 2 * dot
    _text(luma, str(number), top=top, left=2 * dot, dot=3 * dot, black=black, white=white)


def read(picture: npt.NDArray[np.integer]) -> int:
    """The number drawn into a picture, (height, width) or (height, width, 3), of any integer dtype and any scale.

    Raises ValueError where no whole number can be read: a picture that decoded to nonsense has no number.
    """
    gray = picture.mean(axis=2) if picture.ndim == 3 else picture.astype(float)
    height, width = gray.shape
    band = max(4, round(height * _BAND))
    rows = gray[band // 4 : max(band // 4 + 1, band - band // 4)]
    levels = []
    for cell in range(_CELLS):
        left, right = cell * width / _CELLS, (cell + 1) * width / _CELLS
        quarter = (right - left) / 4
        first, last = int(left + quarter), max(int(left + quarter) + 1, int(right - quarter))
        levels.append(float(rows[:, first:last].mean()))
    white, black = levels[0], levels[1]
    if white - black < 0.2 * float(np.max(gray) + 1):
        raise ValueError("no stamp in this picture")
    bits = [level > (white + black) / 2 for level in levels]
    number = sum(1 << i for i, bit in enumerate(bits[2 : 2 + _NUMBER_BITS]) if bit)
    if bits != _bits(number):
        raise ValueError(f"the stamp's checksum is wrong (it would read {number})")
    return number


def _bits(number: int) -> list[bool]:
    """White, black (the levels to compare with), the number from its lowest bit, a checksum of 4 bits."""
    checksum = (5 + sum((number >> shift & 15) * (1 + shift // 4) for shift in range(0, 20, 4))) & 15
    value = number | checksum << _NUMBER_BITS
    return [True, False, *(bool(value >> i & 1) for i in range(_CELLS - 2))]


def _text(luma: npt.NDArray[np.integer], text: str, *, top: int, left: int, dot: int, black: int, white: int) -> None:
    for place, character in enumerate(text):
        rows = _GLYPHS.get(character, _GLYPHS[" "])
        glyph = np.array([[row >> (_WIDTH - 1 - x) & 1 for x in range(_WIDTH)] for row in rows], dtype=bool)
        dots = np.kron(np.pad(glyph, 1), np.ones((dot, dot), dtype=bool))
        x = left + place * (_WIDTH + 1) * dot
        part = luma[top : top + dots.shape[0], x : x + dots.shape[1]]
        part[...] = np.where(dots[: part.shape[0], : part.shape[1]], white, black)
