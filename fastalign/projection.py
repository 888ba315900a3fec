"""Logits as hidden · weightᵀ + bias, a tile of rows and vocabulary at a time, by the BLAS that NumPy ships.

What its bits depend on, OpenBLAS 0.3.31: its kernels for AVX-512 give a row the same bits among any number of rows, but
for one row alone, which is a matrix-vector product, and in products of less than about 10⁶ steps; those for AVX2 do not
(float64: in rows beyond a multiple of 8; float32: in few or many, by the place of a row).  Two threads of its own and
one give other bits for some shapes.  fastalign's threads begin after the product.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from . import arrays

# A product packs its operands anew at each call, which for r rows and c columns costs as r + c and computes as r · c:
# tiles are about as high as wide.
WIDTH = 4000
MAX_BYTES = 56 << 20

Blocks = list[tuple[int, int]]  # the vocabulary, cut: start and stop of each part


def host(name: str, x: Any) -> np.ndarray:
    """``x`` as a host array of whatever dtype."""
    if arrays.is_device(x):
        raise TypeError(f"{name} lies on a device; expected a host array: the products are those of NumPy's BLAS")
    return arrays.take(name, x)


def real_of(**named: np.ndarray) -> np.dtype:
    """The dtype in which products of these arrays are computed: float64 where one has it, else float32."""
    first, *others = (x.dtype for x in named.values())
    if first in arrays.FLOATS and all(other is first for other in others):
        return first
    single = np.dtype(np.float32)
    return np.result_type(*(single if _is_bits(x) else arrays.real_dtype(name, x.dtype) for name, x in named.items()))


def _is_bits(x: np.ndarray) -> bool:
    """Whether these are the bits of bfloat16."""
    return x.dtype.kind == "u" and x.dtype.itemsize == 2


def widened(x: np.ndarray, real: np.dtype) -> np.ndarray:
    """In float32 or float64; uint16 are the bits of bfloat16."""
    if x.dtype is real:
        return x
    if x.dtype.name == "bfloat16":
        x = x.view(np.uint16)
    if _is_bits(x):
        bits = x.astype(np.uint32)
        bits <<= 16
        x = bits.view(np.float32)
    return x.astype(real, copy=False)


def cuts(n: int, most: int) -> Blocks:
    """range(n) in as few parts of at most ``most`` as it takes, about equal, all but the last of a multiple of 16."""
    if n == 0:
        return []
    even = -(-n // -(-n // most))
    step = min(most, -(-even // 16) * 16)
    return [(a, min(a + step, n)) for a in range(0, n, step)]


class Source:
    """The rows of hidden states that count."""

    def __init__(self, hidden: np.ndarray, real: np.dtype, kept: np.ndarray | None) -> None:
        self.real, self.lead = real, hidden.shape[:-1]
        self.rows, self.features = math.prod(self.lead), hidden.shape[-1]
        self.hidden = hidden if hidden.ndim > 1 else hidden[None]
        self.kept = None if kept is None or kept.all() else kept
        self.index = None if self.kept is None else np.flatnonzero(self.kept)
        self.n = self.rows if self.index is None else len(self.index)
        ready = hidden.dtype == real and hidden.flags.c_contiguous and hidden.flags.aligned
        self.whole = hidden.reshape((self.rows, self.features)) if ready and self.index is None else None

    def take(self, a: int, b: int) -> np.ndarray:
        """Rows a to b of those that count.  Others are left out and not multiplied by 0: 0 · NaN is NaN."""
        if self.whole is not None:
            return self.whole[a:b]
        at = np.arange(a, b) if self.index is None else self.index[a:b]
        return np.ascontiguousarray(widened(self.hidden[np.unravel_index(at, self.hidden.shape[:-1])], self.real))

    def values(self, name: str, x: Any) -> np.ndarray:
        """What counts of an array of the shape of the tokens."""
        x = host(name, x)
        if x.shape != self.lead:
            raise ValueError(f"{name} has shape {x.shape}; expected {self.lead}, the shape of tokens")
        arrays.real_dtype(name, x.dtype)
        return arrays.cast_to(name, self.compact(x), self.real)

    def compact(self, x: np.ndarray) -> np.ndarray:
        flat = x.reshape(-1)
        return flat if self.index is None else flat[self.index]

    def spread(self, values: np.ndarray) -> np.ndarray:
        """In the shape of the tokens again; 0 where masked."""
        if values.dtype is not self.real:
            with np.errstate(over="ignore"):  # a log-sum-exp in double may be beyond float32
                values = values.astype(self.real, copy=False)
        if self.index is None:
            return values.reshape(self.lead)
        out = np.zeros(self.rows, self.real)
        out[self.index] = values
        return out.reshape(self.lead)


class Projection:
    """weight (V, H) and bias (V,): tiles of logits, and the way back from their gradients."""

    def __init__(self, weight: np.ndarray, bias: Any, real: np.dtype, max_bytes: Any) -> None:
        self.weight, self.real = weight, real
        self.vocabulary, self.features = weight.shape
        self.bias = None
        if bias is not None:
            given = host("bias", bias)
            real_of(bias=given)  # which refuses what is no number
            if given.shape != (self.vocabulary,):
                raise ValueError(f"bias has shape {given.shape}; expected ({self.vocabulary},), one per row of weight")
            self.bias = widened(given, real)
        flags = weight.flags
        self.direct = weight.dtype == real and flags.aligned and (flags.c_contiguous or flags.f_contiguous)
        self.max_bytes = arrays.count("max_bytes", max_bytes)
        self.piece = max(1, self.max_bytes // 8 // max(1, self.features * real.itemsize))
        self._memory = np.empty(0, real)

    def blocks(self, width: int) -> Blocks:
        """The vocabulary in parts that neither max_bytes nor the number of rows moves.

        Rows that lie a multiple of 1 KiB apart meet in few sets of the cache: with 4096 columns the forward product
        takes 1.07 times the whole one, with 4112 1.01.
        """
        if width >= self.vocabulary:
            return [(0, self.vocabulary)]
        step = cuts(self.vocabulary, width)[0][1]
        step += 16 * (step % 256 == 0)
        return [(s, min(s + step, self.vocabulary)) for s in range(0, self.vocabulary, step)]

    def height(self, width: int) -> int:
        """Rows of a tile that wide.

        An eighth of max_bytes is for a piece of the weights' gradient, another for weights that must be widened, the
        rest for the tile, what its rows' blocks give, and three times its hidden states: gathered, their gradient, and
        a part of that.
        """
        share = self.max_bytes - self.max_bytes // 8 * (1 if self.direct else 2)
        blocks = -(-self.vocabulary // max(1, width))
        return max(1, share // ((width + 3 * self.features) * self.real.itemsize + 64 * max(1, blocks)))

    def tiles(self, n: int, blocks: Blocks) -> tuple[Blocks, np.ndarray]:
        """``n`` rows in parts, and memory for a tile of them."""
        width = blocks[0][1]
        parts = cuts(n, self.height(width))
        return parts, np.empty(parts[0][1] * width if parts else 0, self.real)

    def logits(self, hidden: np.ndarray, start: int, stop: int, memory: np.ndarray) -> np.ndarray:
        """hidden · weightᵀ + bias, columns start to stop, in ``memory``."""
        n, width = len(hidden), stop - start
        out = memory[: n * width].reshape((n, width))
        for a, b, part in self._pieces(start, stop):
            np.matmul(hidden, part.T, out=out[:, a - start : b - start])
        if self.bias is not None:
            out += self.bias[start:stop]
        return out

    def pull(self, grad: np.ndarray, start: int, stop: int, out: np.ndarray) -> None:
        """The hidden states' gradient, grad · weight: the first block is written to ``out``, the others are added."""
        for a, b, part in self._pieces(start, stop):
            some = grad[:, a - start : b - start]
            if a == 0:
                np.matmul(some, part, out=out)
            else:
                out += np.matmul(some, part, out=self.spare(len(out)))

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, np.ndarray]]:
        """The weights of a block: as they are, or widened a piece at a time."""
        if self.direct:
            yield start, stop, self.weight[start:stop]
            return
        for a in range(start, stop, self.piece):
            b = min(a + self.piece, stop)
            yield a, b, np.ascontiguousarray(widened(self.weight[a:b], self.real))

    def spare(self, rows: int) -> np.ndarray:
        """Memory for a product of so many rows and H columns that is to be added to another."""
        need = rows * self.features
        if self._memory.size < need:
            self._memory = np.empty(need, self.real)
        return self._memory[:need].reshape((rows, self.features))


