"""Finding data files, and reading them against a schema.

A file may be a stranger's: it opens no other file and no plugin, and takes memory in proportion to
its size, because shapes, types and sizes are checked before the numbers are read.
"""

import math
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from accelnn.backend import Array

from . import matlab

AnyPath = str | os.PathLike[str]

# The contents of a file by key: a type, or a range of labels, and a shape. A letter stands for any
# size from 1, the same everywhere: "mn" is any matrix, ("m", 2) one of two columns.
Schema = dict[str, tuple[type[np.generic] | range, Sequence[int | str]]]

# Public copies by the file's name: the path below `download.BASE`, the size, and the sha256.
Copies = dict[str, tuple[str, int, str]]

# Arrays may take this many times their file's size, and a MiB: MNIST's pictures shrink to a fifth.
EXPANSION = 20
CHUNK_BYTES, CHUNKS = 1 << 26, 1 << 16  # HDF5 takes 4 kB for each of a dataset's chunks
_HEAP = b"GCOL\x01\0\0\0"  # begins a heap: signature and version
_FILTERS = _SHUFFLE, _GZIP, _FLETCHER32 = 2, 1, 3  # HDF5's numbers


def cache_folder() -> Path:
    """The user's cache folder for accelnn, where downloads go; it may not exist yet."""
    return Path(platformdirs.user_cache_dir("accelnn"))


def find_folder(folder: AnyPath | None, *names: str) -> Path | None:
    """`folder` if given, else the first of $ACCELNN_DATA, ./datasets and the user's cache that
    has any of these files, or None. Raises FileNotFoundError if ACCELNN_DATA is no folder."""
    if folder is not None:
        return Path(folder)
    folders = [Path("datasets"), cache_folder()]
    if named := os.environ.get("ACCELNN_DATA"):
        if not Path(named).is_dir():
            raise FileNotFoundError(
                f"ACCELNN_DATA={named}: no such folder: name the one with {names[0]}, or unset it"
            )
        folders.insert(0, Path(named))
    return next((f for f in folders if any((f / name).exists() for name in names)), None)


