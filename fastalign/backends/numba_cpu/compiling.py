"""How loops are compiled, and the rules as they call them."""

import os
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite.binding import get_host_cpu_name, parse_assembly
from numba import cfunc, types
from numba import njit as compiler

from ... import cut
from ...binding import Binding
from .vecmath import vecmath

njit: Any = compiler  # not all of its options are in its annotations


def jit(*signature: Any, **options: Any) -> Any:
    """With a signature it compiles at once, for these types and those that convert to them, and never again."""
    kept = os.environ.get("FASTALIGN_NUMBA_CACHE") == "1"
    return njit(*signature, nogil=True, error_model="numpy", no_cfunc_wrapper=True, cache=kept, **options)


def c_function(signature: Any, **options: Any) -> Any:
    """A function that is called by its address."""
    kept = os.environ.get("FASTALIGN_NUMBA_CACHE") == "1"
    return cfunc(signature, error_model="numpy", cache=kept, **options)


def given(dtype: str, axes: int = 1) -> Any:
    """The type of an array that is read; one that could be written converts to it."""
    return types.Array(getattr(types, dtype), axes, "C", readonly=True)


def filled(dtype: str, axes: int = 1) -> Any:
    """The type of an array that is written."""
    return types.Array(getattr(types, dtype), axes, "C")


CONTRACT = {"contract"}
SUMS = {"reassoc", "contract", "nsz"}


@cache
def fuses() -> bool:
    """Whether a product and a sum are one instruction here, for the processor that NUMBA_CPU_NAME may have named."""

    def fused(a: float, b: float, c: float) -> float:
        return a * b + c

    return bool(njit(fastmath=CONTRACT)(fused)(1 + 2.0**-30, 1 - 2.0**-30, -1.0) != 0.0)


HALF = """
define float @wide(half %x) {
  %y = fpext half %x to float
  ret float %y
}
define half @narrow(float %x) {
  %y = fptrunc float %x to half
  ret half %y
}"""
VECTOR = """
define <16 x float> @sum(<16 x float> %x, <16 x float> %y) {
  %z = fadd <16 x float> %x, %y
  ret <16 x float> %z
}"""
WHOLE = """
define <8 x double> @real(<8 x i64> %x) {
  %y = sitofp <8 x i64> %x to <8 x double>
  ret <8 x double> %y
}"""


def _assembly(text: str) -> str:
    """What LLVM makes of it for the processor that Numba compiles for, without loading it."""
    from numba.core.registry import cpu_target

    return str(cpu_target.target_context.codegen()._tm.emit_assembly(parse_assembly(text)))


@cache
def converts() -> bool:
    """Whether float16 and float32 become each other by instructions here; the functions called else are not there."""
    code = _assembly(HALF)
    return not any(name in code for name in ("__extendhf", "__truncsfhf", "__gnu_h2f", "__gnu_f2h"))


@cache
def vector_registers() -> str:
    """ "x" of SSE, "y" of AVX2, "z" of AVX-512, "" elsewhere."""
    code = _assembly(VECTOR)
    return next((letter for letter in "xyz" if f"%{letter}mm" in code), "")


@cache
def reduces() -> bool:
    """Whether AVX-512 has its instructions of DQ here: none of F alone leaves what a number has beyond a fraction."""
    return "vcvtqq2pd" in _assembly(WHOLE)


# LLVM's names of x86's processors that are not Intel's, as they begin.
OTHERS = tuple("generic x86-64 athlon opteron k6 k8 geode amdfam10 barcelona bdver btver znver c3".split())


@cache
def lines_ahead(processor: str = "") -> int:
    """How many bytes ahead of itself a loop over rows asks for lines, on this processor or one that LLVM calls so.

    Without, Intel's read or compute, but not both at once; AMD's gain nothing (src_ext/rows.h, j).  What matters is
    this one, not what NUMBA_CPU_NAME may have named.
    """
    name = processor or get_host_cpu_name()
    return 0 if name.startswith(OTHERS) or not vector_registers() else 4096


def inlined(function: Any, flags: set[str] = CONTRACT) -> Any:
    """For functions that only loops call: a loop with a call in it stays scalar.  Nothing of it is kept on disk."""
    options = {"fastmath": flags, "forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return njit(nogil=True, error_model="numpy", **options)(function)


@cache
def rules(dtype: str = "float64", near: bool = False) -> Binding:
    """The rules computing in ``dtype``; ``near``: where exp_within is asked for no more than vecmath's holds for.

    Their mark is a checksum of this folder and cut.py: Numba's cache on disk looks at the file of a loop, not what it
    calls.
    """
    sources = [*sorted(Path(__file__).parent.glob("*.py")), Path(cut.__file__)]
    mark = zlib.crc32(b"".join(path.read_bytes() for path in sources))
    return Binding(inlined, np.dtype(dtype).type, f"_{mark:08x}{'n' * near}", **vecmath(dtype, inlined, near))
