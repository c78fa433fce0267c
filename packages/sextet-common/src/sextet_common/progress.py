"""Progress bars on stderr; silent without a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from sextet_common import text

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

T = TypeVar("T")


class Bar:
    """A progress bar, created by :func:`bar`. ``display`` and ``task`` are rich's, or None without a terminal."""

    def __init__(self, display: Progress | None, task: TaskID | None) -> None:
        self._display = display
        self._task = task

    def advance(self, steps: int = 1, **values: float) -> None:
        """Advance the bar by some steps and show values beside it, such as ``loss=0.31``."""
        if self._display is None or self._task is None:
            return
        self._display.advance(self._task, steps)
        if values:
            shown = "  ".join(f"{text.terminal(name, text.SHORT)} {value:.4g}" for name, value in values.items())
            self._display.update(self._task, values=shown)


@contextmanager
def bar(description: str, total: int, *, done: int = 0) -> Iterator[Bar]:
    """Show a progress bar on stderr while the block runs; without a terminal, print nothing.

    ``done`` is the number of steps that an earlier, interrupted run completed.

    Examples
    --------
    >>> with bar("distil", total=3) as steps:
    ...     for _ in range(3):
    ...         steps.advance(loss=0.5)
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Bar(None, None)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[values]}", markup=False),
    )
    with Progress(*columns, console=console) as display:
        yield Bar(
            display, display.add_task(text.terminal(description, text.SHORT), total=total, completed=done, values="")
        )


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield items while showing a progress bar."""
    with bar(description, total) as steps:
        for item in items:
            yield item
            steps.advance()
