"""The command `accelnn`, and `python -m accelnn`: `accelnn COMMAND ...`.

Only what Python itself has loaded is imported here, so that Ctrl-C is handled from the start.
"""

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from accelnn import __version__

# module and help by command: the module is imported when the command is called, and has
# `main(arguments) -> exit status`
COMMANDS = {
    "bench": ("accelnn.cli.bench", "time loops, NumPy, CuPy and accelnn here"),
    "train": ("accelnn.cli.train", "train an experiment of the notes, or your own data"),
    "predict": ("accelnn.cli.predict", "predict pictures or a table with a saved model"),
    "info": ("accelnn.cli.info", "show this machine, its backend and packages"),
    "data": ("accelnn.datasets.download", "download the course's data sets"),
    "warm-up": ("accelnn.cli.warm_up", "compile the CPU's solvers once"),
}
# The variables by which starters of processes number them: MPICH and Intel MPI, Open MPI, Slurm
RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")
RETRY = 0.02  # seconds after which Ctrl-C is tried again if it came at a bad moment
SIGNALS = {signal.SIGINT, getattr(signal, "SIGALRM", signal.SIGINT)}  # Windows has no alarm


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name, by default the program's; returns its status."""
    import argparse

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
        command_main = importlib.import_module(module).main
        if signal.getsignal(signal.SIGINT) is _end:
            signal.signal(signal.SIGINT, _interrupt)
            signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
            sys.unraisablehook = _unraisable
        return int(command_main(arguments))
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


def program(command: str | None = None) -> int:
    """Run a command, or else `main`, with the program's arguments, as the whole of this process;
    returns the exit status: 141 if a pipe was closed, 1 if its output cannot be written."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not in the background
    if ours and hasattr(signal, "setitimer"):
        signal.signal(signal.SIGINT, _end)
    from accelnn.cli import streams

    out = streams.prepare()
    status = 130
    try:
        status = run(command, sys.argv[1:]) if command else main()
    except KeyboardInterrupt:  # a second one
        pass
    except SystemExit as end:  # argparse's
        status = int(end.code or 0)
    finally:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        sys.stdout.flush()
    if isinstance(out.error, BrokenPipeError):
        return status or 141
    if out.error:
        print(f"error: standard output: {out.error.strerror}", file=sys.stderr)
        return status or 1
    return status


def _end(_signal: int, _frame: FrameType | None) -> None:
    """End the process at Ctrl-C, as long as it has nothing to lose."""
    try:
        if not any(int(os.environ.get(name) or 0) for name in RANKS):
            os.write(2, b"Interrupted.\n")
    finally:  # also if standard error is closed
        os._exit(130)


def _interrupt(_signal: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, or try later if a module is being imported: extensions in C turn it
    into other errors."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            signal.setitimer(signal.ITIMER_REAL, RETRY)
            return
        frame = frame.f_back
    raise KeyboardInterrupt


_interrupt.raises_interrupt = True  # type: ignore[attr-defined]  # so that trainings may defer it


def _unraisable(error: "sys.UnraisableHookArgs") -> None:
    """Try Ctrl-C again if it came in a destructor, from which Python raises nothing."""
    if error.exc_type is KeyboardInterrupt:
        signal.setitimer(signal.ITIMER_REAL, RETRY)
    else:
        sys.__unraisablehook__(error)


if __name__ == "__main__":
    sys.exit(program())
