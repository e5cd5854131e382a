"""Writing files whole or not at all, and checking beforehand that they can be written."""

import os
import shutil
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path

_UNFINISHED = ".accelnn-"  # the beginning of the names of files that are being written


def write_whole(content: str | bytes | memoryview, path: Path) -> None:
    """Write text (UTF-8) or bytes to `path`: all of it or nothing, and on the disk on return.

    A link stays, and so do the permissions of a file that is replaced.
    """
    path = Path(os.path.realpath(path))
    for old in path.parent.glob(_UNFINISHED + "[0-9a-f]" * 16):  # of writers that were killed
        with suppress(OSError):  # another writer may have deleted it
            if old.stat().st_mtime < time.time() - 3600:
                old.unlink()
    # short, because a name that the file system has room for may be as long as it allows
    unfinished = path.with_name(f"{_UNFINISHED}{uuid.uuid4().hex[:16]}")
    try:
        with unfinished.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(OSError):  # there is none, or the file system has no permissions
            shutil.copymode(path, unfinished)
        unfinished.replace(path)
        with suppress(OSError):  # not every system opens folders
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        unfinished.unlink(missing_ok=True)


def overlap(path: Path, other: Path) -> bool:
    """Whether both name the same file, or `path` is in the folder `other`."""
    same = path.exists() and other.exists() and path.samefile(other)
    # unlike Path.resolve, no error for links in a loop
    place, folder = (Path(os.path.realpath(each)) for each in (path, other))
    return same or folder in (place, *place.parents)


def _same(path: Path, stream: int) -> bool:
    try:
        return os.path.samefile(path, stream)
    except OSError:  # the file does not exist, or the stream is closed
        return False


def check_writable(path: Path) -> None:
    """Raise OSError if `path` cannot be written: call it before the work, not after."""
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:  # such as a name that is too long
        raise OSError(f"{path}: cannot be written ({error.strerror})") from error
    folder = Path(os.path.realpath(path)).parent if path.is_symlink() else path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {folder}")
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: exists and is no regular file")
    if _same(path, 1) or _same(path, 2):  # as /dev/stdout is, which would itself be replaced
        raise OSError(f"{path}: standard output or error already goes there")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"{path}: cannot write to its folder ({error.strerror})") from error
