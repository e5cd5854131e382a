"""Pictures in every format that people have, and hostile ones."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, features

from .mutations import INTERESTING, zlib_zeros

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\nshowpage\n%%EOF\n"
SIZES = (1, 0, 2, 3, 300, 4000, 9000, 20_000, 65_535, 2**24, 2**31 - 1, 2**32 - 1)


def good():
    """The bytes of small pictures: formats, modes, 16 bits, palettes, transparency, EXIF."""
    y, x = np.mgrid[:30, :40]
    pixels = np.stack([6 * x, 8 * y, 3 * (x + y)], axis=2).astype(np.uint8)
    colour = Image.fromarray(pixels)
    grey16 = Image.fromarray((x * 1600).astype(np.uint16))
    turned = Image.Exif()
    turned[0x0112] = 6
    forms = [
        (colour, "PNG", {}),
        (colour, "JPEG", {"exif": turned}),
        (colour, "JPEG", {"progressive": True}),
        (colour, "BMP", {}),
        (colour, "TIFF", {}),
        (colour, "TIFF", {"compression": "tiff_lzw"}),
        (colour, "PPM", {}),
        (colour.convert("P"), "PNG", {"transparency": 3}),
        (colour.convert("P"), "GIF", {"save_all": True, "append_images": [colour.convert("P")]}),
        (colour.convert("RGBA"), "PNG", {}),
        (colour.convert("LA"), "PNG", {}),
        (colour.convert("1"), "PNG", {}),
        (colour.convert("CMYK"), "JPEG", {}),
        (colour.convert("L"), "BMP", {}),
        (grey16, "PNG", {}),
        (grey16, "PPM", {}),
        (grey16, "TIFF", {}),
    ]
    if features.check("webp"):
        forms += [(colour, "WEBP", {}), (colour.convert("RGBA"), "WEBP", {"lossless": True})]
    files = []
    for picture, name, options in forms:
        contents = io.BytesIO()
        picture.save(contents, name, **options)
        files.append(contents.getvalue())
    return files


def chunk(kind, contents, length=None):
    """A chunk of a PNG; `length` may be wrong."""
    size = len(contents) if length is None else length
    checksum = zlib.crc32(kind + contents)
    return struct.pack(">I", size % 2**32) + kind + contents + struct.pack(">I", checksum)


def png(width, height, depth, colour, contents, *more):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    begin, end = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header), chunk(b"IEND", b"")
    return begin + b"".join(more) + chunk(b"IDAT", contents) + end


def _png_sizes(path, rng):
    width, height = (int(rng.choice(SIZES)) for _ in range(2))
    depth, colour = int(rng.choice((1, 2, 4, 8, 16, 3))), int(rng.choice((0, 2, 3, 4, 6, 5)))
    contents = zlib_zeros(1) if rng.random() < 0.7 else zlib.compress(rng.bytes(200))
    palette = [chunk(b"PLTE", rng.bytes(int(rng.integers(0, 900))))] if colour == 3 else []
    path.write_bytes(png(width, height, depth, colour, contents, *palette))


def _png_large(path, rng):
    """Whole pictures of a million pixels, or rarely 90, in a thousandth of their size."""
    side, depth, colour = 9400 if rng.random() < 0.05 else 1000, int(rng.choice((1, 8, 16))), 0
    if rng.random() < 0.5:
        depth, colour = (16, 6) if depth == 16 else (8, int(rng.choice((2, 6))))
    channels = {0: 1, 2: 3, 6: 4}[colour]
    needed = side * (side * channels * depth // 8 + 2)
    path.write_bytes(png(side, side, depth, colour, zlib_zeros(needed // 2**20 + 1)))


def _png_chunks(path, rng):
    kinds = (
        b"tEXt",
        b"zTXt",
        b"iTXt",
        b"iCCP",
        b"eXIf",
        b"tRNS",
        b"acTL",
        b"fcTL",
        b"fdAT",
        b"pHYs",
    )
    more = []
    for _ in range(int(rng.integers(1, 4))):
        kind = kinds[rng.integers(len(kinds))]
        contents = rng.bytes(int(rng.integers(0, 60)))
        if kind in (b"zTXt", b"iCCP") and rng.random() < 0.5:
            contents = b"name\0\0" + zlib_zeros(200)
        wrong = (None, None, 0, 2**31, -1, len(contents) + 7)
        more.append(chunk(kind, contents, wrong[rng.integers(len(wrong))]))
    path.write_bytes(png(4, 4, 8, 0, zlib.compress(bytes(20)), *more))


def _postscript(path, rng):
    """A file for Ghostscript, whatever its name says; also in the DOS form."""
    if rng.random() < 0.6:
        path.write_bytes(POSTSCRIPT)
    else:
        head = struct.pack(
            "<4sIIIIIIH", b"\xc5\xd0\xd3\xc6", 32, len(POSTSCRIPT), 0, 0, 0, 0, 65535
        )
        path.write_bytes(head.ljust(32, b"\0") + POSTSCRIPT)


def _other_formats(path, rng):
    """What Pillow opens and people do not photograph with."""
    picture = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    names = (
        "EPS",
        "PDF",
        "ICO",
        "ICNS",
        "IM",
        "MPO",
        "PCX",
        "SGI",
        "TGA",
        "DDS",
        "JPEG2000",
        "MSP",
    )
    name = str(rng.choice(names))
    try:
        picture.convert("1" if name == "MSP" else "RGB").save(path, name)
    except (OSError, KeyError, ValueError):
        heads = (b"8BPS", b"\x80\x01", b"BLP1", b"FLIF", b"\xd7\xcd\xc6\x9a", b"%PDF-1.4", b"GRIB")
        path.write_bytes(heads[rng.integers(len(heads))] + rng.bytes(200))


def _bmp(path, rng):
    def wrong(value, share=0.15):
        return int(rng.choice(INTERESTING[:13])) % 2**31 if rng.random() < share else value

    bits = int(rng.choice((1, 4, 8, 16, 24, 32)))
    width, height = wrong(8, 0.3), wrong(8, 0.3)
    numbers = (40, width, height, 1, bits, wrong(int(rng.integers(6))), 0, 0, 0, wrong(0), wrong(0))
    header = struct.pack("<IIIHHIIIIII", *numbers)
    about = struct.pack("<2sIHHI", b"BM", wrong(200), 0, 0, wrong(54))
    path.write_bytes(about + header + rng.bytes(300))


def _ppm(path, rng):
    kind = rng.choice((b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"Pf", b"PF", b"P7", b"Py"))
    numbers = b" ".join(str(int(rng.choice(SIZES))).encode() for _ in range(2))
    most = (b"255", b"65535", b"0", b"-1", b"1e9", b"70000", b"9" * 300)[rng.integers(7)]
    note = b"# " + b"x" * int(rng.choice((1, 10_000))) + b"\n" if rng.random() < 0.3 else b""
    path.write_bytes(kind + b"\n" + note + numbers + b"\n" + most + b"\n" + rng.bytes(300))


def _tiff(path, rng):
    """Directories with odd tags, counts and offsets, some of which lead back to themselves."""
    order = str(rng.choice(("<", ">")))
    tags = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, 1, 200), (277, 3, 1, 1), (278, 4, 1, 8), (279, 4, 1, 64)]
    tags += [(int(rng.choice((274, 320, 338, 700, 34665, 34675, 330, 317, 322))), 4, 1, 8)]
    entries = b""
    for tag, kind, count, value in sorted(tags):
        if rng.random() < 0.15:
            count = int(rng.choice(INTERESTING)) % 2**32
        if rng.random() < 0.2:
            value = int(rng.choice((0, 1, 5, 6, 7, 8, 16, 34712, *SIZES))) % 2**32
        if rng.random() < 0.1:
            kind = int(rng.integers(0, 19))
        entries += struct.pack(f"{order}HHII", tag, kind, count, value)
    following = struct.pack(f"{order}I", int(rng.choice((0, 8, 200, 2**31))))
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    body = head + struct.pack(f"{order}H", len(tags)) + entries + following
    path.write_bytes(body.ljust(200, b"\0") + rng.bytes(64))


def _gif(path, rng):
    """Screens and frames of sizes that do not fit each other, and many frames."""
    sizes = [int(rng.choice((0, 1, 8, 300, 5000, 65_535))) for _ in range(4)]
    head = b"GIF89a" + struct.pack("<HHBBB", *sizes[:2], 0x80, 0, 0) + rng.bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, *sizes[2:], 0) + b"\x02\x02\x4c\x01\0"
    path.write_bytes(head + frame * int(rng.choice((1, 2000))) + b";")


CRAFTED = {
    "png sizes": _png_sizes,
    "png large": _png_large,
    "png chunks": _png_chunks,
    "postscript": _postscript,
    "other formats": _other_formats,
    "bmp": _bmp,
    "ppm": _ppm,
    "tiff": _tiff,
    "gif": _gif,
}
