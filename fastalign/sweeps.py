"""Over the tiles of a projection: the row kernels forward, and the gradients back.

A tile is whole rows, or a block of the vocabulary of more rows, whose results are merged.  1,024 rows, V = 32,000,
H = 1,024, float32, one thread of Zen 4, forward with the kernels, in units of the one product hidden · weightᵀ:
blocks, 1024 x 4000 1.02, 512 x 4000 1.08, 256 x 4000 1.15; whole rows, 342 at a time 1.09, 256 1.12, 128 1.31, 64 1.63,
16 3.62.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import arrays
from .dispatch import Engine, choose
from .log_probs import inverse
from .projection import WIDTH, Blocks, Gradients, Projection, Source, host, real_of

# With whole rows the logits are there for the way back; else they are multiplied again.  Policy loss with gradients, as
# above: three products of 32 whole rows at a time 4.0 s, of 65 2.9, of 366 2.2; four of 1024 x 4000 2.8, and of the
# blocks that take no more memory than 32 or 65 whole rows 3.25.
WORTH_KEEPING = 48
NEAR, SAMPLE = 16.0, 64  # rounded at less than NEAR a logarithm is off by 5e-7 in float32; columns
FAR = 64.0  # rules.row.row_trusted: beyond, a kernel sums the row again, and here it would see a part of it


class Linear(NamedTuple):
    """What all rows have in common, checked."""

    engine: Engine
    projection: Projection
    scale: float

    @property
    def kind(self) -> str:
        return "f64" if self.projection.real == np.float64 else "f32"

    def blocks(self) -> Blocks:
        """Whole rows for the NumPy kernels: they compute a saved log-sum-exp again, from what they see."""
        return self.projection.blocks(self.projection.vocabulary if self.engine.name == "numpy" else WIDTH)

    def whole(self, n: int) -> Blocks | None:
        """One block, the whole vocabulary, where that is worth it for ``n`` rows."""
        one = self.projection.blocks(self.projection.vocabulary)
        worth = self.projection.height(self.projection.vocabulary) >= min(n, WORTH_KEEPING)
        return one if worth or len(self.blocks()) == 1 else None


class Side(NamedTuple):
    """Rows of hidden states that count, and their tokens."""

    rows: Source
    ids: np.ndarray


def prepare_linear(
    weight: Any, bias: Any, temperature: Any, max_bytes: Any, backend: str | None, **hidden: Any
) -> tuple[Linear, list[np.ndarray]]:
    """Check all but the rows; the arrays of hidden states come back as arrays."""
    taken = {name: host(name, x) for name, x in {**hidden, "weight": weight}.items()}
    engine, real = choose(backend), real_of(**taken)
    w = taken.pop("weight")
    arrays.rank("weight", w, 2)
    for name, x in taken.items():
        if x.ndim < 1:
            raise ValueError(f"{name} has shape {x.shape}; expected at least one axis, the features last")
        if x.shape[-1] != w.shape[1]:
            raise ValueError(f"weight has shape {w.shape}; expected (V, {x.shape[-1]}), as {name} has shape {x.shape}")
        if w.shape[0] == 0 and all(x.shape[:-1]):
            raise ValueError(f"weight has shape {w.shape}; the vocabulary is empty")
    projection = Projection(w, bias, real, max_bytes)
    return Linear(engine, projection, inverse(temperature, real)), list(taken.values())


def prepare_side(
    linear: Linear, hidden: np.ndarray, tokens: Any, mask: Any, ignore_index: int | None, prefix: str = ""
) -> Side:
    """Check the tokens, leave out what does not count; ``prefix`` stands before the names."""
    name, lead = f"{prefix}tokens", hidden.shape[:-1]
    given = host(name, tokens)
    if given.shape != lead:
        like = f"the shape of {prefix}hidden without its last axis"
        raise ValueError(f"{name} has shape {given.shape}; expected {lead}, {like}")
    mask = None if mask is None else host(f"{prefix}mask", mask)
    ids, kept = arrays.tokens(name, given, lead, linear.projection.vocabulary, mask, ignore_index, prefix)
    rows = Source(hidden, linear.projection.real, kept)
    return Side(rows, rows.compact(ids))


@np.errstate(all="ignore")
def forward(linear: Linear, side: Side, entropy: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(logp, lse, entropy) of the rows that count; lse in double."""
    projection, n, blocks = linear.projection, side.rows.n, linear.blocks()
    logp, lse = np.empty(n, projection.real), np.empty(n)
    spread = np.empty(n, projection.real) if entropy else None
    parts, memory = projection.tiles(n, blocks)
    for a, b in parts:
        hidden, ids, third = side.rows.take(a, b), side.ids[a:b], None if spread is None else spread[a:b]
        if len(blocks) == 1:
            tile, total = projection.logits(hidden, *blocks[0], memory), np.empty(b - a, projection.real)
            linear.engine.rows("row_forward", tile, linear.kind, ids, None, linear.scale, logp[a:b], total, third)
            lse[a:b] = total
        else:
            logp[a:b], lse[a:b], h = _by_blocks(linear, hidden, ids, blocks, memory, entropy)
            if third is not None:
                third[...] = h
    return logp, lse, spread


