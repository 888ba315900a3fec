"""Which backend computes, and how its work is divided.

The keyword wins over FASTALIGN_BACKEND, which wins over the kind of the arrays.  What is asked for by name must be
there, or raises; what is chosen automatically may fall back (cython, then numba, then numpy) and says so once.
Host arrays go to "cuda" only when asked for; device arrays never come back to the host.
"""

import os
import warnings
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from . import threads
from .arrays import is_device
from .backends import BLOCK, CUT, PART, row_units
from .logits import cut, pieces
from .rules import FAMILIES
from .rules.row import row_trusted

MODULES = {"cython": "cython_cpu", "numba": "numba_cpu", "numpy": "reference", "cuda": "numba_cuda"}
AUTOMATIC = ("cython", "numba", "numpy")
FEW_ROWS = 64  # below, whole rows may leave threads idle
_extension: Any = None  # of the automatic choice; False: it is not there

# Positions of the arrays a function writes.
WRITES = {
    "row_forward": (5, 6, 7, 8, 9, 10),
    "row_backward": (10,),
    "pointwise": (5, 6),
    "scan": (12, 13),
    "group_reduce": (4, 5),
    "group_spread": (5,),
}


def available_backends() -> dict[str, str | None]:
    """Every backend, and why it cannot be used here: None if it can.

    >>> import fastalign
    >>> fastalign.available_backends()["numpy"] is None
    True
    """
    return {name: why_not(name) for name in MODULES}


def why_not(name: str) -> str | None:
    try:
        return _module(name).why_not()
    except ImportError as error:
        return str(error)


@cache
def _module(name: str) -> ModuleType:
    return import_module(f"{__package__}.backends.{MODULES[name]}")


def check_environment() -> None:
    """Raise ValueError for a FASTALIGN_* variable that means nothing, or an instruction set the processor lacks."""
    _known(os.environ.get("FASTALIGN_BACKEND") or None, "FASTALIGN_BACKEND")
    threads.thread_count_and_source()
    cache = os.environ.get("FASTALIGN_NUMBA_CACHE", "")
    if cache not in ("", "0", "1"):
        raise ValueError(f"FASTALIGN_NUMBA_CACHE is {cache!r}; expected 0 or 1")
    if os.environ.get("FASTALIGN_ISA"):
        _module("cython").check_environment()


def _known(backend: str | None, source: str) -> None:
    if backend is not None and not (isinstance(backend, str) and backend in MODULES):
        raise ValueError(f"{source} is {backend!r}; expected one of {', '.join(map(repr, MODULES))}")


def warmup(backend: str | None = None) -> None:
    """Load or compile what the first calls of ``backend`` would wait for; None: the default one.

    Numba still compiles the row kernels again, for half a second, where logits are read-only.

    Raises ValueError for an unknown name, RuntimeError for a backend that cannot be used here.

    >>> import fastalign
    >>> fastalign.warmup("numpy")
    """
    choose(backend).module.warmup()


def choose(backend: str | None, *arrays: Any) -> "Engine":
    """The engine for a call with these arrays."""
    source = "backend"
    if backend is None:
        backend, source = threads.environment("FASTALIGN_BACKEND") or None, "FASTALIGN_BACKEND"
    on_device = False
    for x in arrays:
        if type(x) is not np.ndarray and is_device(x):
            on_device = True
    if backend is None:
        return _engine("cuda", True) if on_device else automatic()
    _known(backend, source)
    if on_device and backend != "cuda":
        raise ValueError(f"{source} is {backend!r}, but an array lies on a device; copy it to the host, or use 'cuda'")
    return _engine(backend, on_device)


@cache
def _engine(name: str, on_device: bool) -> "Engine":
    reason = why_not(name)
    if reason is not None:
        raise RuntimeError(f"backend {name!r} cannot be used: {reason}")
    if name == "cuda":
        return DeviceEngine(name, _module(name)) if on_device else StagedEngine(name, _module(name))
    return Engine(name, _module(name))


@cache
def automatic() -> "Engine":
    """The first backend that can be used here, for host arrays."""
    _module("cython").check_environment()
    reasons = {}
    for name in AUTOMATIC:
        reasons[name] = why_not(name)
        if reasons[name] is None:
            break
    if reasons["cython"] is not None:
        text = f"fastalign computes with {name} instead of its extension: {reasons['cython']}"
        warnings.warn(text, RuntimeWarning, stacklevel=4)
    return _engine(name, False)


