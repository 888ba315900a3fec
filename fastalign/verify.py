"""Every kernel on every backend of this machine against the float64 reference."""

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from .backends import cython_cpu
from .cases import DTYPES, OPERATIONS, SHAPES, disagreement, truth
from .dispatch import available_backends

# A simulated device takes seconds for a shape: one each.
FEW = {"row": "odd", "scan": "odd", "pointwise": "tile+1", "group": "odd"}
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"


class Finding(NamedTuple):
    """One operation on one backend: how many cases were run, and what was wrong with the first that failed."""

    backend: str
    operation: str
    cases: int
    failure: str | None


def targets() -> dict[str, str | None]:
    """What to verify, as "cython/avx2" or "numba", and why not."""
    found: dict[str, str | None] = {}
    for name, reason in available_backends().items():
        if name == "cython" and reason is None:
            found.update({f"cython/{isa}": None for isa in cython_cpu.isas()})
        else:
            found[name] = reason
    return found


def verify(names: list[str] | None = None, advance: Callable[[], None] = lambda: None) -> Iterator[Finding]:
    """A finding per operation and target; ``advance`` is called after each."""
    usable = [name for name, reason in targets().items() if reason is None]
    for target in usable if names is None else names:
        backend, _, isa = target.partition("/")
        with _build(isa):
            for operation in OPERATIONS:
                yield _verify(target, backend, operation)
                advance()


class _build:
    """The extension's build ``isa`` in use; "" leaves the choice as it is."""

    def __init__(self, isa: str) -> None:
        self.isa, self.before = isa, os.environ.get("FASTALIGN_ISA")

    def __enter__(self) -> None:
        if self.isa:
            self._set(self.isa)

    def __exit__(self, *_: object) -> None:
        if self.isa:
            self._set(self.before)

    @staticmethod
    def _set(isa: str | None) -> None:
        os.environ.pop("FASTALIGN_ISA", None)
        if isa is not None:
            os.environ["FASTALIGN_ISA"] = isa
        cython_cpu.core.cache_clear()


def _verify(target: str, backend: str, name: str) -> Finding:
    operation, count = OPERATIONS[name], 0
    shapes = SHAPES[operation.shape]
    labels: list[str] = [FEW[operation.shape]] if backend == "cuda" and SIMULATED else list(shapes)
    for label in labels:
        for dtype in DTYPES[operation.shape]:
            for masked in (False, True):
                arguments = operation.make(np.random.default_rng(7), shapes[label], dtype, masked)
                count += 1
                try:
                    found = disagreement(name, dtype, operation.call(arguments, backend), truth(operation, arguments))
                except Exception as error:  # whatever a backend raises is its failure
                    found = f"{type(error).__name__}: {error}"
                if found is not None:
                    place = f"{shapes[label]} {dtype}{' masked' if masked else ''}"
                    return Finding(target, name, count, f"{place}: {found}")
    return Finding(target, name, count, None)
