"""Token log-probabilities summed over sequences, and the way back."""

import math
from typing import Any

import numpy as np

from . import arrays
from .arrays import Array
from .dispatch import Engine, choose, extension


def _segments(n: int, shape: tuple[int, ...], cu_seqlens: Array | None, given: str = "logp has shape") -> np.ndarray:
    """Where the sequences begin; ``given`` says whose shape this is."""
    if cu_seqlens is not None:
        if len(shape) != 1:
            raise ValueError(f"{given} {shape}; expected one axis with cu_seqlens")
        return arrays.offsets(cu_seqlens, n)
    if len(shape) != 2:
        raise ValueError(f"{given} {shape}; expected (batch, length), or one axis with cu_seqlens")
    return np.arange(shape[0] + 1, dtype=np.int64) * shape[1]


def reduce_sequences(
    engine: Engine, logp: Array, offsets: np.ndarray, kept: Array | None, mean: bool, like: Any
) -> tuple[Array, Array]:
    """Sums or means of the sequences of a flat array, and how many elements of each count."""
    sums = engine.empty((len(offsets) - 1,), logp.dtype, like)
    counts = engine.empty((len(offsets) - 1,), np.dtype(np.int64), like)
    if len(offsets) > 1:
        engine.group_reduce(logp, engine.place(offsets), kept, mean, sums, counts)
    return sums, counts


def sequence_log_probs(
    logp: Array,
    *,
    mask: Array | None = None,
    cu_seqlens: Array | None = None,
    reduction: str = "sum",
    backend: str | None = None,
) -> Array:
    """Sum or mean of the token log-probabilities of each sequence.

    sum: Σₜ mₜ ℓₜ      mean: Σₜ mₜ ℓₜ / max(Σₜ mₜ, 1)

    logp, mask: (batch, length), or packed: one axis, with cu_seqlens (batch + 1) from 0 to the number of elements.
    Returns (batch,), in nats, in the dtype of logp (halves: float32), summed in double in the order of the tokens, so
    that padded and packed sequences agree to the last bit.  Masked elements (0) are not read; a sequence without others
    gives 0.  NaN and infinities follow arithmetic.  Raises ValueError for shapes and cu_seqlens, TypeError for dtypes.

    >>> from fastalign import sequence_log_probs
    >>> sequence_log_probs([[-1.0, -2.0], [-4.0, 9.0]], mask=[[1, 1], [1, 0]], reduction="mean").tolist()
    [-1.5, -4.0]
    >>> sequence_log_probs([-1.0, -2.0, -4.0], cu_seqlens=[0, 2, 3]).tolist()
    [-3.0, -4.0]
    """
    core = extension(backend) if type(logp) in arrays.in_hand else None
    if core is not None:
        done = core.group_reduce_ready(logp, mask, cu_seqlens, reduction)
        if done is not None:
            return done
    mean = arrays.choice("reduction", reduction, ("sum", "mean")) == "mean"
    engine = choose(backend, logp)
    (x,) = arrays.reals(logp=logp)
    offsets = _segments(x.size, x.shape, cu_seqlens)
    kept = arrays.flags("mask", mask, x.shape)
    flat = (x.size,)
    kept = None if kept is None else kept.reshape(flat)
    return reduce_sequences(engine, x.reshape(flat), offsets, kept, mean, logp)[0]


def sequence_log_probs_grad(
    grad: Array,
    shape: tuple[int, ...] | None = None,
    *,
    mask: Array | None = None,
    cu_seqlens: Array | None = None,
    reduction: str = "sum",
    backend: str | None = None,
) -> Array:
    """Gradient with respect to the token log-probabilities: each sequence's derivative spread over its tokens.

    sum: gᵦ mₜ      mean: gᵦ mₜ / max(Σₜ mₜ, 1)

    grad: (batch,).  The shape of logp is that of ``mask``, (batch, length), or the packed one of cu_seqlens; without
    either pass ``shape``.  Returns that shape, in the dtype of grad (halves: float32); 0 where masked.  NaN and
    infinities go to the tokens of their sequence that count.  Raises ValueError for shapes and cu_seqlens, TypeError
    for dtypes.

    >>> from fastalign import sequence_log_probs_grad
    >>> sequence_log_probs_grad([1.0, 3.0], mask=[[1, 1], [1, 0]], reduction="mean").tolist()
    [[0.5, 0.5], [3.0, 0.0]]
    """
    core = extension(backend) if type(grad) in arrays.in_hand else None
    if core is not None:
        done = core.group_spread_ready(grad, shape, mask, cu_seqlens, reduction)
        if done is not None:
            return done
    mean = arrays.choice("reduction", reduction, ("sum", "mean")) == "mean"
    engine = choose(backend, grad)
    (g,) = arrays.reals(grad=grad)
    arrays.rank("grad", g, 1)
    given = "shape is"
    if shape is None:
        if mask is not None:
            shape, given = arrays.take("mask", mask).shape, "mask has shape"
        elif cu_seqlens is not None:
            shape = (int(arrays.offsets(cu_seqlens)[-1]),)
        else:
            raise ValueError("the shape of logp is unknown; pass mask, cu_seqlens or shape")
    shape = arrays.shape_of("shape", shape)
    n = math.prod(shape)
    out = engine.empty((n,), g.dtype, grad)  # first: a shape beyond all memory ends here
    offsets = _segments(n, shape, cu_seqlens, given)
    if len(offsets) - 1 != g.size:
        raise ValueError(f"grad has shape {g.shape}; expected ({len(offsets) - 1},), one per sequence")
    kept = arrays.flags("mask", mask, shape)
    kept = None if kept is None else kept.reshape((n,))
    if n:
        counts = engine.place(_counts(offsets, engine, kept if mean else None))
        engine.group_spread(g, engine.place(offsets), kept, mean, counts, out)
    return out.reshape(shape)


def _counts(offsets: np.ndarray, engine: Engine, kept: Array | None) -> np.ndarray:
    """How many elements of each sequence count, which only means ask for.  A bool may hold any byte but 0 for True."""
    if kept is None:
        return np.diff(offsets)
    ranks = np.concatenate([[0], np.cumsum(engine.host(kept) != 0, dtype=np.int64)])[offsets]
    return np.ascontiguousarray(np.diff(ranks))


def checked_references(count: int, real: np.dtype, named: dict[str, Any]) -> list[Array | None]:
    """The reference's log-probabilities, one for each of ``count`` sequences: both or neither."""
    if len({x is None for x in named.values()}) > 1:
        raise TypeError(f"only one of {' and '.join(named)} is given; expected both or neither")
    taken = {name: None if x is None else arrays.take(name, x) for name, x in named.items()}
    for name, x in taken.items():
        if x is not None and x.shape != (count,):
            raise ValueError(f"{name} has shape {x.shape}; expected ({count},), one per sequence")
        if x is not None:
            arrays.real_dtype(name, x.dtype)
    return [None if x is None else arrays.cast_to(name, x, real) for name, x in taken.items()]
