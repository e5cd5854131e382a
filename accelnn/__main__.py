"""The command `accelnn`, and `python -m accelnn`: `accelnn COMMAND ...`."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from accelnn import __version__


class Command(NamedTuple):
    """module : has `main(arguments) -> exit status`, and is imported when the command is called"""

    module: str
    help: str


COMMANDS = {
    "bench": Command("accelnn.bench.__main__", "time loops, NumPy, CuPy and accelnn here"),
    "train": Command("accelnn.cli.train", "train an experiment of the notes, or your own data"),
    "predict": Command("accelnn.predict", "classify pictures with a saved model"),
    "info": Command("accelnn.cli.info", "show this machine, its backend and packages"),
    "data": Command("accelnn.datasets.download", "download the course's data sets"),
    "warm-up": Command("accelnn.cli.warm_up", "compile the CPU's solvers once"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="accelnn",
        usage="accelnn COMMAND ...",
        description="Neural networks of the classic deep-learning notes, trained and measured on "
        "CPU and GPU.",
        epilog="commands:\n"
        + "".join(f"  {name:<9} {command.help}\n" for name, command in COMMANDS.items())
        + "\naccelnn COMMAND --help lists the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"accelnn {__version__}")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help(sys.stderr)
        return 2
    if options.command not in COMMANDS:
        parser.error(f"unknown command {options.command}: expected one of {', '.join(COMMANDS)}")
    return run(options.command, options.arguments)


def run(command: str, arguments: Sequence[str]) -> int:
    """Run one command; returns its exit status, 130 after Ctrl-C."""
    try:
        return int(importlib.import_module(COMMANDS[command].module).main(arguments))
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
