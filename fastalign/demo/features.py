"""Text to features by hashing: no vocabulary to fit, nothing to store, the same numbers on every machine.

Of a text in lower case, every word, every punctuation mark and every two neighbours ("a b", one space between) count
once.  A gram's CRC-32 h over its UTF-8 bytes gives its column, h mod 4096, and its sign, + where h ≥ 2³¹, so that
collisions cancel on average instead of adding up.  Each row is scaled to length 1: else long answers would have
large rewards merely for being long.
"""

import re
import zlib
from dataclasses import dataclass

import numpy as np

COLUMNS = 4096
_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


def words(text: str) -> list[str]:
    """Words and punctuation marks, in lower case.

    >>> words("Don't panic, 42!")
    ["don't", 'panic', ',', '42', '!']
    """
    return _WORD.findall(text.lower())


def grams(text: str) -> set[str]:
    """Words, and neighbours with one space between them.

    >>> sorted(grams("not hard"))
    ['hard', 'not', 'not hard']
    """
    tokens = words(text)
    return {*tokens, *(f"{a} {b}" for a, b in zip(tokens, tokens[1:], strict=False))}


def column_and_sign(gram: str) -> tuple[int, float]:
    """Where a gram goes, and with which sign.

    >>> column_and_sign("not hard")
    (497, -1.0)
    """
    # JSON may hold lone surrogates, which strict UTF-8 refuses.
    h = zlib.crc32(gram.encode("utf-8", "surrogatepass"))
    return h % COLUMNS, 1.0 if h >= 1 << 31 else -1.0


def _entries(text: str) -> dict[int, float]:
    entries: dict[int, float] = {}
    # Sorted: the order of a set of strings changes from run to run, and with it the last bit of the sums.
    for gram in sorted(grams(text)):
        column, sign = column_and_sign(gram)
        entries[column] = entries.get(column, 0.0) + sign
    return entries


@dataclass
class HashedTexts:
    """Feature rows stored sparsely, one after another: real files have too many rows for a dense matrix."""

    starts: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def dense(self, rows: np.ndarray) -> np.ndarray:
        """The chosen rows as float32 (rows, 4096)."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        ends = np.cumsum(lengths)
        source = np.arange(ends[-1] if len(ends) else 0) + np.repeat(self.starts[rows] - ends + lengths, lengths)
        matrix = np.zeros((len(rows), COLUMNS), np.float32)
        matrix[np.repeat(np.arange(len(rows)), lengths), self.columns[source]] = self.values[source]
        return matrix


def hash_texts(texts: list[str]) -> HashedTexts:
    """The features of texts, in order."""
    starts: list[int] = [0]
    columns: list[int] = []
    values: list[float] = []
    for text in texts:
        entries = _entries(text)
        length = sum(v * v for v in entries.values()) ** 0.5 or 1.0
        columns.extend(entries)
        values.extend(v / length for v in entries.values())
        starts.append(len(columns))
    return HashedTexts(np.array(starts), np.array(columns, np.int64), np.array(values, np.float32))
