"""`python -m accelnn.datasets download cats|football`: fetch the course's files; the exit status
is 0 where they are there, 1 where they could not be fetched, 130 after Ctrl-C."""

import argparse
import sys
from collections.abc import Sequence

from .download import BASE, FILES, DownloadError, download
from .reading import cache_folder


def main(arguments: Sequence[str] | None = None, base: str = BASE) -> int:
    """Run the command with the files below the URL `base`; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m accelnn.datasets", description="Fetch the course's files."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "download",
        help="fetch a data set, check it and keep it",
        description="Fetch a data set, check its sha256 and keep it; one that is there already "
        "is not fetched again.",
    )
    command.add_argument("name", choices=FILES, help="the data set")
    command.add_argument(
        "--folder", metavar="DIR", help=f"where to keep it; by default {cache_folder()}"
    )
    options = parser.parse_args(arguments)

    import pooch  # here, so that --help is quick

    pooch.get_logger().setLevel("WARNING")  # the bar says what its messages would
    try:
        for path in download(options.name, options.folder, base):
            print(path)
    except KeyboardInterrupt:
        print("Interrupted: no unfinished file was kept.", file=sys.stderr)
        return 130
    except (DownloadError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
