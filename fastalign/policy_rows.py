"""Policy losses from rows of logits and back: a row, or a few, at a time while they are in the cache."""

from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from . import threads
from .backends import BLOCK
from .dispatch import Engine, fold
from .logits import cut, pieces
from .rules import FAMILIES

POLICY = FAMILIES["policy"]
CACHED = 1 << 20  # bytes of logits that are still in a cache on the way back; smaller parts cost more calls


class Rows(NamedTuple):
    """What a policy loss reads and writes, one element or one row of logits each."""

    logits: Any
    kind: str
    tokens: Any
    mask: Any
    scale: float
    old: Any
    advantages: Any
    logp: Any
    entropy: Any  # None where it has no part in the loss
    out: Any

    def cut(self, a: int, b: int) -> "Rows":
        return Rows(*(cut(x, a, b) for x in self))


def policy_rows(
    engine: Engine, loss_type: str, rows: Rows, params: tuple[float, ...], grad_entropy: float
) -> list[float]:
    """Fill logp, entropy and out, the gradient; return the tallies."""
    if not engine.on_host:
        return _apart(engine, loss_type, rows, params, grad_entropy)
    partials = [_partials(engine, loss_type, Rows(*some), params, grad_entropy) for some in pieces(*rows)]
    return fold(np.concatenate(partials), len(POLICY.sums))


def _partials(engine: Engine, loss_type: str, rows: Rows, params: tuple[float, ...], grad_entropy: float) -> np.ndarray:
    """The tallies of contiguous rows, a few after the other."""
    n = len(rows.logits)
    few = min(BLOCK, max(1, CACHED // max(1, rows.logits[:1].nbytes)))  # whatever the threads, and so are the tallies
    partials = np.zeros((-(-n // few), POLICY.tallies))
    partials[:, len(POLICY.sums) :] = -np.inf
    walk = _walk(engine.module, rows)

    def part(a: int, b: int) -> None:
        walk(loss_type, *rows.cut(a, b), params, grad_entropy, partials[a // few : -(-b // few)], few)

    count = threads.parts(n, few, rows.logits.size)
    if count > 1:
        engine.run(part, n, few, count)
    elif n:
        walk(loss_type, *rows, params, grad_entropy, partials, few)
    return partials


def _walk(work: ModuleType, rows: Rows) -> Any:
    """The backend's own, if it has one for these rows."""
    own, takes = getattr(work, "policy_rows", None), getattr(work, "takes_policy_rows", None)
    if own is None or (takes is not None and not takes(rows.logits.shape[1])):
        return partial(_few_at_a_time, work)
    return own


def _few_at_a_time(work: ModuleType, loss_type: str, *arguments: Any) -> None:
    """The backend function ``policy_rows`` where a backend has none: its kernels, a few rows after the other."""
    *given, params, grad_entropy, partials, few = arguments
    rows = Rows(*given)
    lse, grad = np.empty((2, few), rows.logp.dtype)
    pull = None if rows.entropy is None else np.full(few, grad_entropy, rows.logp.dtype)
    for k, start in enumerate(range(0, len(rows.logits), few)):
        x = rows.cut(start, start + few)
        saved, slope, curve = (cut(y, 0, len(x.logits)) for y in (lse, grad, pull))
        where = x.logits, x.kind, x.tokens, x.mask, x.scale
        work.row_forward(*where, x.logp, saved, x.entropy)
        inputs = x.logp, x.old, x.advantages
        work.pointwise("policy", loss_type, inputs, x.mask, params, (slope,), partials[k : k + 1])
        work.row_backward(*where, slope, None, curve, saved, x.entropy, x.out)


def _apart(engine: Engine, loss_type: str, rows: Rows, params: tuple[float, ...], grad_entropy: float) -> list[float]:
    """All rows at once, a kernel after the other: a device needs them all to be busy."""
    flat, real = (rows.logits.shape[0],), rows.logp.dtype
    lse, grad = (engine.empty(flat, real, rows.logp) for _ in range(2))
    pull = None if rows.entropy is None else engine.full(flat, grad_entropy, real, rows.logp)
    where = rows.logits, rows.kind, rows.tokens, rows.mask, rows.scale
    if flat[0]:
        engine.rows("row_forward", *where, rows.logp, lse, rows.entropy)
    inputs = rows.logp, rows.old, rows.advantages
    tallies = engine.pointwise("policy", loss_type, inputs, rows.mask, params, (grad,))
    if flat[0]:
        engine.rows("row_backward", *where, grad, None, pull, lse, rows.entropy, rows.out)
    return tallies
