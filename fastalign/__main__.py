"""The command: `fastalign`, or `python -m fastalign`."""

import sys


def main() -> None:
    try:
        from .cli import commands
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "fastalign":
            raise
        sys.stderr.write(f"fastalign's commands need {error.name}: pip install 'fastalign[cli]'\n")
        raise SystemExit(2) from None
    commands()


if __name__ == "__main__":
    main()