class Gradients:
    """Of weight and bias, summed over all tiles in float32 or float64, never in half precision; none of frozen ones."""

    def __init__(self, projection: Projection, frozen: bool) -> None:
        self.projection, self.frozen, self.fresh = projection, frozen, True
        shape = (0, 0) if frozen else (projection.vocabulary, projection.features)
        self.weight = np.empty(shape, projection.real)
        self.bias = None if frozen or projection.bias is None else np.zeros(projection.vocabulary)

    def add(self, grad: np.ndarray, hidden: np.ndarray, start: int, stop: int) -> None:
        """gradᵀ · hidden, of the columns start to stop; ``fresh``: the first of these rows."""
        if self.frozen:
            return
        if self.bias is not None:
            self.bias[start:stop] += np.matmul(np.ones(len(grad), grad.dtype), grad)
        if self.fresh:
            np.matmul(grad.T, hidden, out=self.weight[start:stop])
            return
        step = self.projection.piece
        for a in range(start, stop, step):
            b = min(a + step, stop)
            some = grad[:, a - start : b - start]
            self.weight[a:b] += np.matmul(some.T, hidden, out=self.projection.spare(b - a))

    def results(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        if self.frozen:
            return None, None
        if self.fresh:  # no row counted
            self.weight[...] = 0
        return self.weight, None if self.bias is None else self.bias.astype(self.projection.real)