def _by_blocks(
    linear: Linear, hidden: np.ndarray, ids: np.ndarray, blocks: Blocks, memory: np.ndarray, entropy: bool
) -> tuple[Any, Any, Any]:
    """(logp, lse, entropy) of a part of the rows, merged."""
    n, real = len(ids), linear.projection.real
    here, total = np.empty(n, real), np.empty(n, real)
    own, home, sums = np.zeros(n), np.zeros(n, np.int64), np.empty((2, len(blocks), n))
    spreads = np.empty(sums.shape[1:], real) if entropy else None
    for k, (s, e) in enumerate(blocks):
        tile = linear.projection.logits(hidden, s, e, memory)
        local, inside = _local(ids, s, e)
        third = None if spreads is None else spreads[k]
        local[~inside] = tile[~inside, :SAMPLE].argmax(axis=1)
        linear.engine.rows("row_forward", tile, linear.kind, local, None, linear.scale, here, total, third)
        own[inside], home[inside] = here[inside], k
        sums[0, k], sums[1, k] = _precise(linear, tile, local, here, total)
    return merged(sums[0], sums[1], linear.scale, own, home, spreads)


def _precise(linear: Linear, tile: np.ndarray, local: np.ndarray, logp: np.ndarray, lse: np.ndarray) -> tuple[Any, Any]:
    """(logit, lse − z), in double, of a logit of each of a block's rows, from what a kernel made of columns ``local``.

    At 3000 the half of float32's last digit is 1e-4, which would be the error of the block's share of the probability;
    so lse − z is −logp of that logit, or lse itself and z 0, whichever was rounded at a smaller number.  The token may
    lie far below, as the largest of a few columns may, or be −∞: then the block is summed again for its largest logit,
    whose −logp is at most the log of the block's length.
    """
    row = np.arange(len(tile))
    small = np.abs(logp) < np.abs(lse)
    base, rest = np.where(small, tile[row, local], 0.0).astype(np.float64), np.where(small, -logp, lse)
    far = (np.abs(rest) > NEAR) & ~np.isnan(logp)
    if far.any():
        top, best, again = tile.argmax(axis=1), np.empty_like(logp), np.empty_like(lse)
        linear.engine.rows("row_forward", tile, linear.kind, top, far.view(np.uint8), linear.scale, best, again, None)
        base[far], rest[far] = tile[row, top][far], -best[far]
    return base, rest


