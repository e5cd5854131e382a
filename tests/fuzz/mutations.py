"""Changes of a file's bytes that know nothing of its format."""

import struct
import zlib

INTERESTING = (0, 1, -1, 2, 7, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1)
INTERESTING += (2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -(2**31), -(2**63))


def flip(data, rng, _):
    """One to eight bits flipped."""
    for place in rng.integers(len(data), size=rng.integers(1, 9)):
        data[place] ^= 1 << int(rng.integers(8))


def replace(data, rng, _):
    """One to sixteen bytes in a row replaced."""
    start = rng.integers(len(data))
    size = min(int(rng.integers(1, 17)), len(data) - start)
    value = rng.choice((0, 255, 32, 10, 34, 44))
    data[start : start + size] = rng.bytes(size) if rng.random() < 0.5 else bytes([value]) * size


def number(data, rng, _):
    """An integer of 1, 2, 4 or 8 bytes, in either byte order, often at a multiple of its size."""
    size = int(rng.choice((1, 2, 4, 8)))
    value = int(rng.choice(len(INTERESTING) + 2))
    value = (*INTERESTING, len(data), len(data) - 1)[value] % 256**size
    place = int(rng.integers(len(data)))
    place -= place % size if rng.random() < 0.7 else 0
    data[place : place + size] = value.to_bytes(size, rng.choice(("little", "big")))


def nudge(data, rng, _):
    """A byte made larger or smaller by a little."""
    place = rng.integers(len(data))
    data[place] = (data[place] + int(rng.integers(-4, 5))) % 256


def truncate(data, rng, _):
    """The end cut off."""
    del data[int(rng.integers(len(data))) :]


def extend(data, rng, _):
    """Bytes added at the end."""
    data += rng.bytes(int(rng.integers(1, 4096))) if rng.random() < 0.5 else bytes(2048)


def _block(data, rng):
    start = int(rng.integers(len(data)))
    return start, start + int(rng.integers(1, 1 + min(4096, len(data))))


def duplicate(data, rng, _):
    """A block repeated, once or a few times."""
    start, stop = _block(data, rng)
    data[stop:stop] = data[start:stop] * int(rng.integers(1, 5))


def remove(data, rng, _):
    """A block left out."""
    start, stop = _block(data, rng)
    del data[start:stop]


def clear(data, rng, _):
    """A block of zeros."""
    start, stop = _block(data, rng)
    data[start:stop] = bytes(len(data[start:stop]))


def move(data, rng, _):
    """A block written over another place."""
    start, stop = _block(data, rng)
    place = int(rng.integers(len(data)))
    data[place : place + stop - start] = data[start:stop]


def splice(data, rng, other):
    """The beginning of one file and the end of another."""
    place = int(rng.integers(len(data)))
    start = place if rng.random() < 0.5 else int(rng.integers(len(other)))
    data[place:] = other[start:]


# the ones that keep most of the structure are drawn more often
MUTATIONS = (*(flip, replace, number, nudge) * 3, truncate, extend, duplicate, remove, clear, move)
MUTATIONS += (splice,)


def mutate(data, rng, other):
    """`data` after one to four of the changes; `other` is a second file of the format."""
    data = bytearray(data)
    for _ in range(int(rng.choice((1, 1, 1, 2, 3, 4)))):
        if data:
            MUTATIONS[rng.integers(len(MUTATIONS))](data, rng, other)
    return bytes(data)


def zlib_zeros(mebibytes):
    """A zlib stream of that many MiB of zeros, made without them: a thousandth of their size."""
    packer = zlib.compressobj(9)
    first = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    later = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    end = packer.flush()[:-4]  # without the checksum of two MiB
    checksum = (mebibytes * 2**20 % 65521) << 16 | 1  # Adler's, of zeros
    return first + later * (mebibytes - 1) + end + struct.pack(">I", checksum)
