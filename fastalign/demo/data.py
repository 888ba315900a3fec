"""Preference pairs from a file: JSON Lines, plain or gzip."""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from .. import PreferencePair

TURN = "\n\nAssistant:"
FEWEST = 10  # five folds of two pairs: below that, nothing can be held out
SHOWN = 10  # line numbers named in the message about skipped rows


class DataError(ValueError):
    """A file that the demo cannot use; the message is one line that names the place."""


class _Unusable(Exception):
    """A well-formed row that holds no comparison; the message says why."""


@dataclass
class PairFile:
    """The pairs of a file, and the lines that held none, by reason."""

    pairs: list[PreferencePair] = field(default_factory=list)
    skipped: dict[int, str] = field(default_factory=dict)

    def skipped_line(self) -> str | None:
        """One line about the rows left out: how many, why, and where the first are."""
        if not self.skipped:
            return None
        reasons = ", ".join(sorted(set(self.skipped.values())))
        lines = ", ".join(map(str, list(self.skipped)[:SHOWN])) + (", ..." if len(self.skipped) > SHOWN else "")
        return f"skipped {len(self.skipped)} unusable row(s) ({reasons}), first lines: {lines}"


def read_pairs(path: Path) -> PairFile:
    """Read and check a file of pairs; DataError for what is not such a file."""
    found = PairFile()
    rows = 0
    for number, line in _lines(path):
        if not line.strip():
            continue
        rows += 1
        try:
            found.pairs.append(_pair(_row(path, number, line), path, number))
        except _Unusable as reason:
            found.skipped[number] = str(reason)
    if not rows:
        raise DataError(f"{path}: no rows; expected one JSON object per line")
    if len(found.pairs) < FEWEST:
        raise DataError(
            f"{path}: {len(found.pairs)} usable pair(s) in {rows} row(s); expected at least {FEWEST}"
            + (f"; {found.skipped_line()}" if found.skipped else "")
        )
    return found


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines; what fails while reading is reported with the line it failed at."""
    number = 0
    try:
        with open(path, "rb") as raw:
            for number, line in enumerate(_plain(raw), 1):
                yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: line {number + 1}: the gzip stream is damaged or cut short ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _plain(raw: BinaryIO) -> Any:
    # By content, not by name: compressed files arrive under any name.
    start = raw.read(2)
    raw.seek(0)
    return gzip.GzipFile(fileobj=raw) if start == b"\x1f\x8b" else raw


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: line {number}: not UTF-8 (byte 0x{line[error.start]:02x} at position {error.start})"
        ) from None
    try:
        row = json.loads(text.rstrip())
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {number}: not JSON: {error.msg} (column {error.colno})") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets nested too deeply
        reason = str(error).partition(";")[0]
        raise DataError(f"{path}: line {number}: not JSON that can be read: {reason}") from None
    if not isinstance(row, dict):
        raise DataError(f"{path}: line {number}: a JSON {_kind(row)}; expected an object with chosen and rejected")
    return row


def _kind(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def _text(row: dict[str, Any], key: str, path: Path, number: int) -> str:
    if key not in row:
        raise DataError(f"{path}: line {number}: the key {key!r} is missing")
    value = row[key]
    if not isinstance(value, str):
        raise DataError(f"{path}: line {number}: {key!r} is a JSON {_kind(value)}; expected a string")
    return value


def _pair(row: dict[str, Any], path: Path, number: int) -> PreferencePair:
    chosen, rejected = (_text(row, key, path, number) for key in ("chosen", "rejected"))
    if "prompt" in row:
        prompt = _text(row, "prompt", path, number)
    else:
        prompt, chosen, rejected = _split(chosen, rejected)
    chosen, rejected = chosen.strip(), rejected.strip()
    if not chosen or not rejected:
        raise _Unusable("blank response")
    if chosen == rejected:
        raise _Unusable("identical responses")
    return PreferencePair(prompt.strip(), chosen, rejected)


def _split(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Prompt and answers of two whole dialogues: what follows the last assistant turn is the answer."""
    (before, turn, answer), (other_before, other_turn, other) = (x.rpartition(TURN) for x in (chosen, rejected))
    if not turn or not other_turn:
        raise _Unusable("no assistant turn")
    if before != other_before:
        raise _Unusable("prompts differ")
    return before, answer, other
