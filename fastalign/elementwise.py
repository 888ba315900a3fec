"""A pointwise rule over the caller's arrays: checked, allocated, walked.

Options and arrays that need no preparation are recognised by the extension itself, and small ones cast by it, in a
fraction of the microseconds that Python takes for it; all others, and every error, go the long way.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from . import arrays, threads
from .arrays import Array
from .backends import BLOCK
from .dispatch import Engine, choose, extension
from .rules import FAMILIES

# Arguments that may be None, for zeros, all or none of a rule's; they are the last ones.
OPTIONAL = ("ref_chosen_logps", "ref_rejected_logps", "margin")

ONE_PIECE = 10_000  # elements: of less, to make views costs more than to make arrays

Rates = tuple[tuple[str, int], ...]


class Rule:
    """One rule with its options checked, called with arrays: (loss, output, …, metrics).

    ``names`` are the caller's for the inputs; None is zeros where it may be given.  The first ``wanted`` outputs are
    computed, into ``out`` (an array, or a tuple of several) if that is given.  ``weight`` is the rule's last parameter,
    and multiplies the loss; None is 1 / n, for a mean over the n elements that count.  ``rates`` names the metrics: the
    loss by 0, means of the other sums and peaks by their place among the tallies; None leaves the metrics out.
    ``result`` is the tuple's type.
    """

    def __init__(
        self,
        family: str,
        kind: str,
        names: tuple[str, ...],
        options: tuple[float, ...] = (),
        *,
        wanted: int,
        weight: float | None = None,
        rates: Rates | None = None,
        result: Any = None,
    ) -> None:
        self.family, self.kind, self.names, self.options, self.wanted = family, kind, names, options, wanted
        self.weight, self.rates, self.result = weight, rates, result
        self.required = len([name for name in names if name not in OPTIONAL])
        self._calls: dict[Any, Any] = {}

    def of(self, core: Any) -> Any:
        """Its Call in that build of the extension."""
        if core not in self._calls:
            numbers = self.options, self.weight, self.required, self.wanted
            self._calls[core] = core.Call(self.family, self.kind, *numbers, self.rates, self.result)
        return self._calls[core]

    def call(self, given: tuple[Any, ...], mask: Any, out: Any, backend: str | None) -> Any:
        """By the backend that the arguments, the environment and the arrays choose."""
        engine = choose(backend, *given)
        ready = engine.ready(self)
        done = None if ready is None else ready(given, mask, out)
        return done if done is not None else self._prepared(engine, given, mask, out, ready)

    def alone(self, n: int) -> bool:
        """Whether so many elements are walked by one thread."""
        return threads.parts(n, BLOCK, n) == 1

    def fresh(self, shape: tuple[int, ...], dtype: np.dtype, size: int) -> tuple[Array, ...]:
        """New arrays; large ones in one piece of memory, since several would each be given back to the system and cost
        page faults at every call (four of 4 MB: 6.8 ms instead of 2.4 for a whole DPO loss)."""
        if self.wanted > 1 and size > ONE_PIECE:
            return tuple(np.empty((self.wanted, *shape), dtype))
        return tuple([np.empty(shape, dtype) for _ in range(self.wanted)])

    def _prepared(self, engine: Engine, given: tuple[Any, ...], mask: Any, out: Any, ready: Any) -> Any:
        """Cast, they may be taken whole after all."""
        if len({x is None for x in given[self.required :]}) > 1:
            names = " and ".join(self.names[self.required :])
            raise TypeError(f"only one of {names} is given; expected both or neither")
        like, total = given[0], len(FAMILIES[self.family].outputs)
        inputs = arrays.reals(*OPTIONAL, **dict(zip(self.names, given, strict=True)))
        shape, dtype, flat = inputs[0].shape, inputs[0].dtype, (inputs[0].size,)
        kept = arrays.flags("mask", mask, shape)
        if ready is not None and out is None:
            done = ready(tuple(inputs), None if kept is None else kept.view(np.bool_), None)
            if done is not None:
                return done
        n = flat[0] if kept is None else kept_count(engine, kept)
        weight = self.weight if self.weight is not None else 1.0 / n if n else 1.0
        if out is not None:
            outputs = _given(out, self.wanted, shape, dtype, [x for x in (*given, mask) if x is not None])
        elif engine.on_host and shape:
            outputs = self.fresh(shape, dtype, flat[0])
        else:
            outputs = tuple(engine.empty(shape, dtype, like) for _ in range(self.wanted))
        some = tuple(engine.zeros(flat, dtype, like) if x is None else x.reshape(flat) for x in inputs)
        every = [x.reshape(flat) for x in outputs] + [engine.empty((0,), dtype, like)] * (total - self.wanted)
        kept = None if kept is None else kept.reshape(flat)
        params = (*self.options, weight)
        tallies = engine.pointwise(self.family, self.kind, some, kept, params, tuple(every))
        return self.returned(tallies, n, outputs if out is None else (out,) if self.wanted == 1 else out)

    def returned(self, tallies: list[float], n: int, outputs: tuple[Array, ...]) -> Any:
        """As Call.returned in src_ext/call.pxi."""
        loss = mean_or_sum(tallies[0], n, self.weight)
        values: tuple[Any, ...] = (loss, *outputs)
        if self.rates is not None:
            values = (*values, metrics_of(self.family, self.rates, tallies, n, loss))
        return values if self.result is None else self.result(*values)


class Rules:
    """Decorates the function of some options that makes a Rule of them: rules are called by their options.

    ``call(options, arrays, mask, out, backend)`` is the extension's as soon as that computes: it finds the last options
    again and takes plain arrays whole (Again, src_ext/call.pxi), 0.1 µs before Python has found the rule.
    """

    __slots__ = ("_again", "_rule", "call")

    def __init__(self, rule: Callable[..., Rule]) -> None:
        self._rule = arrays.remembered(rule)
        self._again: Any = None
        self.call: Callable[..., Any] = self._long_way

    def _long_way(
        self, options: tuple[Any, ...], given: tuple[Any, ...], mask: Any, out: Any, backend: str | None
    ) -> Any:
        rule = self._rule(*options)
        core = extension(None) if backend is None and type(given[0]) in arrays.in_hand else None
        if core is None or not arrays.UNCHANGING.issuperset(map(type, options)):
            return rule.call(given, mask, out, backend)
        if self._again is None:
            self._again = core.Again(self._long_way)
            self.call = self._again.call
        self._again.keep(options, rule.of(core))
        return rule.call(given, mask, out, backend)


def mean_or_sum(total: float, n: int, weight: float | None) -> float:
    """Of nothing 0."""
    return total * weight if weight is not None else total / n if n else 0.0


def metrics_of(family: str, rates: Rates, tallies: list[float], n: int, loss: float) -> dict[str, float]:
    """Means of the sums, peaks as they are; of nothing NaN."""
    sums = len(FAMILIES[family].sums)
    found = {}
    for name, place in rates:
        mean = tallies[place] / n if n and place < sums else tallies[place] if n else math.nan
        found[name] = loss if place == 0 else mean
    return found


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