def extension(backend: str | None, or_numba: bool = False) -> Any:
    """The extension's build, if that computes host arrays for ``backend``, or None; or Numba's module of its kind.

    Functions "…_ready" take whole calls of arrays that need little preparation, and return None for all others.  The
    extension's look for FASTALIGN_BACKEND themselves.
    """
    global _extension
    if backend is None and _extension is not None:
        return _extension or None
    if backend is not None and not isinstance(backend, str):
        return None
    name = threads.environment("FASTALIGN_BACKEND") if backend is None else backend
    if or_numba and name == "numba":
        return choose(name).module.whole
    if backend is not None:
        return choose(backend).module.core() if backend == "cython" else None
    if name in ("", "cython"):
        engine = automatic()
        _extension = engine.module.core() if engine.name == "cython" else False
    return _extension or None


class Engine:
    """A backend for host arrays, its rows, blocks, streams and segments divided among threads."""

    on_host = True  # the kernels read and write the arrays where they are

    def __init__(self, name: str, module: ModuleType) -> None:
        self.name, self.module = name, module
        self.divides = hasattr(module, "shares") and module.shares()  # what it is given, itself
        self.spaced = getattr(module, "SPACED", False)  # reads rows that lie apart, spaced evenly
        self.run = in_one_piece if self.divides else threads.run
        self._pointwise_ready = getattr(module, "pointwise_ready", None) if self.on_host else None

    def empty(self, shape: Any, dtype: Any, like: Any = None) -> Any:
        return np.empty(shape, dtype)

    def zeros(self, shape: Any, dtype: Any, like: Any = None) -> Any:
        return np.zeros(shape, dtype)

    def place(self, x: np.ndarray) -> Any:
        """A small host array where the kernels read it."""
        return x

    def host(self, x: Any) -> np.ndarray:
        return x

    def full(self, shape: Any, value: float, dtype: Any, like: Any = None) -> Any:
        return np.full(shape, value, dtype)

    def rows(self, function: str, logits: Any, *rest: Any) -> None:
        """row_forward and row_backward."""
        for some in pieces(logits, *rest):
            self._rows(function, *some)

    def _rows(self, function: str, logits: Any, *rest: Any) -> None:
        work, n = getattr(self.module, function), len(logits)
        count = threads.parts(n, 1, logits.size)
        if n < FEW_ROWS and logits.shape[1] > CUT and hasattr(self.module, "row_parts"):
            few_rows(self, function, logits, *rest)
        elif count == 1:
            work(logits, *rest)
        else:
            self.run(lambda a, b: work(*(cut(x, a, b) for x in (logits, *rest))), n, 1, count)

    def pointwise(
        self, family: str, kind: str, inputs: tuple[Any, ...], mask: Any, params: tuple[float, ...], outputs: Any
    ) -> list[float]:
        """Fill the outputs and return the tallies, sums first."""
        shape, n = FAMILIES[family], inputs[0].size
        partials = np.zeros((-(-n // BLOCK), shape.tallies))
        partials[:, len(shape.sums) :] = -np.inf
        if n:
            self._pointwise(n, family, kind, inputs, mask, params, outputs, partials)
        return fold(partials, len(shape.sums))

    def _pointwise(self, n: int, family: str, kind: str, inputs: Any, mask: Any, params: Any, outputs: Any, partials: Any):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
        work, count = self.module.pointwise, threads.parts(n, BLOCK, n)
        if count == 1:
            work(family, kind, inputs, mask, params, outputs, partials)
            return

        def part(a: int, b: int) -> None:
            tallies = partials[a // BLOCK : -(-b // BLOCK)]
            work(family, kind, cut(inputs, a, b), cut(mask, a, b), params, cut(outputs, a, b), tallies)

        self.run(part, n, BLOCK, count)

    def ready(self, rule: Any) -> Any:
        """What takes a pointwise rule's whole call, and returns None if that needs preparation; or None."""
        return self._pointwise_ready(rule) if self._pointwise_ready else None

    def scan(self, kind: str, *arrays: Any) -> None:
        """Rows are divided among threads, packed sequences too, and columns where the backend can walk some of them."""
        work, offsets = self.module.scan, arrays[13]
        columns = arrays[10] == "TN" and hasattr(self.module, "scan_columns")
        n = arrays[0].shape[1] if columns else len(arrays[0]) if offsets is None else len(offsets) - 1
        count = threads.stream_parts(columns, n, arrays[0].size) if columns or arrays[10] == "NT" else 1
        if self.divides:
            work(kind, *arrays, threads=count)
        elif count == 1:
            work(kind, *arrays)
        elif columns:
            threads.run(lambda a, b: self.module.scan_columns(kind, *arrays, a, b), n, threads.COLUMNS, count)
        elif offsets is None:
            threads.run(lambda a, b: work(kind, *(cut(x, a, b) for x in arrays)), n, 1, count)
        else:
            whole, last = arrays[5:13], arrays[4]
            threads.run(lambda a, b: work(kind, *arrays[:4], cut(last, a, b), *whole, offsets[a : b + 1]), n, 1, count)

    def group_reduce(self, *arguments: Any) -> None:
        self.module.group_reduce(*arguments)

    def group_spread(self, *arguments: Any) -> None:
        self.module.group_spread(*arguments)


def in_one_piece(body: Any, n: int, grain: int, count: int) -> None:
    """As threads.run, for a backend that divides its work itself."""
    body(0, n)


def few_rows(engine: Engine, function: str, logits: Any, kind: str, *rest: Any) -> None:
    """Rows divided at multiples of CUT columns, whatever the threads: their sums, and then what these yield."""
    module, n = engine.module, row_units(logits.shape)
    count = threads.parts(n, 1, logits.size)
    if count == 1:
        getattr(module, function)(logits, kind, *rest)
        return
    parts: Any = np.empty((n, PART))
    _, mask, scale, *others = rest
    if function == "row_forward":
        _, _, entropy, *moments = others
        spread, wanted = entropy is not None, any(x is not None for x in moments)
    else:
        grad_entropy, lse, entropy, grad_sum_p2 = others[2], others[3], others[4], (others[6:7] or [None])[0]
        spread, wanted = grad_entropy is not None, grad_sum_p2 is not None
        if lse is not None and not wanted and (entropy is not None or not spread) and all(map(row_trusted, lse)):
            parts = None  # all that is needed was saved
    if parts is not None:
        fill = module.row_parts
        engine.run(lambda a, b: fill(logits, kind, mask, scale, spread, wanted, parts, range(a, b)), n, 1, count)
    if function == "row_forward":
        module.row_forward(logits, kind, *rest, parts=parts)
    else:
        back = module.row_backward
        engine.run(lambda a, b: back(logits, kind, *rest, parts=parts, units=range(a, b)), n, 1, count)


def fold(partials: np.ndarray, sums: int) -> list[float]:
    """The tallies of all blocks, in the order of the blocks; a maximum that saw a NaN is NaN."""
    if len(partials) == 1:
        return partials[0].tolist()
    peaks = partials[:, sums:].max(axis=0, initial=-np.inf).tolist() if partials.shape[1] > sums else []
    with np.errstate(all="ignore"):  # the infinities of two blocks are no fault
        in_order = partials[:, :sums].cumsum(axis=0)[-1:]  # sum takes a single column in pairs
    return in_order.sum(axis=0).tolist() + peaks


class DeviceEngine(Engine):
    """CUDA on device arrays: nothing is copied but the tallies."""

    on_host = False

    def full(self, shape: Any, value: float, dtype: Any, like: Any = None) -> Any:
        return self.module.to_device(np.full(shape, value, dtype))

    def empty(self, shape: Any, dtype: Any, like: Any = None) -> Any:
        return self.module.empty(shape, dtype, like)

    def zeros(self, shape: Any, dtype: Any, like: Any = None) -> Any:
        return self.module.to_device(np.zeros(shape, dtype))

    def place(self, x: np.ndarray) -> Any:
        return self.module.to_device(x)

    def host(self, x: Any) -> np.ndarray:
        return self.module.to_host(x)

    def rows(self, function: str, *arguments: Any) -> None:
        getattr(self.module, function)(*arguments)

    def _pointwise(self, n: int, family: str, kind: str, inputs: Any, mask: Any, params: Any, outputs: Any, partials: Any):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
        on_device = self.module.to_device(partials)
        self.module.pointwise(family, kind, inputs, mask, params, outputs, on_device)
        partials[...] = self.module.to_host(on_device)

    def scan(self, kind: str, *arrays: Any) -> None:
        self.module.scan(kind, *arrays)


class StagedEngine(Engine):
    """CUDA on host arrays, because it was asked for: copied up, computed, copied back."""

    on_host = False

    def _rows(self, function: str, *arguments: Any) -> None:
        self._staged(function, *arguments)

    def _pointwise(self, n: int, *arguments: Any):  # type: ignore[no-untyped-def]
        self._staged("pointwise", *arguments)

    def scan(self, *arguments: Any) -> None:
        self._staged("scan", *arguments)

    def group_reduce(self, *arguments: Any) -> None:
        self._staged("group_reduce", *arguments)

    def group_spread(self, *arguments: Any) -> None:
        self._staged("group_spread", *arguments)

    def _staged(self, function: str, *arguments: Any) -> None:
        up = [self._up(x) for x in arguments]
        getattr(self.module, function)(*up)
        for position in (k for k in WRITES[function] if k < len(arguments)):
            self._down(up[position], arguments[position])

    def _up(self, x: Any) -> Any:
        if isinstance(x, np.ndarray):
            return self.module.to_device(x)
        return tuple(map(self._up, x)) if isinstance(x, tuple) else x

    def _down(self, device: Any, host: Any) -> None:
        if isinstance(host, np.ndarray) and host.size:
            host[...] = self.module.to_host(device)
        elif isinstance(host, tuple):
            for d, h in zip(device, host, strict=True):
                self._down(d, h)
