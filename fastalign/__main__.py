"""The command: `fastalign`, or `python -m fastalign`."""

import errno
import os
import sys
from _thread import interrupt_main
from threading import Timer
from typing import Any


def heed_interrupts() -> None:
    """An interrupt that comes within a callback, such as those of imports and of garbage, would be printed and lost."""
    before = sys.unraisablehook

    def again(found: Any) -> None:
        if issubclass(found.exc_type, KeyboardInterrupt):
            Timer(0.01, interrupt_main).start()  # at once it would come within this callback, and be lost, too
        else:
            before(found)

    sys.unraisablehook = again


def main() -> None:
    try:
        from .cli import commands
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "fastalign":
            raise
        sys.stderr.write(f"fastalign's commands need {error.name}: pip install typer rich matplotlib\n")
        raise SystemExit(2) from None
    heed_interrupts()
    try:
        try:
            commands()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # at exit it could only be a traceback
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EPIPE):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left is tried again at exit
        if error.errno == errno.ENOSPC:
            sys.stderr.write(f"fastalign: cannot write: {error.strerror}\n")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
