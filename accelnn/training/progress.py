"""The progress bar and the printed lines of `verbose`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelnn.training.history import Callback, Checkpoint

REDRAW = 0.1  # seconds between two pictures of a bar in a notebook


@contextmanager
def following(
    verbose: Any, epochs: int, label: str = "", unit: str = "epoch"
) -> Iterator[Callback]:
    """A callback that shows a training of so many epochs while the block lasts.

    verbose : True for a bar on standard error, with percentage, cost and remaining time, drawn
        in place in a terminal and in a notebook; "lines" for a printed line each recorded epoch

    Raises ValueError for another value.
    """
    if verbose == "lines":
        yield lambda now: print(f"cost after {unit} {now.epoch}: {now.scores()}", flush=True)
        return
    if verbose is not True:
        raise ValueError(f"expected verbose as False, True or 'lines', got {verbose!r}")
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (
        *(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()),
        *(TextColumn("{task.fields[scores]}"), Remaining(elapsed_when_finished=True)),
    )
    bar = Progress(*columns, console=Console(stderr=True))
    # Its clock starts with the first record: compiling a solver is no measure of what remains.
    task = bar.add_task(label or "training", total=epochs, scores="preparing", start=False)
    with _in_notebook(bar) if bar.console.is_jupyter else bar:
        latest, distance = 0, 1  # of the records

        def show(now: Checkpoint) -> None:
            nonlocal latest, distance
            latest, distance = now.epoch, max(now.epoch - latest, 1)
            if not bar.tasks[0].started:
                bar.start_task(task)
            bar.update(task, completed=now.epoch + 1, scores=f"cost {now.scores(4)}")

        yield show
        if latest + distance >= epochs:  # the last record; the training was not stopped early
            bar.update(task, completed=epochs)


@contextmanager
def _in_notebook(bar: Any) -> Iterator[None]:
    """Redraw a rich Progress in a notebook's output, for which rich itself needs ipywidgets."""
    from IPython.display import display

    update, drawn = bar.update, time.monotonic()
    handle = display(bar.make_tasks_table(bar.tasks), display_id=True)

    def update_and_draw(*args: Any, **kwargs: Any) -> None:
        nonlocal drawn
        update(*args, **kwargs)
        if bar.finished or time.monotonic() - drawn > REDRAW:
            drawn = time.monotonic()
            handle.update(bar.make_tasks_table(bar.tasks))

    bar.update = update_and_draw
    yield