@dataclass(frozen=True)
class DataFile:
    """A file to read, and what the user can do if it is missing or wrong."""

    path: Path
    remedy: str

    def wrong(self, place: str, found: str, expected: str) -> ValueError:
        """The error for the contents of a place in the file, such as a key."""
        place = f"{self.path}: {place}"
        return ValueError(f"{place}: found {found}, expected {expected}: {self.remedy}")

    def require(self) -> None:
        """Raise FileNotFoundError if there is no file, ValueError if it is no regular one but a
        folder, a device, or a pipe, from which reading may wait for ever."""
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path}: no such file: {self.remedy}")
        if not self.path.is_file():
            found = "a folder" if self.path.is_dir() else "a pipe or a device"
            raise ValueError(f"{self.path}: found {found}, expected a file: {self.remedy}")

    @property
    def _room(self) -> int:
        """The bytes that the file's arrays may take."""
        return (1 << 20) + EXPANSION * self.path.stat().st_size

    @contextmanager
    def refuse_damaged(self, kind: str) -> Iterator[None]:
        """Raise ValueError for any error in the block, except system errors (such as no permission)
        and errors that already name the file."""
        try:
            yield
        except Exception as error:
            if isinstance(error, OSError) and error.errno:
                raise
            if isinstance(error, ValueError) and str(error).startswith(str(self.path)):
                raise
            reason = str(error).partition("\n")[0] or type(error).__name__
            message = f"{self.path}: not a whole {kind} ({reason}): {self.remedy}"
            raise ValueError(message) from error

    @contextmanager
    def open_hdf5(self) -> Iterator[Any]:
        """The file as an h5py.File; damaged bytes raise ValueError."""
        import h5py  # here, so that importing accelnn.datasets stays cheap

        self.require()
        with self.refuse_damaged("HDF5 file"), h5py.File(self.path, "r") as file:
            if file.id.get_create_plist().get_sizes() != (8, 8):
                raise ValueError("found addresses or sizes of other than 8 bytes")
            self._check_heaps()
            yield file

    def _check_heaps(self) -> None:
        """Raise ValueError for a damaged heap (of texts and of virtual datasets), which HDF5 may
        read for ever: objects of index, count of references and size, each padded to 8 bytes."""
        with self.path.open("rb") as raw, mmap(raw.fileno(), 0, access=ACCESS_READ) as contents:
            heap, left = contents.find(_HEAP), len(contents) // 16  # the most objects that fit
            while heap >= 0:
                (size,) = struct.unpack_from("<Q", contents, heap + 8)
                place, end = heap + 16, min(heap + size, len(contents))
                while place + 16 <= end:
                    index, size = struct.unpack_from("<H6xQ", contents, place)
                    size = size if index == 0 else 16 + size + -size % 8  # 0 is free space
                    left -= 1
                    if left < 0 or not 16 <= size <= end - place:
                        raise ValueError("found a damaged heap")
                    place += size
                heap = contents.find(_HEAP, heap + 1)

    def read_hdf5(self, schema: Schema, optional: Schema | None = None) -> dict[str, Array]:
        """The arrays of an HDF5 file by key, and those of `optional` if the file has any of them.
        Raises FileNotFoundError, or ValueError if the file does not match the schema."""
        with self.open_hdf5() as file:
            if optional and any(key in optional for key in [*file]):
                schema = schema | optional
            found = {key: self.dataset(file, key) if key in schema else None for key in [*file]}
            return self._checked(found, schema, self.contents)

    def open_stored(self, schema: Schema, optional: Schema | None = None) -> dict[str, Any]:
        """Like `read_hdf5`, but of more than one axis the h5py dataset itself, which keeps the file
        open, and of any size. It trusts the file, which may be compressed by any filter."""
        import h5py

        with suppress(ImportError):
            import hdf5plugin  # noqa: F401 - it makes HDF5 know more filters
        self.require()
        with self.refuse_damaged("HDF5 file"):
            file = h5py.File(self.path, "r")
            if optional and any(key in optional for key in [*file]):
                schema = schema | optional
            found = {key: file[key] for key in file if key in schema}
            for key, stored in found.items():
                if lacking := [n for n in _filters(stored) if not h5py.h5z.filter_avail(n)]:
                    expected = "filters that are installed (pip install hdf5plugin has more)"
                    raise self.wrong(key, f"a filter of HDF5's number {lacking[0]}", expected)
            checked = partial(self._checked, {**dict.fromkeys(file), **found}, schema)
            return checked(lambda stored: stored if stored.ndim > 1 else stored[()], math.inf)

    def dataset(self, file: Any, key: str) -> Any:
        """The h5py.Dataset at `key`, or None if there is none.

        Raises ValueError if the key is a link by name, or the dataset's numbers are in other files
        or went through filters that `contents` does not know.
        """
        import h5py

        links, name = file.id.links, key.encode()  # `key in file` would follow a link
        if not links.exists(name):
            return None
        if links.get_info(name).type != h5py.h5l.TYPE_HARD:
            raise self.wrong(key, "a link", "a dataset in the file itself")
        stored = file[key]
        if not isinstance(stored, h5py.Dataset):
            return None
        if stored.is_virtual or stored.external:  # before the shape, which opens virtual sources
            raise self.wrong(key, "a dataset stored in other files", "one in the file itself")
        known = [number for number in _FILTERS if number in (filters := _filters(stored))]
        if filters != known:
            found = f"filters of HDF5's numbers {filters}"
            expected = 'none but shuffle, gzip and fletcher32 (write it with compression="gzip")'
            raise self.wrong(key, found, expected)
        if stored.chunks and stored.shape:
            size = _chunk_bytes(stored)
            each = zip(stored.shape, stored.chunks, strict=True)
            count = math.prod(-(-length // chunk) for length, chunk in each)
            most = min(CHUNK_BYTES, self._room)
            at_most = max(CHUNKS, self.path.stat().st_size // 4096)
            if size > most or count > at_most:
                expected = f"at most {at_most} of at most {most} bytes"
                raise self.wrong(key, f"{count} chunks of {size} bytes", expected)
        return stored

    def contents(self, stored: Any) -> Array:
        """The numbers of a `dataset`; ValueError if a chunk has another size than its own, because
        HDF5 would inflate it to any size, and read past the end of a short one."""
        chunks: list[Any] = []
        if stored.chunks and stored.shape:
            stored.id.chunk_iter(chunks.append)
            size, filters = _chunk_bytes(stored), _filters(stored)
        for chunk in chunks:
            used = [f for i, f in enumerate(filters) if not chunk.filter_mask >> i & 1]
            found = chunk.size - 4 * (_FLETCHER32 in used)
            if _GZIP in used and found < size + size // 1000 + 64:  # the most that zlib adds
                _, content = stored.id.read_direct_chunk(chunk.chunk_offset)
                found = len(zlib.decompressobj().decompress(content[:found], size + 1))
            if found != size:
                raise ValueError(f"a chunk does not have its {size} bytes")
        return np.asarray(stored[()])

    def read_mat(self, schema: Schema) -> dict[str, Array]:
        """The arrays of a MATLAB file by key; raises as `read_hdf5`."""
        self.require()
        with self.refuse_damaged("MATLAB file"), self.path.open("rb") as file:
            return self._checked(matlab.variables(file), schema, matlab.contents)

    def _checked(
        self,
        found: Mapping[str, Any],
        schema: Schema,
        read: Callable[[Any], Array],
        room: float | None = None,
    ) -> dict[str, Array]:
        """The arrays in `schema`, row-major and checked: floats are finite, labels int64; or what
        `read` returns that is no array. They may take `room` bytes, by default by the file's."""
        sizes: dict[int | str, int] = {}
        room = self._room if room is None else room
        for key, (kind, letters) in schema.items():
            if not (stored := found.get(key)):
                raise self.wrong(key, f"only the keys {[*found][:20]}", "a dataset of that name")
            shape = tuple(sizes.get(n, n) for n in letters)
            lengths = stored.shape or ()  # None for HDF5's "empty"
            free = [n for n in shape if isinstance(n, str)]
            fits = len(lengths) == len(shape) and all(
                size > 0 if n in free else size == n for n, size in zip(shape, lengths, strict=True)
            )
            number = np.number if isinstance(kind, range) else kind
            real = isinstance(stored.dtype, np.dtype) and stored.dtype.kind != "c"
            if not (fits and real and np.issubdtype(stored.dtype, number)):
                expected = f"{number.__name__} of shape {shape}".replace("'", "")
                if free:
                    expected += f" with {', '.join(free)} > 0"
                raise self.wrong(key, f"{stored.dtype} of shape {stored.shape}", expected)
            sizes.update(zip(letters, lengths, strict=True))
            room -= math.prod(lengths) * stored.dtype.itemsize
            if room < 0:
                size = f"{stored.dtype} of shape {stored.shape}"
                expected = f"arrays of at most {EXPANSION} times the file's size and a MiB"
                raise self.wrong(key, size, f"{expected} (write it without compression)")
        arrays: dict[str, Array] = {}
        for key, (kind, _) in schema.items():
            contents = read(found[key])
            if not isinstance(contents, np.ndarray):
                arrays[key] = contents
                continue
            array = np.ascontiguousarray(contents)
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise self.wrong(key, "NaN or infinity", "finite numbers")
            if isinstance(kind, range):
                if others := [label for label in array.ravel().tolist() if label not in kind]:
                    expected = f"labels in {kind[0]}..{kind[-1]}"
                    raise self.wrong(key, f"the label {others[0]}", expected)
                array = array.ravel().astype(np.int64)
            arrays[key] = array
        return arrays


def _chunk_bytes(stored: Any) -> int:
    """The size of each chunk of an h5py.Dataset, before filters."""
    return int(math.prod(stored.chunks) * stored.dtype.itemsize)


def _filters(stored: Any) -> list[int]:
    """The numbers of an h5py.Dataset's filters, in the order in which they are applied."""
    plan = stored.id.get_create_plist()
    return [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
