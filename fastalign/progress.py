"""Progress on stderr: bars on a terminal, else one line per stage."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stage(title: str, total: int) -> Iterator[Callable[[], None]]:
    """A stage of ``total`` steps; call what it yields after each of them."""
    bar = _bar() if sys.stderr.isatty() else None
    if bar is None:
        sys.stderr.write(f"{title} ...\n")
        sys.stderr.flush()
        yield lambda: None
        return
    with bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)


def _bar() -> Any:
    """A bar, or None without the extra that brings one."""
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        return None
    return Progress(console=Console(stderr=True), transient=True)
