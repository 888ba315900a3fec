"""Advantages and returns: recurrences that run backwards over time."""

from typing import Any

import numpy as np

from . import arrays, threads
from .arrays import Array
from .dispatch import Engine, choose, extension


class _Streams:
    """Arrays over time and streams as the kernels take them: two axes, the layout, and where packed streams begin."""

    def __init__(self, shape: tuple[int, ...], layout: str, cu_seqlens: Array | None = None) -> None:
        layout = arrays.choice("layout", layout, ("TN", "NT"))
        self.offsets = None
        if cu_seqlens is not None and len(shape) != 1:
            raise ValueError(f"rewards has shape {shape}; expected one axis with cu_seqlens")
        if len(shape) not in (1, 2):
            raise ValueError(f"rewards has shape {shape}; expected one stream (T,), or two axes as layout says")
        self.shape = shape
        self.layout = layout if len(shape) == 2 else "NT"
        self.two = shape if len(shape) == 2 else (1, shape[0])
        self.count = self.two[1 if self.layout == "TN" else 0]
        if cu_seqlens is not None:
            self.offsets = arrays.offsets(cu_seqlens, shape[0])
            self.count = len(self.offsets) - 1

    def flat(self, x: Array | None) -> Array | None:
        return None if x is None else x.reshape(self.two)


def _last_values(engine: Engine, x: Any, streams: _Streams, dtype: np.dtype) -> Array | None:
    if x is None:
        return None
    if arrays.is_device(x):
        array = arrays.cast_to("last_values", arrays.take("last_values", x), dtype)
    else:
        array = arrays.take("last_values", x)
        arrays.real_dtype("last_values", array.dtype)
        array = np.ascontiguousarray(array, dtype) if array.ndim else np.array([array], dtype)
    if array.shape != (streams.count,):
        one = " or a scalar" if streams.count == 1 else ""
        raise ValueError(f"last_values has shape {np.shape(x)}; expected ({streams.count},){one}, one per stream")
    return engine.place(array) if isinstance(array, np.ndarray) else array


def _remedy(rewards: Any, values: Any, layout: str) -> str:
    """For values that hold that of the state after the last step as well, as many programs keep them."""
    steps, given = (arrays.take(name, x).shape for name, x in (("rewards", rewards), ("values", values)))
    rows = len(steps) == 2 and layout == "NT"
    if not steps or given != tuple(n + (k == rows) for k, n in enumerate(steps)):
        return ""
    before = ":, " if rows else ""
    return f": pass values[{before}:-1], and values[{before}-1] as last_values"


def _check_bootstrap(
    engine: Engine,
    terminated: Array,
    truncated: Array | None,
    kept: Array | None,
    final_values: Any,
    next_values: Any,
    last_values: Any,
) -> None:
    if last_values is not None and next_values is not None:
        raise ValueError("last_values and next_values are both given; next_values holds the last ones already")
    if truncated is None or final_values is not None or next_values is not None:
        return
    cut = (engine.host(truncated) != 0) & (engine.host(terminated) == 0)
    at = np.flatnonzero(cut if kept is None else cut & (engine.host(kept) != 0))
    if at.size:
        place = arrays.where_is(int(at[0]), truncated.shape)
        raise ValueError(f"truncated{place} is True; expected final_values or next_values to continue from there")


def _run(
    kind: str,
    named: dict[str, Any],
    terminated: Any,
    truncated: Any,
    last_values: Any,
    mask: Any,
    gamma: float,
    lam: float,
    layout: str,
    cu_seqlens: Any,
    out: tuple[Any, ...] | None,
    outputs: tuple[str, ...],
    backend: str | None,
) -> tuple[Array, ...]:
    """Check, allocate and walk one recurrence; the shapes of its results are those of the rewards."""
    gamma = arrays.number("gamma", gamma, 0.0, 1.0)
    lam = arrays.number("lam", lam, 0.0, 1.0)
    engine = choose(backend, *(x for x in named.values() if x is not None))
    if terminated is None:
        raise TypeError("terminated is None; expected flags of the shape of rewards")
    try:
        real = dict(zip(named, arrays.reals("next_values", "final_values", **named), strict=True))
    except ValueError as error:
        alone = cu_seqlens is None and named["next_values"] is None
        remedy = _remedy(named["rewards"], named["values"], layout) if alone and "values" in named else ""
        raise ValueError(f"{error}{remedy}") from None
    rewards = real["rewards"]
    streams = _Streams(rewards.shape, layout, cu_seqlens)
    shape = rewards.shape
    ends = arrays.flags("terminated", terminated, shape, "1 = ended")
    cuts = arrays.flags("truncated", truncated, shape, "1 = cut short")
    kept = arrays.flags("mask", mask, shape)
    _check_bootstrap(engine, ends, cuts, kept, named.get("final_values"), named.get("next_values"), last_values)
    last = _last_values(engine, last_values, streams, rewards.dtype)
    given = *named.values(), terminated, truncated, mask, last_values, cu_seqlens
    inputs = [x for x in given if x is not None]
    filled = _outputs(engine, outputs, out, shape, rewards.dtype, inputs, named["rewards"])
    if rewards.size:
        both = [streams.flat(x) for x in filled] + [None]
        engine.scan(
            kind,
            streams.flat(rewards),
            streams.flat(real.get("values")),
            streams.flat(real.get("next_values")),
            streams.flat(real.get("final_values")),
            last,
            streams.flat(ends),
            streams.flat(cuts),
            streams.flat(kept),
            gamma,
            lam,
            streams.layout,
            *both[:2],
            None if streams.offsets is None else engine.place(streams.offsets),
        )
    return tuple(filled) if out is None else out


