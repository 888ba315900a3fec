"""A pointwise family over the caller's arrays: checked, allocated, walked.

Arrays that need no preparation are recognised by the extension itself, in a fraction of the microseconds that Python
takes for it; all others, and every error, go the long way.
"""

from typing import Any

import numpy as np

from . import arrays, threads
from .arrays import Array
from .dispatch import Engine, choose
from .rules import FAMILIES

# Arguments that may be None, for zeros, and are then the last ones.
OPTIONAL = ("ref_chosen_logps", "ref_rejected_logps", "margin")

ONE_PIECE = 10_000  # elements: of less, to make views costs more than to make arrays

Walked = tuple[list[float], tuple[Any, ...], int, float]


def walk(
    family: str,
    kind: str,
    names: tuple[str, ...],
    given: tuple[Any, ...],
    options: tuple[float, ...],
    weight: float | None,
    wanted: int,
    mask: Any,
    out: Any,
    backend: str | None,
) -> Walked:
    """(tallies, outputs in the shape of the inputs, number of elements that count, weight) of the rule ``kind``.

    ``names`` are the caller's for the ``given`` arrays; None is zeros where it may be given.  The first ``wanted``
    outputs are computed, into ``out`` (an array, or a tuple of several) if that is given.  ``weight`` is the rule's
    last parameter; None is 1 / n, for a mean.
    """
    engine = choose(backend, *given)
    first = given[0]
    if engine.at_once is not None and mask is None and type(first) is np.ndarray:
        if given[-1] is None and names[-1] in OPTIONAL:
            zeros = np.zeros(first.shape, first.dtype)
            given = tuple(zeros if x is None and name in OPTIONAL else x for name, x in zip(names, given, strict=True))
        n = first.size
        share = weight if weight is not None else 1.0 / n if n else 1.0
        if out is not None:
            outputs = out if type(out) is tuple else (out,)
        else:
            outputs = _fresh(wanted, first.shape, first.dtype, n)
        if len(outputs) == wanted:
            most = threads.WORTH_SHARING - 1
            tallies = engine.at_once(family, kind, given, (*options, share), outputs, most)
            if tallies is not None:
                return tallies, outputs, n, share
    return _prepared(engine, family, kind, names, given, options, weight, wanted, mask, out)


def _fresh(count: int, shape: tuple[int, ...], dtype: np.dtype, size: int) -> tuple[Array, ...]:
    """New arrays; large ones in one piece of memory, since several would each be given back to the system and cost page
    faults at every call (four of 4 MB: 6.8 ms instead of 2.4 for a whole DPO loss)."""
    if count == 1:
        return (np.empty(shape, dtype),)
    if size > ONE_PIECE:
        return tuple(np.empty((count, *shape), dtype))
    return tuple([np.empty(shape, dtype) for _ in range(count)])


def _prepared(
    engine: Engine,
    family: str,
    kind: str,
    names: tuple[str, ...],
    given: tuple[Any, ...],
    options: tuple[float, ...],
    weight: float | None,
    count: int,
    mask: Any,
    out: Any,
) -> Walked:
    like, total = given[0], len(FAMILIES[family].outputs)
    inputs = arrays.reals(*OPTIONAL, **dict(zip(names, given, strict=True)))
    shape, dtype, flat = inputs[0].shape, inputs[0].dtype, (inputs[0].size,)
    kept = arrays.flags("mask", mask, shape)
    n = flat[0] if kept is None else kept_count(engine, kept)
    share = weight if weight is not None else 1.0 / n if n else 1.0
    if out is not None:
        outputs = _given(out, count, shape, dtype, [x for x in (*given, mask) if x is not None])
    elif engine.on_host and shape:
        outputs = _fresh(count, shape, dtype, flat[0])
    else:
        outputs = tuple(engine.empty(shape, dtype, like) for _ in range(count))
    some = tuple(engine.zeros(flat, dtype, like) if x is None else x.reshape(flat) for x in inputs)
    every = [x.reshape(flat) for x in outputs] + [engine.empty((0,), dtype, like) for _ in range(total - count)]
    kept = None if kept is None else kept.reshape(flat)
    tallies = engine.pointwise(family, kind, some, kept, (*options, share), tuple(every))
    return tallies, outputs, n, share


def _given(out: Any, count: int, shape: tuple[int, ...], dtype: np.dtype, inputs: list[Any]) -> tuple[Array, ...]:
    """The caller's outputs, checked."""
    if count == 1:
        return (arrays.output("out", out, shape, dtype, inputs),)
    if not isinstance(out, tuple) or len(out) != count:
        what = f"a tuple of {len(out)}" if isinstance(out, tuple) else f"a {type(out).__name__}"
        raise TypeError(f"out is {what}; expected a tuple of {count} arrays")
    checked = tuple(arrays.output(f"out[{k}]", x, shape, dtype, inputs) for k, x in enumerate(out))
    for k in range(1, count):
        for j in range(k):
            if isinstance(checked[j], np.ndarray) and np.may_share_memory(checked[j], checked[k]):
                raise ValueError(f"out[{j}] shares memory with out[{k}]")
    return checked


def kept_count(engine: Engine, kept: Array) -> int:
    """How many elements a mask keeps."""
    return int(np.count_nonzero(engine.host(kept)))
