"""Writing files whole or not at all, and checking beforehand that they can be written."""

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(content: str | bytes, path: Path) -> None:
    """Write text (UTF-8) or bytes to `path`: all of it or nothing, and on the disk on return."""
    with whole_file(path) as unfinished, unfinished.open("xb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which replaces `path`, or is deleted if the block raises an error."""
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def overlap(path: Path, other: Path) -> bool:
    """Whether both name the same file, or `path` is in the folder `other`."""
    same = path.exists() and other.exists() and path.samefile(other)
    place, folder = (Path(os.path.realpath(each)) for each in (path, other))  # no error in a ring
    return same or folder in (place, *place.parents)


def _same(path: Path, stream: int) -> bool:
    try:
        return os.path.samefile(path, stream)
    except OSError:  # the file does not exist, or the stream is closed
        return False


def check_writable(path: Path) -> None:
    """Raise OSError if `path` cannot be written: call it before the work, not after."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: exists and is no regular file")
    if _same(path, 1) or _same(path, 2):  # as /dev/stdout is, which would itself be replaced
        raise OSError(f"{path}: this process prints there")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise OSError(f"{path}: cannot write to its folder ({error.strerror})") from error