def _outputs(
    engine: Engine, names: tuple[str, ...], out: Any, shape: Any, dtype: np.dtype, inputs: list[Any], like: Any
) -> list[Array]:
    if out is None:
        return [engine.empty(shape, dtype, like) for _ in names]
    if not isinstance(out, tuple) or len(out) != len(names):
        raise TypeError(f"out is a {type(out).__name__}; expected a tuple of {len(names)} arrays")
    places = ["out"] if len(names) == 1 else [f"out[{k}]" for k in range(len(names))]
    given = [arrays.output(place, x, shape, dtype, inputs) for place, x in zip(places, out, strict=True)]
    if len(given) == 2 and isinstance(given[0], np.ndarray) and np.may_share_memory(given[0], given[1]):
        raise ValueError("out[0] shares memory with out[1]")
    return given


def gae(
    rewards: Array,
    values: Array,
    terminated: Array,
    truncated: Array | None = None,
    *,
    last_values: Array | None = None,
    next_values: Array | None = None,
    final_values: Array | None = None,
    mask: Array | None = None,
    gamma: float = 0.99,
    lam: float = 0.95,
    layout: str = "TN",
    cu_seqlens: Array | None = None,
    out: tuple[Array, Array] | None = None,
    backend: str | None = None,
) -> tuple[Array, Array]:
    """Generalised advantage estimates, and the returns they make with the values, in one pass.

    Âₜ = δₜ + γλ (1 − doneₜ) Âₜ₊₁,   δₜ = rₜ + γ (1 − terminatedₜ) V′ₜ − Vₜ,   returnsₜ = Âₜ + Vₜ
    done = terminated or truncated                                        (arXiv:1506.02438, eq. 16)

    rewards, values and the flags: (T,) for one stream, (T, N) with layout "TN", (N, T) with "NT", or packed: one axis
    of several streams one after the other, with cu_seqlens (B + 1) from 0 to the number of elements and last_values
    (B,). A flag at t says that action t ended its episode: for good (terminated, which wins) or by a time limit
    (truncated). V′ₜ, the value of the state that action t reached, is next_values[t] if given; else final_values[t]
    where truncated; else values[t+1], and after the last step last_values, (N,) or a scalar for one stream, None for 0.
    mask (1 = counts): elements left out are not read, get 0, and neither decay nor cut the trace: t+1 and last are
    among those that count. γ and λ are in [0, 1]. Results keep the dtype of the inputs (integers: float64, halves:
    float32) and are carried in double; ``out`` is a pair that receives them. What lies beyond the end of an episode or
    of a packed stream never leaks, be it NaN; within one NaN and infinities propagate backwards. Empty inputs give
    empty results.

    Raises ValueError for shapes, options, cu_seqlens, last_values together with next_values, and a truncated step
    without final_values or next_values; TypeError for dtypes.

    >>> from fastalign import gae
    >>> advantages, returns = gae(
    ...     [1, 0, 2, -1, 0.5], [0.5, 0.4, 0.3, 0.2, 0.1], [0, 0, 1, 0, 0], last_values=0.6, gamma=0.9, lam=0.8)
    >>> advantages.round(6).tolist()
    [1.64768, 1.094, 1.7, -0.4332, 0.94]
    >>> gae([1.0, 1.0, 3.0], [0.0, 0.0, 0.0], [0, 0, 0], cu_seqlens=[0, 2, 3], gamma=0.5, lam=1.0)[0].tolist()
    [1.5, 1.0, 3.0]
    """
    core = extension(backend, True) if type(rewards) in arrays.in_hand and values is not None else None
    if core is not None:
        optional = next_values, final_values, last_values, terminated, truncated, mask
        numbers = gamma, lam, layout, cu_seqlens
        done = core.scan_ready("gae", rewards, values, *optional, *numbers, out, threads.WORTH_SHARING)
        if done is not None:
            return done
    named = {"rewards": rewards, "values": values, "next_values": next_values, "final_values": final_values}
    if values is None:
        raise TypeError("values is None; expected an array of the shape of rewards")
    both = ("advantages", "returns")
    advantages, returns = _run(
        "gae", named, terminated, truncated, last_values, mask, gamma, lam, layout, cu_seqlens, out, both, backend
    )
    return advantages, returns


