"""Logits as rows, of whatever shape: contiguous, evenly spaced, or in pieces that are, where they lie."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from . import arrays
from .arrays import Array

WORTH = 1 << 16  # bytes of a piece: a call for each costs 13 to 44 µs, to copy so many 30 to 60


class Stack:
    """Rows of an array in equal pieces, each of them contiguous or evenly spaced: of logits[:, :-1] a sequence each."""

    def __init__(self, x: np.ndarray, axis: int) -> None:
        """``axis``: the first of a piece."""
        self.height, vocabulary = math.prod(x.shape[axis:-1]), x.shape[-1]
        self.pieces = [x[at].reshape((self.height, vocabulary)) for at in np.ndindex(x.shape[:axis])]
        self.shape = len(self.pieces) * self.height, vocabulary
        self.size = math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Rows of one piece."""
        first = rows.start or 0
        k, start = divmod(first, self.height)
        return self.pieces[k][start : start + rows.stop - first]


def first_contiguous(x: np.ndarray) -> int:
    """The axis from which on an array is contiguous; its number of axes where not even rows are."""
    axis, extent = x.ndim, x.itemsize
    while axis > 0 and x.strides[axis - 1] == extent:
        axis -= 1
        extent *= x.shape[axis]
    return axis


def first_spaced(x: np.ndarray, axis: int) -> int:
    """The axis, ``axis`` at most, from which on the last ones, which are contiguous, are spaced evenly."""
    while 0 < axis < x.ndim and (axis == x.ndim - 1 or x.strides[axis - 1] == x.strides[axis] * x.shape[axis]):
        if x.strides[axis - 1] % x.itemsize:
            break
        axis -= 1
    return axis


def stacked(x: np.ndarray, spaced: bool) -> Stack | np.ndarray | None:
    """[rows, V] of an array that is not contiguous, where it lies: spaced evenly, if who reads it allows that, or of
    pieces that are large enough to be walked one by one."""
    axis = first_contiguous(x)
    if spaced:
        axis = first_spaced(x, axis)
    if axis == 0 < x.size:
        return x.reshape((-1, x.shape[-1]))
    large = axis < x.ndim and math.prod(x.shape[axis:]) * x.itemsize >= WORTH
    return Stack(x, axis) if large else None


def pieces(*given: Any) -> Iterable[Iterable[Any]]:
    """All of these, or where there are stacks among them what is contiguous in all, one after the other."""
    stacks = [x for x in given if isinstance(x, Stack)]
    if not stacks:
        yield given
        return
    height, some = min(x.height for x in stacks), list(given)
    which = [(k, x) for k, x in enumerate(given) if isinstance(x, (np.ndarray, Stack))]
    for a in range(0, len(stacks[0]), height):
        for k, x in which:
            some[k] = x[a : a + height]
        yield some


def cut(x: Any, a: int, b: int) -> Any:
    """Rows a to b of an array, or of each of a tuple of them; what is neither is all rows'."""
    if isinstance(x, (np.ndarray, Stack)):
        return x[a:b]
    return tuple(y[a:b] for y in x) if isinstance(x, tuple) and x and isinstance(x[0], np.ndarray) else x


class Logits:
    """Logits as [rows, V] and what a kernel needs to know of them.

    ``spaced``: rows may be spaced evenly, in memory that is not theirs.
    """

    def __init__(self, x: Any, name: str, spaced: bool) -> None:
        x = arrays.take(name, x)
        if x.ndim < 1:
            raise ValueError(f"{name} has shape {x.shape}; expected at least one axis, the vocabulary last")
        if x.dtype.kind == "i" or x.dtype.kind == "b" or (x.dtype.kind == "u" and x.dtype.itemsize != 2):
            if type(x) is not np.ndarray:
                raise TypeError(f"{name} has dtype {x.dtype}; expected a floating dtype, or uint16 bits of bfloat16")
            x = x.astype(np.float64)
        self.dtype = x.dtype.newbyteorder("=") if x.dtype.kind in "fu" else x.dtype
        kind = arrays.NATIVE.get(self.dtype) or arrays.KINDS.get(self.dtype.name)
        if kind is None:
            raise TypeError(
                f"{name} has dtype {x.dtype}; expected float64, float32, float16, bfloat16 or its uint16 bits"
            )
        self.kind, self.shape = kind, tuple(x.shape)
        self.vocabulary = self.shape[-1]
        self.real = np.dtype(np.float64 if kind == "f64" else np.float32)
        if self.vocabulary == 0 and x.size == 0 and math.prod(self.shape[:-1]):
            raise ValueError(f"{name} has shape {x.shape}; the vocabulary is empty")
        self.rows, self.spaced = math.prod(self.shape[:-1]), spaced
        lies = type(x) is np.ndarray and x.dtype == self.dtype and x.flags.aligned and not x.flags.c_contiguous
        bits = stacked(self._coded(x), spaced) if lies else None
        self.bits = self.as_rows(arrays.cast_to(name, x, self.dtype)) if bits is None else bits

    def as_rows(self, x: Array) -> Any:
        """[rows, V], halves as uint16; of an array of a subclass or another library a view of the same memory.

        Of one whose rows lie apart where they are, or where pieces are small an array for ``settle``.
        """
        x = self._coded(x.view(np.ndarray) if isinstance(x, np.ndarray) else arrays.take("logits", x))
        flat = self.rows, self.vocabulary
        if isinstance(x, np.ndarray) and not x.flags.c_contiguous:
            where = stacked(x, self.spaced)
            return np.empty(flat, x.dtype) if where is None else where
        return x.reshape(flat)

    def settle(self, target: Any, out: Array) -> None:
        """Once computed, what ``as_rows`` had put elsewhere."""
        if isinstance(out, np.ndarray) and isinstance(target, np.ndarray) and not np.may_share_memory(target, out):
            self._coded(out)[...] = target.reshape(self.shape)

    def _coded(self, x: Array) -> Array:
        return x.view(np.uint16) if self.kind in ("f16", "bf16") and x.dtype != np.uint16 else x

    def gradient(self, engine: Any, out: Any, logits: Any, inputs: Iterable[Any]) -> Array:
        """A new array like ``logits``, as they were given, or ``out``, checked: its rows may lie apart."""
        if out is None:
            return engine.empty(self.shape, self.dtype, logits)
        arrays.output("out", out, self.shape, self.dtype, inputs, allowed=logits, in_pieces=True)
        return out
