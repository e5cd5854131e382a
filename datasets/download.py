"""Downloads public copies of the course's files, verifies them and keeps them."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from .reading import cache_folder

BASE = (
    "https://raw.githubusercontent.com/ramakris/coursera-deeplearning/"
    "c79617ebb9ff38e765e821f80352adee93f19357/"
)

# By data set and by the name of the saved file: its path below BASE, and its sha256.
FILES = {
    "cats": {
        "train_catvnoncat.h5": (
            "neuralnetworks/week2/datasets/train_catvnoncat.h5",
            "fbe56ab67c3ae28d564e3a644189117976d6b31af0a3ce9bb17dbf22908af242",
        ),
        "test_catvnoncat.h5": (
            "neuralnetworks/week2/datasets/test_catvnoncat.h5",
            "6a9d39ce52fa85953c5834695b8534a30ed8cfd54971fb2f080b5a24d002b951",
        ),
    },
    "football": {
        "football.mat": (
            "Improving-DeepNN/datasets/data.mat",
            "1218828095bf91d215622d00b2a5b8784c359e29d9d9c5734949b8e60c5bc231",
        ),
    },
}


class DownloadError(RuntimeError):
    """A file could not be downloaded, or its contents are wrong; the message says why."""


class _Bar:
    """A progress bar as pooch expects one, drawn by rich."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=None, visible=False)

    @property
    def total(self) -> float | None:
        return self._progress.tasks[self._task].total

    @total.setter
    def total(self, n_bytes: int) -> None:
        self._progress.update(self._task, total=n_bytes or None, visible=True)

    def update(self, n_bytes: int) -> None:
        self._progress.advance(self._task, n_bytes)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        self._progress.stop_task(self._task)


def download(
    name: str, folder: str | os.PathLike[str] | None = None, base: str = BASE
) -> list[Path]:
    """The paths of a data set's files, downloaded if need be with a progress bar on stderr.

    Parameters
    ----------
    name : "cats" or "football"
    folder : where to put them, created if need be; by default the user's cache, where
        `load_cats` and `load_football` look. A file of that name with other contents is replaced
    base : the URL of the folder that holds the files

    Raises DownloadError if a file cannot be downloaded or its sha256 is wrong, and keeps no part
    of it; ValueError for another name; OSError if the folder cannot be written to.
    """
    import pooch
    from requests.exceptions import ChunkedEncodingError, HTTPError, RequestException

    if name not in FILES:
        raise ValueError(f"unknown data set {name!r}: expected one of {', '.join(FILES)}")
    folder = cache_folder() if folder is None else Path(folder)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn()
    paths = []
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        for file, (path, sha256) in FILES[name].items():
            url = base + path
            get = pooch.HTTPDownloader(progressbar=_Bar(progress, file), chunk_size=65536)
            try:
                paths.append(Path(pooch.retrieve(url, sha256, file, folder, downloader=get)))
            except HTTPError as error:
                answer = str(error).partition(" for url:")[0]
                raise DownloadError(f"{url}: the server answers {answer}") from error
            except ChunkedEncodingError as error:
                raise DownloadError(f"{url}: the connection was cut: try again") from error
            except RequestException as error:
                raise DownloadError(
                    f"{name}: cannot reach {urlsplit(url).hostname} ({_innermost(error)}): try "
                    f"again, or put {' and '.join(FILES[name])} into a folder and name it in "
                    "ACCELNN_DATA"
                ) from error
            except ValueError as error:  # pooch raises it for a wrong hash
                raise DownloadError(
                    f"{url}: the bytes are not the expected ones (sha256 {sha256[:12]}...) and "
                    "were not kept: a proxy or a login page may have answered instead"
                ) from error
    return paths


def _innermost(error: BaseException) -> BaseException:
    """The first error of a chain: requests and urllib3 wrap the system's."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error
