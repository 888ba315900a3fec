"""What Numba's rows do with AVX-512, where no processor has it: `pytest -p avx512_numba`, with AVX2 or anything else.

Every instruction that vectors.py names becomes what Intel says of it, in LLVM's own terms, and vectors are halved as
often as they must be; whatever has no instruction's name (orders, tails, masks, tables, tiles) is as it is.
"""

import sys

from llvmlite import ir
from numba.core import cgutils

from fastalign.backends import numba_cpu
from fastalign.backends.numba_cpu.vectors import DOWN, INT, Vectors

calls = set()
ordinary = Vectors.call


def whole_below(v, t, parts):
    """The largest multiple of 1/parts that is not above t."""
    b = v.builder
    return b.fmul(ordinary(v, f"llvm.floor.{kind_of(v)}", t.type, b.fmul(t, v.every(parts))), v.every(1 / parts))


def kind_of(v):
    return f"v{v.count}f{v.bits}"


def reduced(v, t, control, others, mask, rounding):
    """t without its multiples of a part: nothing of what is larger than any fraction, or infinite."""
    assert control.constant % 16 == DOWN and mask.constant == -1 and rounding.constant == 4
    b, steps = v.builder, control.constant >> 4
    size = ordinary(v, f"llvm.fabs.{kind_of(v)}", t.type, t)
    far = b.fcmp_ordered(">=", size, v.every(2.0 ** (23 if v.bits == 32 else 52)))
    return b.select(far, v.every(0.0), b.fsub(t, whole_below(v, t, 2.0**steps)))


def added(v, t, magic, rounding):
    """Rounded down, to where the last place of the sum is a part."""
    assert rounding.constant == DOWN
    return v.builder.fadd(whole_below(v, t, 32.0 if v.bits == 32 else 16.0), magic)


def looked_up(v, low, places, high):
    b, size = v.builder, 2 * v.count
    table = cgutils.alloca_once(b, ir.ArrayType(v.real, size))
    found = low.type(ir.Undefined)
    for k in range(size):
        one = b.extract_element(low if k < v.count else high, INT(k % v.count))
        b.store(one, b.gep(table, [INT(0), INT(k)]))
    for k in range(v.count):
        place = b.and_(b.extract_element(places, INT(k)), v.whole.element(size - 1))
        found = b.insert_element(found, b.load(b.gep(table, [INT(0).type(0), place])), INT(k))
    return found


def scaled(v, x, t, others, mask, rounding):
    """x 2^n, n the whole number below t, rounded once."""
    assert mask.constant == -1 and rounding.constant == 4
    b, double = v.builder, ir.VectorType(ir.DoubleType(), v.count)
    wide = (lambda y: y) if v.bits == 64 else (lambda y: b.fpext(y, double))
    n = wide(ordinary(v, f"llvm.floor.{kind_of(v)}", t.type, t))
    power = ordinary(v, f"llvm.exp2.v{v.count}f64", double, n)
    y = b.fmul(wide(x), power)
    return y if v.bits == 64 else b.fptrunc(y, v.kind)


EMULATED = {"mask.reduce": reduced, "add": added, "vpermi2var": looked_up, "mask.scalef": scaled}


def call(v, name, kind, *args):
    if not name.startswith("llvm.x86.avx512."):
        return ordinary(v, name, kind, *args)
    instruction, width = name.removeprefix("llvm.x86.avx512.").rsplit(".", 2)[0], name[-6:]
    assert width == ("ps.512" if v.bits == 32 else "pd.512")
    calls.add(instruction)
    return EMULATED[instruction](v, *args)


Vectors.call = call
Vectors.in_order = lambda v, some: some  # no register holds one
for found in [m for name, m in sys.modules.items() if name.startswith(numba_cpu.__name__)]:
    if hasattr(found, "vector_registers"):
        found.vector_registers = lambda: "z"
    if hasattr(found, "reduces"):
        found.reduces = lambda: True


def pytest_terminal_summary(terminalreporter):
    terminalreporter.line(f"emulated: {', '.join(sorted(calls))}")
