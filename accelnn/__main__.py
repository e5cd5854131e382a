"""The command `accelnn`, and `python -m accelnn`: `accelnn COMMAND ...`."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from accelnn import __version__

# module and help by command: the module is imported when the command is called, and has
# `main(arguments) -> exit status`
COMMANDS = {
    "bench": ("accelnn.bench.__main__", "time loops, NumPy, CuPy and accelnn here"),
    "train": ("accelnn.cli.train", "train an experiment of the notes, or your own data"),
    "predict": ("accelnn.predict", "classify pictures with a saved model"),
    "info": ("accelnn.cli.info", "show this machine, its backend and packages"),
    "data": ("accelnn.datasets.download", "download the course's data sets"),
    "warm-up": ("accelnn.cli.warm_up", "compile the CPU's solvers once"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="accelnn",
        usage="accelnn COMMAND ...",
        description="Train the nets of the classic deep-learning notes fast, and measure the gain.",
        epilog="commands:\n"
        + "".join(f"  {name:<9} {text}\n" for name, (_, text) in COMMANDS.items())
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
    module, _ = COMMANDS[command]
    try:
        return int(importlib.import_module(module).main(arguments))
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