def discounted_returns(
    rewards: Array,
    terminated: Array,
    truncated: Array | None = None,
    *,
    last_values: Array | None = None,
    next_values: Array | None = None,
    final_values: Array | None = None,
    gamma: float = 0.99,
    layout: str = "TN",
    cu_seqlens: Array | None = None,
    out: Array | None = None,
    backend: str | None = None,
) -> Array:
    """Discounted sums of future rewards, bootstrapped where the data or a truncated episode ends.

    Gₜ = rₜ + γ (1 − terminatedₜ) (V′ₜ if truncated or last, else Gₜ₊₁)   (Sutton and Barto, 2nd edition, eq. 3.9)

    Shapes, packed streams, flags, V′, dtypes, special values and errors as in ``gae``; next_values is read only where
    V′ is used.

    >>> from fastalign import discounted_returns
    >>> discounted_returns([1.0, 1.0, 1.0], [0, 1, 0], last_values=2.0, gamma=0.5).tolist()
    [1.5, 1.0, 2.0]
    """
    given = None if out is None else (out,)
    numbers = gamma, 1.0, layout, cu_seqlens
    core = extension(backend, True) if type(rewards) in arrays.in_hand else None
    if core is not None:
        optional = next_values, final_values, last_values, terminated, truncated, None
        done = core.scan_ready("returns", rewards, None, *optional, *numbers, given, threads.WORTH_SHARING)
        if done is not None:
            return done[0]
    named = {"rewards": rewards, "next_values": next_values, "final_values": final_values}
    (returns,) = _run(
        "returns", named, terminated, truncated, last_values, None, *numbers, given, ("returns",), backend
    )
    return returns


def _numbers(name: str, x: Any, n: int, wanted: str, core: Any) -> np.ndarray:
    """In float64.  Not by np.asarray(x, float): None would be NaN, and text or a date a number."""
    ready = None if core is None else core.numbers_ready(x if isinstance(x, list) else [x], n)
    if ready is not None:
        return ready
    array = arrays.take(name, x)
    arrays.real_dtype(name, array.dtype)
    if array.size != n:
        raise ValueError(f"{name} has shape {array.shape}; expected {wanted}")
    return array.astype(np.float64).reshape(n)


class PPOBuffer:
    """Steps of experience in order, and the advantages they make: ``gae`` of one stream.

    The lists states, actions, rewards, values, log_probs and dones grow by one with each step.  An episode that a time
    limit cut short has its place in ``gae`` itself, by truncated and final_values.  NaN and infinities as there.

    >>> from fastalign import PPOBuffer
    >>> buffer = PPOBuffer(gamma=0.9, lam=0.8)
    >>> for reward, value in [(1.0, 0.5), (2.0, 0.4)]:
    ...     buffer.add(state=None, action=0, reward=reward, value=value, log_prob=-1.0)
    >>> advantages, returns = buffer.compute_advantages(last_value=0.3)
    >>> advantages.round(4).tolist(), len(buffer)
    ([2.2064, 1.87], 2)
    """

    def __init__(self, gamma: float = 0.99, lam: float = 0.95, *, backend: str | None = None) -> None:
        self.gamma = arrays.number("gamma", gamma, 0.0, 1.0)
        self.lam = arrays.number("lam", lam, 0.0, 1.0)
        self.backend = backend
        self.clear()

    def clear(self) -> None:
        """Forget all steps."""
        self.states: list[Any] = []
        self.actions: list[Any] = []
        self.rewards: list[float] = []
        self.values: list[float] = []
        self.log_probs: list[float] = []
        self.dones: list[bool] = []

    def __len__(self) -> int:
        return len(self.rewards)

    def add(self, state: Any, action: Any, reward: float, value: float, log_prob: float, done: bool = False) -> None:
        """One step: done says that this action ended its episode, for good (terminated)."""
        self.states.append(state)
        self.actions.append(action)
        self.rewards.append(reward)
        self.values.append(value)
        self.log_probs.append(log_prob)
        self.dones.append(done)

    def compute_advantages(self, last_value: float = 0.0) -> tuple[Array, Array]:
        """(advantages, returns) of the steps so far, float64; last_value is that of the state after the last step.

        Raises TypeError for a step or last_value that is no number, None among them, ValueError where it is several
        (TypeError among others that are one).
        """
        n = len(self)
        if len(self.values) == n + 1:
            raise ValueError(f"values has {n + 1} numbers of {n} steps; take the last off and pass it as last_value")
        named = {"rewards": self.rewards, "values": self.values, "dones": self.dones}
        core = extension(self.backend)
        rewards, values, done = (_numbers(name, x, n, "one number per step", core) for name, x in named.items())
        last = _numbers("last_value", last_value, 1, "one number", core)
        return gae(rewards, values, done != 0, last_values=last, gamma=self.gamma, lam=self.lam, backend=self.backend)
