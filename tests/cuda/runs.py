"""What every kernel is run on, and what it must give: the same table for the source, the compiled code and a device.

A Run is one kernel on one set of arguments.  ``outputs`` are arrays among the arguments; they start as NaN.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fastalign.backends import BLOCK, reference
from fastalign.backends.numba_cuda import elements, group, moments, recurrence, row
from fastalign.binding import FAMILIES, family

NONE = {name: np.zeros(0, name) for name in ("float32", "float64", "uint8", "int64")}
NONE_2D = {name: np.zeros((0, 0), name) for name in ("float32", "float64", "uint8")}
NAN, INF = np.nan, np.inf


class Run(NamedTuple):
    label: str
    make: Callable[..., Any]
    key: tuple[str, ...]
    threads: int
    blocks: int  # as many as there is work for
    arguments: tuple[Any, ...]
    outputs: tuple[np.ndarray, ...]
    wanted: tuple[np.ndarray, ...]
    tolerance: float  # of |got − want| / max(1, |want|)


def fresh(shape: Any, dtype: Any) -> np.ndarray:
    """An output in which what was not written shows."""
    return np.full(shape, NAN if np.dtype(dtype).kind == "f" else 0xBEEF, dtype)


def encode(x: np.ndarray, kind: str) -> np.ndarray:
    if kind == "f64":
        return x
    return reference.narrow(x.astype(np.float32), kind)


def decode(x: np.ndarray, kind: str) -> np.ndarray:
    return reference.widen(x, kind).astype(np.float64)


# ---- row -------------------------------------------------------------------------------------------------------------

SHAPES = ((1, 1), (3, 1), (5, 2), (3, 31), (2, 32), (3, 33), (2, 127), (3, 129), (2, 255), (2, 513), (1, 1500), (7, 40))
LARGE = ((3, 32000), (2, 128256), (40, 1000))
ROW_TOLERANCE = {"f32": 4e-6, "f16": 4e-6, "bf16": 4e-6, "f64": 2e-13}
SPECIAL = (
    [NAN, 0.0, 1.0, 2.0],
    [INF, 0.0, 1.0, 2.0],
    [1.0, INF, INF, 2.0],
    [NAN, INF, 1.0, 2.0],
    [-INF, -INF, -INF, -INF],
    [-INF, 0.0, 1.0, 2.0],
    [0.0, -INF, 1.0, -INF],
    [5.0, -INF, -INF, -INF],
    [0.0, 0.0, 0.0, 0.0],
    [-0.0, 1e-30, -1e-30, 0.0],
    [60000.0, -60000.0, 60000.0, 1.0],
    [-60000.0, -60000.0, -60000.0, -60000.0],
)


def row_inputs(rows: int, columns: int, kind: str, mask: bool) -> tuple[np.ndarray, np.ndarray, Any]:
    rng = np.random.default_rng(rows * columns)
    logits = encode(3 * rng.standard_normal((rows, columns)), kind)
    tokens = rng.integers(0, columns, rows)
    counts = NONE["uint8"]
    if mask:
        counts = rng.integers(0, 2, rows).astype(np.uint8)
        tokens[counts == 0] = -12345
        logits[counts == 0] = encode(np.array([NAN]), kind)[0]
    return logits, tokens, counts


def special_inputs(kind: str, repeats: int) -> tuple[np.ndarray, np.ndarray, Any]:
    """Every special row, short or long, with the token at the first place."""
    rows = np.array([special + [-1.0] * (4 * repeats) for special in SPECIAL])
    rows[4] = -INF
    return encode(rows, kind), np.zeros(len(rows), np.int64), NONE["uint8"]


def every_row(kind: str, large: bool) -> Iterator[tuple[str, Any, float]]:
    for shape in SHAPES:
        yield f"{shape}", row_inputs(*shape, kind, False), 1.0
    yield "masked", row_inputs(9, 70, kind, True), 1 / 0.7
    yield "scaled", row_inputs(4, 300, kind, False), 0.5
    yield "special", special_inputs(kind, 0), 1.0
    yield "special, long", special_inputs(kind, 40), 1.0
    for shape in LARGE if large else ():
        yield f"{shape}", row_inputs(*shape, kind, False), 1.0


def threads_for(columns: int) -> int:
    return next((threads for threads in (32, 64, 128) if 4 * threads >= columns), row.THREADS)


def row_oracle(inputs: Any, kind: str, scale: float) -> tuple[np.ndarray, ...]:
    logits, tokens, mask = inputs
    out = tuple(np.empty(len(tokens)) for _ in range(3))
    reference.row_forward(decode(logits, kind), "f64", tokens, mask if mask.size else None, scale, *out)
    return out


def row_forward(kind: str, large: bool) -> Iterator[Run]:
    real = np.float64 if kind == "f64" else np.float32
    for label, inputs, scale in every_row(kind, large):
        logits, rows = inputs[0], len(inputs[0])
        out = tuple(fresh(rows, real) for _ in range(3))
        wanted, threads = row_oracle(inputs, kind, scale), threads_for(logits.shape[1])
        yield Run(
            f"{kind} {label}", row.make_forward, (kind,), threads, rows,
            (*inputs, scale, *out), out, wanted, ROW_TOLERANCE[kind],
        )  # fmt: skip
    logits, tokens, mask = row_inputs(4, 50, kind, False)
    wanted = row_oracle((logits, tokens, mask), kind, 1.0)[:2]
    wanted[0][:3] = NAN
    tokens[:3] = -1, 50, 2**62
    out = fresh(4, real), fresh(4, real)
    yield Run(
        f"{kind} bad tokens, no entropy", row.make_forward, (kind,), 64, 4,
        (logits, tokens, mask, 1.0, *out, NONE[np.dtype(real).name]), out, wanted, ROW_TOLERANCE[kind],
    )  # fmt: skip


def row_backward(kind: str, large: bool) -> Iterator[Run]:
    real = np.dtype(np.float64 if kind == "f64" else np.float32)
    # One unit in the last place of a half: the oracle rounds another way where the float32 lies near a tie.
    tolerance = {"f32": 3e-6, "f16": 2e-3, "bf16": 1.6e-2, "f64": 4e-13}[kind]
    none = NONE[real.name]
    for label, inputs, scale in every_row(kind, large):
        logits, tokens, mask = inputs
        grads = [np.random.default_rng(k).standard_normal(len(logits)).astype(real) for k in range(3)]
        saved = [x.astype(real) for x in row_oracle(inputs, kind, scale)[1:]]
        for name, given in (
            ("all", (*grads, *saved)),
            ("recomputed", (*grads, none, none)),
            ("entropy recomputed", (*grads, saved[0], none)),
            ("plain", (grads[0], none, none, saved[0], none)),
        ):
            if name != "all" and label not in ("(5, 2)", "(1, 1500)", "masked", "special", "special, long"):
                continue
            if name == "entropy recomputed" and "special" in label:
                continue  # of exact probabilities here, of those that the rounded lse implies in the oracle
            out, wanted = fresh(logits.shape, logits.dtype), np.empty(logits.shape)
            absent = (x.astype(np.float64) if x.size else None for x in given)
            z, some = decode(logits, kind), mask if mask.size else None
            reference.row_backward(z, "f64", tokens, some, scale, *absent, wanted)
            yield Run(
                f"{kind} {label}, {name}", row.make_backward, (kind,), threads_for(logits.shape[1]), len(logits),
                (*inputs, scale, *given, out, none, none, none), (out,), (wanted,), tolerance,
            )  # fmt: skip
        extra, wanted = moment_slopes(inputs, kind, scale, grads, real)
        out = fresh(logits.shape, logits.dtype)
        yield Run(
            f"{kind} {label}, moments", row.make_backward, (kind,), threads_for(logits.shape[1]), len(logits),
            (*inputs, scale, *grads, *saved, out, *extra), (out,), (wanted,), tolerance,
        )  # fmt: skip


def moment_slopes(inputs: Any, kind: str, scale: float, grads: Any, real: Any) -> tuple[Any, np.ndarray]:
    """(grad_sum_p2, sum_p2, grad_mean_logit) and the slopes of all outputs."""
    logits, tokens, mask = inputs
    some, z = mask if mask.size else None, decode(logits, kind)
    up = [np.random.default_rng(k).standard_normal(len(logits)).astype(real) for k in (3, 4)]
    values = [np.empty(len(logits)) for _ in range(3)]
    reference.row_forward(z, "f64", tokens, some, scale, *values[:2], None, values[2])
    wanted = np.empty(logits.shape)
    wide = [x.astype(np.float64) for x in (*grads, *up)]
    reference.row_backward(z, "f64", tokens, some, scale, *wide[:3], None, None, wanted, *wide[3:])
    return (up[0], values[2].astype(real), up[1]), wanted


def row_moments(kind: str, large: bool) -> Iterator[Run]:
    real = np.float64 if kind == "f64" else np.float32
    for label, inputs, scale in every_row(kind, large):
        logits, tokens, mask = inputs
        if label == "scaled":  # the token is the argmax, at first place or not
            tokens = decode(logits, kind).argmax(axis=1)
        rows = len(logits)
        out = fresh(rows, real), fresh(rows, real), np.full(rows, 7, np.uint8)
        wanted = tuple(np.empty(rows) for _ in range(5))
        some = mask if mask.size else None
        reference.row_forward(decode(logits, kind), "f64", tokens, some, scale, *wanted[:2], None, *wanted[2:])
        yield Run(
            f"{kind} {label}", moments.make_moments, (kind,), threads_for(logits.shape[1]), rows,
            (logits, tokens, mask, scale, *out), out, wanted[2:], ROW_TOLERANCE[kind],
        )  # fmt: skip


def first_bad(large: bool) -> Iterator[Run]:
    for label, tokens, mask, at in (
        ("none", [0, 3, 9], [], 2**63 - 1),
        ("masked", [-1, 3, 10], [0, 1, 0], 2**63 - 1),
        ("negative", [0, -1, -5], [], 1),
        ("too large", [-1, 3, 10, 11] + [0] * 700, [0] + [1] * 703, 2),
        ("far", [1] * 1000 + [10], [], 1000),
    ):
        found = np.array([2**63 - 1])
        arguments = np.array(tokens, np.int64), np.array(mask, np.uint8), 10, found
        yield Run(label, row.make_first_bad, (), 64, -(-len(tokens) // 64), arguments, (found,), (np.array([at]),), 0)


# ---- pointwise -------------------------------------------------------------------------------------------------------

PARAMS = {
    "pair": (0.3, 0.1, 0.25),
    "reward": (0.01, 0.25),
    "policy": (0.2, 0.3, 5.0, 0.25),
    "kl": (0.25,),
}


def pointwise_runs(name: str, large: bool) -> Iterator[Run]:
    of, sums = FAMILIES[name], len(FAMILIES[name].sums)
    sizes = (1, 255, BLOCK, 2 * BLOCK + 77, 40_000) if large else (1, 33, 300)
    for kind in family(name):
        for dtype in (np.float32, np.float64):
            for n in sizes if dtype == np.float32 else sizes[-2:]:
                for masked in (False, True):
                    rng = np.random.default_rng(n)
                    inputs = tuple(rng.standard_normal(n).astype(dtype) for _ in of.inputs)
                    mask = NONE["uint8"]
                    if masked:
                        mask = rng.integers(0, 2, n).astype(np.uint8)
                        for x in inputs:
                            x[mask == 0] = NAN
                    elif n > 40:
                        for k, value in enumerate((0.0, 300.0, -300.0, INF, -INF)):
                            inputs[k % len(inputs)][k] = value
                    blocks = -(-n // BLOCK)
                    outputs = tuple(fresh(n, dtype) for _ in of.outputs)
                    partials = fresh((blocks, of.tallies), np.float64)
                    wide = tuple(x.astype(np.float64) for x in inputs)
                    wanted = tuple(np.empty(n) for _ in outputs), np.zeros(partials.shape)
                    for k in range(blocks):
                        at = slice(k * BLOCK, (k + 1) * BLOCK)
                        reference.pointwise(
                            name, kind, tuple(x[at] for x in wide), mask[at] if masked else None, PARAMS[name],
                            tuple(x[at] for x in wanted[0]), wanted[1][k : k + 1],
                        )  # fmt: skip
                        if masked and not mask[at].any():
                            wanted[1][k, sums:] = -INF
                    yield Run(
                        f"{kind} {n} {np.dtype(dtype).name}{' masked' if masked else ''}", elements.make_pointwise,
                        (name, kind), elements.THREADS, blocks, (inputs, mask, PARAMS[name], outputs, partials),
                        (*outputs, partials), (*wanted[0], wanted[1]), 1e-12 if dtype == np.float64 else 1e-7,
                    )  # fmt: skip


# ---- scan ------------------------------------------------------------------------------------------------------------


def scan_runs(kind: str, large: bool) -> Iterator[Run]:
    shapes = ((1, 1), (5, 3), (17, 130), (200, 300)) if large else ((1, 1), (4, 3), (9, 33))
    for steps, streams in shapes:
        for layout in ("TN", "NT", "packed"):
            for option in ("plain", "next", "final", "masked", "bare"):
                if kind == "gae" and option == "bare":
                    continue
                for dtype in (np.float32, np.float64):
                    yield _scan(kind, steps, streams, layout, option, np.dtype(dtype))


def _scan(kind: str, steps: int, streams: int, layout: str, option: str, dtype: np.dtype) -> Run:
    rng = np.random.default_rng(steps)
    shape, offsets = (steps, streams) if layout == "TN" else (streams, steps), None
    if layout == "packed":
        offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 2 * steps + 1, streams))])
        shape = (1, int(offsets[-1]))
    rewards, values, following, final = (rng.standard_normal(shape).astype(dtype) for _ in range(4))
    ended, cut, counts = ((rng.random(shape) < p).astype(np.uint8) for p in (0.2, 0.2, 0.7))
    following[ended == 1] = NAN
    final[(cut == 0) | (ended == 1)] = NAN
    given = {"values": values, "next": None, "final": None, "last": rng.standard_normal(streams).astype(dtype)}
    truncated, mask, returns = None, None, fresh(shape, dtype)
    if option == "next":
        given.update(next=following, last=None)
        truncated = cut
    if option in ("final", "masked"):
        given["final"], truncated = final, cut
    if option == "masked":
        mask = counts
        rewards[counts == 0] = NAN
        values[counts == 0] = NAN
    if option == "bare":
        given.update(values=None, last=None)
        returns = None
    wanted = [np.empty(shape), None if returns is None else np.empty(shape)]
    wide = [None if x is None else x.astype(np.float64) for x in (rewards, *given.values())]
    reference.scan(kind, *wide, ended, truncated, mask, 0.99, 0.95, "TN" if layout == "TN" else "NT", *wanted, offsets)
    out, none = fresh(shape, dtype), NONE_2D[dtype.name]
    reals = [none if given[k] is None else given[k] for k in ("values", "next", "final")]
    last = NONE[dtype.name] if given["last"] is None else given["last"]
    flags = [NONE_2D["uint8"] if x is None else x for x in (truncated, mask)]
    both = out, none if returns is None else returns
    arguments = rewards, *reals, last, ended, *flags, 0.99, 0.95, layout == "TN", *both
    arguments = *arguments, NONE["int64"] if offsets is None else offsets
    outputs = (out,) if returns is None else (out, returns)
    return Run(
        f"{layout} {steps}x{streams} {option} {dtype.name}", recurrence.make_scan, (kind,), recurrence.THREADS,
        -(-streams // recurrence.THREADS), arguments, outputs, tuple(x for x in wanted if x is not None),
        2e-6 if dtype == np.float32 else 1e-13,
    )  # fmt: skip


# ---- group -----------------------------------------------------------------------------------------------------------


def group_inputs(lengths: Any, masked: bool, dtype: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(len(lengths))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    values, mask = rng.standard_normal(offsets[-1]).astype(dtype), NONE["uint8"]
    if masked:
        mask = rng.integers(0, 2, offsets[-1]).astype(np.uint8)
        values[mask == 0] = NAN
    return values, offsets, mask


LENGTHS = ((1,), (0,), (0, 5, 0, 33, 1), (31, 32, 33, 64, 65, 0, 2, 7, 9, 11), (700, 3))


def group_reduce(large: bool) -> Iterator[Run]:
    for lengths in LENGTHS + (((2000,) * 20,) if large else ()):
        for masked, mean, dtype in ((False, False, np.float32), (True, True, np.float64), (True, False, np.float32)):
            values, offsets, mask = group_inputs(lengths, masked, dtype)
            b = len(lengths)
            out, counts = fresh(b, dtype), fresh(b, np.int64)
            wanted = np.empty(b, dtype), np.empty(b, np.int64)
            reference.group_reduce(values, offsets, mask if masked else None, mean, *wanted)
            arguments = values, offsets, mask, mean, out, counts
            yield Run(
                f"{b} segments{' masked' if masked else ''}", group.make_reduce, (), group.THREADS,
                -(-b // group.PER_BLOCK), arguments, (out, counts), wanted, 0,
            )  # fmt: skip


def group_spread(large: bool) -> Iterator[Run]:
    for lengths in LENGTHS + (((2000,) * 20,) if large else ()):
        for masked, mean, dtype in ((False, False, np.float32), (True, True, np.float64), (False, True, np.float32)):
            values, offsets, mask = group_inputs(lengths, masked, dtype)
            grad = np.random.default_rng(1).standard_normal(len(lengths)).astype(dtype)
            kept = mask if masked else np.ones(values.size, np.int64)
            counts = np.diff(np.concatenate([[0], np.cumsum(kept)])[offsets])
            out, wanted = fresh(values.shape, dtype), np.empty(values.shape, dtype)
            reference.group_spread(grad, offsets, mask if masked else None, mean, counts, wanted)
            arguments = grad, offsets, mask, mean, counts, out
            yield Run(
                f"{len(lengths)} segments{' masked' if masked else ''}", group.make_spread, (), group.THREADS,
                -(-len(lengths) // group.PER_BLOCK), arguments, (out,), (wanted,), 1e-7,
            )  # fmt: skip


TABLE: dict[str, Callable[[bool], Iterator[Run]]] = {
    **{f"row_forward {kind}": lambda large, kind=kind: row_forward(kind, large) for kind in ROW_TOLERANCE},
    **{f"row_backward {kind}": lambda large, kind=kind: row_backward(kind, large) for kind in ROW_TOLERANCE},
    **{f"row_moments {kind}": lambda large, kind=kind: row_moments(kind, large) for kind in ROW_TOLERANCE},
    "first_bad_token": first_bad,
    **{f"pointwise {name}": lambda large, name=name: pointwise_runs(name, large) for name in FAMILIES},
    **{f"scan {kind}": lambda large, kind=kind: scan_runs(kind, large) for kind in family("scan")},
    "group_reduce": group_reduce,
    "group_spread": group_spread,
}


# ---- checking --------------------------------------------------------------------------------------------------------


def check(run: Run, launch: Callable[[Run, int, int | None], None], orders: tuple[Any, ...]) -> None:
    """Launch with (blocks, seed) of each order: within tolerance of the oracle, and the same bits every time."""
    blank, bits = [x.copy() for x in run.outputs], None
    for blocks, seed in orders:
        for out, x in zip(run.outputs, blank, strict=True):
            out[...] = x
        launch(run, max(1, min(blocks, run.blocks)), seed)
        for out, want in zip(run.outputs, run.wanted, strict=True):
            compare(run, out, want)
        now = [out.tobytes() for out in run.outputs]
        if bits is not None and now != bits:
            raise AssertionError(f"{run.label}: other bits with {blocks} blocks, seed {seed}")
        bits = now


def compare(run: Run, got: np.ndarray, want: np.ndarray) -> None:
    if got.dtype == np.uint16:
        got = decode(got, run.key[0])
    elif got.dtype == np.float32:
        with np.errstate(over="ignore"):
            want = want.astype(np.float32)  # what lies beyond float32 is infinite there
    got, want = got.astype(np.float64), want.astype(np.float64)
    with np.errstate(invalid="ignore"):
        same = (got == want) | (np.isnan(got) & np.isnan(want))
        error = np.where(same, 0.0, np.abs(got - want) / np.maximum(1.0, np.abs(want)))
    if not (error <= run.tolerance).all():
        at = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error)), error.shape)
        at = tuple(map(int, at))
        raise AssertionError(f"{run.label}: {got[at]} at {at}, expected {want[at]}")
