"""`accelnn data download cats|football`: download public copies of the course's files.

The exit status is 0 on success, 1 if a file could not be downloaded.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from accelnn.cli.console import Parser, show_error

from . import DOWNLOADS
from .reading import AnyPath, cache_folder

BASE = (
    "https://raw.githubusercontent.com/ramakris/coursera-deeplearning/"
    "c79617ebb9ff38e765e821f80352adee93f19357/"
)
TIMEOUT = 30  # seconds to wait for the next bytes
DEADLINE = 600  # seconds for a file


class DownloadError(RuntimeError):
    """A file could not be downloaded, or its contents are wrong; the message says why."""


def download(name: str, folder: AnyPath | None = None) -> list[Path]:
    """The paths of a data set's files, downloaded if need be with a progress bar on stderr.

    name : "cats" or "football"
    folder : created if need be; by default the user's cache, where the loaders look. A file of that
        name with other contents is replaced

    Raises DownloadError if a file cannot be downloaded in time or its contents are wrong, and keeps
    no part of it; ValueError for another name; OSError if the folder cannot be written to.
    """
    import pooch
    import requests
    import urllib3

    pooch.get_logger().setLevel("WARNING")  # the progress bar replaces its messages
    if name not in DOWNLOADS:
        raise ValueError(f"unknown data set {name!r}: expected one of {', '.join(DOWNLOADS)}")
    folder = cache_folder() if folder is None else Path(folder)
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn()
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)

    def fetch(url: str, unfinished: str, _: Any) -> None:
        size, end = DOWNLOADS[name][file][1], time.monotonic() + DEADLINE
        session: Any = requests.Session()
        session.get_redirect_target = lambda _: None  # it would read all of a redirect's body
        request = _in_time(session.get, url, stream=True, timeout=TIMEOUT)
        if request is None:
            raise requests.Timeout(f"no answer in {DEADLINE} s")
        Path(unfinished).unlink()  # pooch made it for its owner alone
        with request as answer, open(unfinished, "xb") as out:
            answer.raise_for_status()
            if answer.is_redirect:
                raise requests.TooManyRedirects("sent to another address")
            task = bar.add_task(file, total=size)
            while chunk := answer.raw.read1(65536, decode_content=True):
                if time.monotonic() > end:
                    raise requests.Timeout(f"not finished in {DEADLINE} s")
                if out.tell() + len(chunk) > size:
                    raise ValueError(f"more than {size} bytes")
                out.write(chunk)
                bar.advance(task, len(chunk))
            bar.stop_task(task)

    paths = []
    with bar:
        for file, (path, _, sha256) in DOWNLOADS[name].items():
            url = BASE + path
            try:
                paths.append(Path(pooch.retrieve(url, sha256, file, folder, downloader=fetch)))
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                reason: BaseException = error  # the system's, which requests and urllib3 wrap
                while inner := reason.__cause__ or reason.__context__:
                    reason = inner
                failed = f"cannot download {url} ({str(reason).partition(' for url:')[0][:300]})"
                files = " and ".join(DOWNLOADS[name])
                remedy = f"try again, or put {files} into a folder and name it in ACCELNN_DATA"
                raise DownloadError(f"{failed}: {remedy}") from error
            except ValueError as error:  # pooch raises it for a wrong hash
                wrong = f"wrong contents (expected sha256 {sha256[:12]}...), not kept"
                remedy = "a proxy or a login page may have answered instead"
                raise DownloadError(f"{url}: {wrong}: {remedy}") from error
    return paths


def _in_time(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The result of a call, or None after DEADLINE seconds: the timeout of requests starts again
    with each byte of a header."""
    result: Future[Any] = Future()

    def call() -> None:
        try:
            result.set_result(function(*arguments, **options))
        except Exception as error:
            result.set_exception(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    return result.result() if result.done() else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    about = "Download the course's files, unless they are already there, and check their sha256."
    parser = Parser(prog="accelnn data", description=about)
    parser.add_argument("download", choices=["download"], metavar="download")
    parser.add_argument("name", choices=DOWNLOADS, help="the data set")
    about = f"where to put it; the default is {cache_folder()}"
    parser.add_argument("--folder", metavar="DIR", help=about)
    options = parser.parse_args(arguments)
    try:
        for path in download(options.name, options.folder):
            print(path)
    except (DownloadError, OSError) as error:
        show_error(error)
        return 1
    return 0
