"""Backend "cython": the compiled extension, in the build that fits this processor.

One source is compiled for several instruction sets; FASTALIGN_ISA overrides the choice.  An extension built from
other formulas than those in fastalign/rules is refused, and one from before something the package now calls, or SPACED:
that read rows that lie apart as if they were contiguous, and beyond the array where these go backwards.
"""

import os
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from ..binding import STAMP
from . import row_units

ISAS = ("avx512", "avx2", "baseline")  # best first
SPACED = True
CALLED = frozenset(
    "Again Call group_reduce group_reduce_ready group_spread group_spread_ready numbers_ready pointwise policy_rows "
    "row_backward row_backward_ready row_forward row_forward_ready row_parts scan scan_ready shares SPACED".split()
)
REBUILD = "rebuild it: python -m pip install -e . (in the source folder), or make build"


@cache
def load(isa: str) -> ModuleType:
    """The extension built for ``isa``; ImportError with the reason where it cannot be used."""
    try:
        supports = import_module("fastalign._cpu").supports
    except ImportError as error:
        raise ImportError(f"the extension was not built ({error}); {REBUILD}") from error
    if not supports(isa):
        raise ImportError(f"this processor does not run {isa} code")
    try:
        module = import_module(f"fastalign._core_{isa}")
    except ImportError as error:
        raise ImportError(f"the extension was not built for {isa} ({error}); {REBUILD}") from error
    if module.STAMP != STAMP:
        raise ImportError(f"fastalign._core_{isa} was built from other formulas; {REBUILD}")
    lacking = sorted(name for name in CALLED if not hasattr(module, name))
    if lacking:
        raise ImportError(f"fastalign._core_{isa} was built from older sources, without {lacking[0]}; {REBUILD}")
    return module


@cache
def isas() -> tuple[str, ...]:
    """The builds that can be used here, best first; loads them all."""
    return tuple(isa for isa in ISAS if not _failure(isa))


@cache
def _best() -> str | None:
    """The first of them, which alone is loaded: each takes a first call half a millisecond to one."""
    return next((isa for isa in ISAS if not _failure(isa)), None)


def _failure(isa: str) -> str | None:
    try:
        load(isa)
    except ImportError as error:
        return str(error)
    return None


def _asked() -> str | None:
    asked = os.environ.get("FASTALIGN_ISA")
    if asked is None or asked == "":
        return None
    if asked not in ISAS:
        raise ValueError(f"FASTALIGN_ISA is {asked!r}; expected one of {', '.join(reversed(ISAS))}")
    return asked


def check_environment() -> None:
    """Raise for an unknown FASTALIGN_ISA, or one that this processor lacks."""
    asked = _asked()
    if asked is None:
        return
    try:
        supports = import_module("fastalign._cpu").supports
    except ImportError:
        return  # nothing was built: why_not says so
    if not supports(asked):
        raise ValueError(f"FASTALIGN_ISA is {asked!r}, which this processor does not run")


def why_not() -> str | None:
    """Why this backend cannot be used; None if it can."""
    asked = _asked()
    if asked:
        return _failure(asked)
    return None if _best() else _failure("baseline")


@cache
def core() -> ModuleType:
    """The build in use."""
    return load(_asked() or _best() or "baseline")


def isa() -> str:
    """The instruction set in use."""
    return core().__name__.removeprefix("fastalign._core_")


def shares() -> bool:
    """Whether calls divide themselves among threads."""
    return core().shares()


def row_forward(*arguments: Any, parts: Any = None) -> None:
    core().row_forward(*arguments, parts=parts)


def row_backward(
    logits: Any, kind: str, tokens: Any, mask: Any, scale: float, grad_logp: Any, grad_lse: Any, grad_entropy: Any,
    lse: Any, entropy: Any, out: Any, grad_sum_p2: Any = None, grad_mean_logit: Any = None, parts: Any = None,
    units: range | None = None,
) -> None:  # fmt: skip
    every = row_units(logits.shape)
    grain = every // max(1, len(logits)) if units is None else 1
    units = range(every) if units is None else units
    core().row_backward(
        logits, kind, tokens, mask, scale, grad_logp, grad_lse, grad_entropy, lse, entropy, out, grad_sum_p2,
        grad_mean_logit, parts, units.start, units.stop, max(1, grain),
    )  # fmt: skip


def row_parts(
    logits: Any, kind: str, mask: Any, scale: float, spread: bool, moments: bool, parts: Any, units: range
) -> None:
    core().row_parts(logits, kind, mask, scale, spread, moments, parts, units.start, units.stop)


def policy_rows(*arguments: Any) -> None:
    core().policy_rows(*arguments)


def pointwise(*arguments: Any) -> None:
    core().pointwise(*arguments)


def pointwise_ready(rule: Any) -> Any:
    return rule.of(core()).ready


def scan(*arguments: Any, threads: int = 1) -> None:
    core().scan(*arguments, threads=threads)


def scan_columns(*arguments: Any) -> None:
    """scan, of layout "TN", of the streams between the last two arguments."""
    core().scan(*arguments)


def group_reduce(*arguments: Any) -> None:
    core().group_reduce(*arguments)


def group_spread(*arguments: Any) -> None:
    core().group_spread(*arguments)


def warmup() -> None:
    """Load the extension; there is nothing to compile."""
    core()


def supported() -> tuple[str, ...]:
    """The instruction sets that this processor runs, best first; empty where nothing was built that could tell."""
    try:
        supports = import_module("fastalign._cpu").supports
    except ImportError:
        return ()
    return tuple(isa for isa in ISAS if supports(isa))


def keeps_subnormals() -> bool | None:
    """Whether this thread computes with subnormal numbers; None where nothing was built that could tell."""
    try:
        return import_module("fastalign._cpu").keeps_subnormals()
    except ImportError:
        return None
