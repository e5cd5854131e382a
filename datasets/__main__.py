"""`accelnn data download cats|football`: download the course's files.

The exit status is 0 on success, 1 if a file could not be downloaded.
"""

import argparse
import sys
from collections.abc import Sequence

from accelnn.__main__ import run

from . import DOWNLOADS
from .download import DownloadError, download
from .reading import cache_folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="accelnn data",
        description="Download the course's files, unless they are already there, and check their "
        "sha256.",
    )
    parser.add_argument("download", choices=["download"], metavar="download")
    parser.add_argument("name", choices=DOWNLOADS, help="the data set")
    where = f"where to put it; the default is {cache_folder()}"
    parser.add_argument("--folder", metavar="DIR", help=where)
    options = parser.parse_args(arguments)

    import pooch  # here, so that --help is quick

    pooch.get_logger().setLevel("WARNING")  # the progress bar replaces its messages
    try:
        for path in download(options.name, options.folder):
            print(path)
    except (DownloadError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run("data", sys.argv[1:]))