def merged(
    base: np.ndarray, rest: np.ndarray, scale: float, own: np.ndarray, home: np.ndarray, spreads: np.ndarray | None
) -> tuple[Any, Any, Any]:
    """(logp, lse, H) of rows from those of their blocks: base · scale + ``rest`` the log-sum-exps and ``spreads`` the
    entropies, [blocks, rows], ``own`` the token's log-probability within its block, ``home``.

    lse = log Σ exp lse_b,   logp = own + log P_home,   H = Σ P_b (H_b − log P_b),   log P_b = lse_b − lse

    Nothing cancels: log P of the largest block is −log1p of what the others have, and no term of H is negative.
    """
    log_p, row = base * scale, np.arange(base.shape[1])
    log_p += rest
    top = np.argmax(log_p, axis=0)  # a NaN counts as the largest
    peak = log_p[top, row]
    sound = np.isfinite(peak)
    log_p = base - base[top, row]
    log_p *= scale
    log_p += rest - np.where(sound, rest[top, row], 0.0)
    p = np.exp(log_p)
    p[top, row] = 0.0
    others = np.log1p(p.sum(axis=0))
    log_p -= others
    logp = np.where(rest[home, row] == -np.inf, -np.inf, own + log_p[home, row])  # there own is NaN
    h = None
    if spreads is not None:
        p = np.exp(log_p)
        h = np.where(sound, np.where(p > 0, p * (spreads - log_p), 0.0).sum(axis=0), np.nan)
    return np.where(sound, logp, np.nan), np.where(sound, peak + others, peak), h


def _local(ids: np.ndarray, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens as columns of a block, those elsewhere as 0; and which are inside."""
    inside = (ids >= start) & (ids < stop)
    return np.where(inside, ids - start, 0), inside


# (tile, a, b, start, stop): turns the logits of rows a to b, columns start to stop, into their gradient, in place.
Slope = Callable[[np.ndarray, int, int, int, int], None]


@np.errstate(all="ignore")
def backward(linear: Linear, side: Side, blocks: Blocks, slope: Slope, gradients: Gradients) -> np.ndarray:
    """The gradient of the hidden states; that of weight and bias is added to ``gradients``."""
    projection, rows = linear.projection, side.rows
    shape = (rows.rows, rows.features)
    out = np.empty(shape, rows.real) if rows.index is None else np.zeros(shape, rows.real)
    parts, memory = projection.tiles(rows.n, blocks)
    for a, b in parts:
        hidden = rows.take(a, b)
        pulled = out[a:b] if rows.index is None else np.empty_like(hidden)
        for s, e in blocks:
            tile = projection.logits(hidden, s, e, memory)
            slope(tile, a, b, s, e)
            gradients.add(tile, hidden, s, e)
            projection.pull(tile, s, e, pulled)
        if rows.index is not None:
            out[rows.index[a:b]] = pulled
        gradients.fresh = False
    return out.reshape((*rows.lead, rows.features))


def slope_of_parts(
    linear: Linear,
    ids: np.ndarray,
    lse: np.ndarray,
    entropy: np.ndarray | None,
    grad_logp: np.ndarray,
    grad_lse: np.ndarray | None = None,
    grad_entropy: np.ndarray | None = None,
) -> Slope:
    """Of a block of each row, given what the whole row gave.

    A token elsewhere leaves −g_logp pⱼ, which a g_lse of −g_logp gives too.  Rows whose log-sum-exp is far from 0 are
    shifted by it, and a rounding of it remains: a kernel then does not sum them again.
    """
    real, scale = linear.projection.real, linear.scale
    unsound = ~np.isfinite(lse)
    far = ~unsound & (np.abs(lse) > FAR)
    shift = np.where(far, lse / scale, 0.0).astype(real)
    saved = np.where(unsound, 0.0, lse - shift.astype(np.float64) * scale).astype(real)

    def slope(tile: np.ndarray, a: int, b: int, start: int, stop: int) -> None:
        local, inside = _local(ids[a:b], start, stop)
        others = np.zeros(b - a, real) if grad_lse is None else grad_lse[a:b]
        own = np.where(inside, grad_logp[a:b], 0).astype(real)
        others = np.where(inside, others, others - grad_logp[a:b]).astype(real)
        if far[a:b].any():
            tile -= shift[a:b, None]
        pull, h = (None if x is None else x[a:b] for x in (grad_entropy, entropy))
        slopes = own, others, pull, saved[a:b], h
        linear.engine.rows("row_backward", tile, linear.kind, local, None, scale, *slopes, tile)
        tile[unsound[a:b]] = np.nan

    return slope
