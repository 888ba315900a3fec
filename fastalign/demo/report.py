"""Results as text."""

import sys
from collections.abc import Sequence


def say(text: str = "") -> None:
    """A line on stdout, at once; what the terminal cannot show is escaped rather than fatal."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    sys.stdout.flush()


def heading(text: str) -> None:
    say()
    say(text)
    say("-" * len(text))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others, numbers mostly, to the right.

    >>> print("\\n".join(table(["", "time"], [["fast", "1"], ["slower", "10"]])))
            time
    fast       1
    slower    10
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(x.rjust(w) for x, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in (header, *rows)
    ]


def share(value: float, interval: tuple[float, float]) -> str:
    """A share with its 95 % interval."""
    return f"{value:.3f}, 95 % interval {interval[0]:.3f} to {interval[1]:.3f}"
