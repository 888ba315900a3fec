"""Sums of exponentials of a tile by x86's own instructions, which LLVM finds in no loop: tables in registers.

2^t = 2^(j/m) 2^n 2^r, as in src_ext/lanes.h: with AVX2 m = 8, with AVX-512 16, of float32 32, so that the polynomial of
2^r is short.  AVX-512 has instructions for r and 2^n, which need no bounds.  With AVX2, bounds are a fifth of the time:
nothing is bounded, and a tile where something was beyond is swept again by the loops of tiles.py.

The next step's distances from the peak come before the powers of this one (rows.h, h), which LLVM would put off: with
AVX-512 float64 0.338 for 0.358, with entropy float32 0.126 for 0.141, with AVX2 0.206 for 0.222 (ns per element).

ns per element of 64 x 32,000, float32, float64, bfloat16, float16; with entropy; the extension's in the same run:
AVX-512   0.125 0.347 0.117 0.131   0.143 0.379 0.155 0.165   0.110 0.331 0.106 0.118   0.132 0.370 0.144 0.155
AVX2      0.175 0.556 0.200 0.183   0.201 0.595 0.229 0.209   0.138 0.470 0.148 0.148   0.166 0.540 0.176 0.170
By the loops of tiles.py float64 in AVX2 comes to 0.67 at best, counting halves of octaves and pairs of the polynomial
by f^2; in AVX-512 that takes 0.54.  AVX2 with a stack aligned to 64 bytes: nothing gained.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils

from .access import LINE

INT = ir.IntType(32)
EIGHT = ir.VectorType(INT, 8)
DOWN = 9  # rounding, without exceptions
# Vectors at once, of halves too.  By 1, 2, 4, of a tile in L1: AVX-512 0.108 0.104 0.106, float64 0.334 0.320 0.313
# (from memory 2 is 5 % faster), halves 0.125 0.120 0.118; AVX2, by 1, 2: 0.159 0.159, with entropy 0.185 0.223, float64
# 0.616 0.619, halves 0.182 0.222.  By turns, of more totals, AVX2 spills: 0.165, with entropy 0.240.  Halves of AVX-512
# with their distances first: 0.118 0.157 for 0.114 0.150; bfloat16 widened one by one: 0.119 for 0.100.
BESIDE = {("z", False): 2, ("z", True): 4, ("y", False): 1, ("y", True): 1}
# How many of the constants AVX2, of 16 registers, reads from memory: 1 and the tables, of float64 half of the series.
# None, 2, 3, 4, 7: float32 0.159 0.144 0.144 0.151 0.150, float64 0.616 0.584 0.549 0.548 0.507.
FROM_MEMORY = {("z", "float"): 0, ("z", "double"): 0, ("y", "float"): 2, ("y", "double"): 7}
# Minimax with P(0) = 1, of 2^r from 0 to 1/32 and to 1/16, and to both sides of 0 up to 1/16.  2^t is off by at most
# 1.97 (all floats from -126 to 1) and 1.12 units of the last place, with AVX2 1.94 and 1.76; of halves with AVX-512,
# which are not near, 2.88.  One degree more instead of near, 1.85 units: 0.115 for 0.104 ns per element.
SERIES = {
    ("z", "float"): (0.69312373150249832796, 0.24265269609690477317),
    ("z", "double"): (
        6.9314718055993774104e-1, 2.4022650696146326025e-1, 5.5504108419541835352e-2, 9.6181408030916121873e-3,
        1.3330742244346726924e-3, 1.573628290535441693e-4,
    ),
    ("y", "float"): (6.9314721426274782089e-1, 2.4025762979621786535e-1, 5.5496221168027351817e-2),
    ("y", "double"): (
        6.9314718055994531811e-1, 2.4022650695911516032e-1, 5.550410866480235553e-2, 9.6181290851788626424e-3,
        1.3333558238944924407e-3, 1.5404521944127649916e-4, 1.5251844329997301477e-5,
    ),
}  # fmt: skip
# What is beyond a sum of AVX2 must show in its bits, so distances are in such parts of an octave (src_ext/lanes.h).
UNIT = {("z", 32): 1.0, ("z", 64): 1.0, ("y", 32): 2.0**13, ("y", 64): 2.0**16}


class Vectors:
    """Of one type, in one builder; ``near``: with powers as near as can be; ``unit``: an octave, in t."""

    def __init__(self, builder: Any, registers: str, real: str, near: bool, unit: float = 0.0) -> None:
        self.builder, self.registers, self.name, self.near = builder, registers, real, near
        single = real == "float"
        self.bits = 32 if single else 64
        self.count, self.unit = (512 if registers == "z" else 256) // self.bits, unit or UNIT[registers, self.bits]
        self.from_memory = FROM_MEMORY[registers, real]
        self.real = ir.FloatType() if single else ir.DoubleType()
        self.kind = ir.VectorType(self.real, self.count)
        self.whole = ir.VectorType(ir.IntType(self.bits), self.count)
        series = [self.every(c / self.unit**k) for k, c in enumerate(SERIES[registers, real], 1)]
        self.constants = [self.every(1.0), *self.tables(), *series]
        self.place: Any = None  # of the first of them, where they are read from memory

    def constant(self, k: int) -> Any:
        """The k-th: 1, the tables, the series."""
        if self.place is None or k >= self.from_memory:
            return self.constants[k]
        at = self.builder.gep(self.place, [INT(0), INT(k)])
        return self.builder.load(at, align=self.count * self.bits // 8)

    def pool(self) -> Any:
        """Where the address of the constants in memory stands."""
        kept = self.constants[: self.from_memory]
        made = ir.Constant(ir.LiteralStructType([x.type for x in kept]), kept)
        pool = cgutils.global_constant(self.builder.module, f"constants_{self.name}", made)
        pool.align = LINE
        return cgutils.alloca_once_value(self.builder, pool)

    def read_again(self, pool: Any) -> None:
        """What is made from here on reads them again: LLVM would keep all in registers, and spill what counts."""
        kind = pool.type.pointee
        same = ir.InlineAsm(ir.FunctionType(kind, [kind]), "", "=r,0", side_effect=True)
        self.place = self.builder.call(same, [self.builder.load(pool)])
        self.builder.store(self.place, pool)

    def multiply(self, by: Any) -> None:
        """All powers by a vector: no operation more.  With AVX2, and by what leaves all coefficients their digits."""
        series = range(1 + len(self.tables()), len(self.constants))
        self.constants = [by if k == 0 else x for k, x in enumerate(self.constants)]
        for k in series:
            self.constants[k] = self.builder.fmul(by, self.constants[k])
        self.from_memory = 0

    def every(self, x: float) -> Any:
        return self.kind([float(np.float32(x)) if self.bits == 32 else x] * self.count)

    def spread(self, x: Any) -> Any:
        one = self.builder.insert_element(self.kind(ir.Undefined), x, INT(0))
        return self.builder.shuffle_vector(one, one, ir.VectorType(INT, self.count)([0] * self.count))

    def lanes_from(self, k: Any) -> Any:
        """Which lanes are the k-th or later."""
        b, lanes = self.builder, ir.VectorType(INT, self.count)
        first = b.insert_element(lanes(ir.Undefined), b.trunc(k, INT), INT(0))
        return b.icmp_signed(">=", lanes(list(range(self.count))), b.shuffle_vector(first, first, lanes(None)))

    def lanes_until(self, n: Any, i: Any) -> Any:
        """Which of the lanes from i on lie before n."""
        return self.builder.not_(self.lanes_from(self.builder.sub(n, i)))

    def load_some(self, place: Any, size: int, mask: Any, others: Any) -> Any:
        return self.call(f"llvm.masked.load.{self.short(size)}.p0", others.type, place, INT(size), mask, others)

    def store_some(self, x: Any, place: Any, size: int, mask: Any) -> None:
        self.call(f"llvm.masked.store.{self.short(size)}.p0", ir.VoidType(), x, place, INT(size), mask)

    def short(self, size: int) -> str:
        return f"v{self.count}" + {2: "i16", 4: "f32", 8: "f64"}[size]

    def call(self, name: str, kind: Any, *args: Any) -> Any:
        made = ir.FunctionType(kind, [x.type for x in args])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, made, name), args)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return self.call(f"llvm.fma.v{self.count}f{self.bits}", self.kind, a, b, c)

    def in_order(self, some: list[Any]) -> list[Any]:
        """The same, all of them before anything that is made of one: LLVM would put off what is prepared."""
        kinds, letter = [x.type for x in some], "v" if self.registers == "z" else "x"
        held = [f"={letter}"] * len(some) + list(map(str, range(len(some))))
        made = ir.FunctionType(ir.LiteralStructType(kinds), kinds)
        found = self.builder.call(ir.InlineAsm(made, "", ",".join(held), side_effect=False), some)
        return [self.builder.extract_value(found, k) for k in range(len(some))]

    def woven(self, a: Any, b: Any) -> list[Any]:
        """The lanes of both in turn, as two vectors."""
        order, half = [k for i in range(self.count) for k in (i, self.count + i)], ir.VectorType(INT, self.count)
        return [self.builder.shuffle_vector(a, b, half(part)) for part in (order[: self.count], order[self.count :])]

    def largest(self, a: Any, b: Any) -> Any:
        """b, where it is not below a: NaN stays."""
        return self.builder.select(self.builder.fcmp_ordered("<", b, a), a, b)

    def smallest(self, a: Any, b: Any) -> Any:
        """b, where it is not above a: NaN stays."""
        return self.builder.select(self.builder.fcmp_ordered("<", a, b), a, b)

    def larger(self, a: Any, b: Any) -> Any:
        """Of numbers; an instruction."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def power(self, t: Any) -> tuple[Any, Any, Any]:
        """2^t in two factors, or None for the other one, and the bits that tell whether t was within bounds, or None.

        Near it is root + root p r, in one: 1 + p r would round what is then multiplied.
        """
        r, root, seen = self.parts_z(t) if self.registers == "z" else self.parts_y(t)
        series = [self.constant(k) for k in range(1 + len(self.tables()), len(self.constants))]
        p = series[-1]
        for c in series[-2::-1]:
            p = self.fma(p, r, c)
        if self.near:
            return self.fma(self.builder.fmul(p, r), root, root), None, seen
        return self.fma(p, r, self.constant(0)), root, seen

    def product(self, a: Any, b: Any) -> Any:
        return a if b is None else self.builder.fmul(a, b)

    def added(self, a: Any, b: Any, total: Any) -> Any:
        return self.builder.fadd(total, a) if b is None else self.fma(a, b, total)

    def tables(self) -> list[Any]:
        """Roots of 2: one register and the other; with AVX2 their bits, relieved of what j adds to an exponent."""
        single, z = self.bits == 32, self.registers == "z"
        m, real, whole = (32 if z else 8, np.float32, np.int32) if single else (16 if z else 8, np.float64, np.int64)
        roots = (2.0 ** (np.arange(m) / m)).astype(real)
        if z:
            return [self.kind([float(x) for x in part]) for part in (roots[: self.count], roots[self.count :])]
        step: Any = whole(2 ** ((23 if single else 52) - 3))
        bits = (roots.view(whole) - np.array(1, real).view(whole) - np.arange(8, dtype=whole) * step).view(np.uint32)
        parts = (bits,) if single else (bits[::2], bits[1::2])
        return [EIGHT([int(x) for x in part]) for part in parts]

    def parts_z(self, t: Any) -> tuple[Any, Any, Any]:
        single = self.bits == 32
        kind, end = self.kind, "ps.512" if single else "pd.512"
        mask, steps, any_, near = ir.IntType(self.count)(-1), 5 if single else 4, kind(ir.Undefined), INT(4)
        r = self.call(f"llvm.x86.avx512.mask.reduce.{end}", kind, t, INT(steps << 4 | DOWN), any_, mask, near)
        magic = self.every(1.5 * 2.0 ** (23 - steps if single else 52 - steps))
        z = self.builder.bitcast(self.call(f"llvm.x86.avx512.add.{end}", kind, t, magic, INT(DOWN)), self.whole)
        root = self.call(f"llvm.x86.avx512.vpermi2var.{end}", kind, self.constant(1), z, self.constant(2))
        return r, self.call(f"llvm.x86.avx512.mask.scalef.{end}", kind, root, t, any_, mask, near), None

    def parts_y(self, t: Any) -> tuple[Any, Any, Any]:
        b, single = self.builder, self.bits == 32
        bias, mantissa = (127, 23) if single else (1023, 52)
        magic = self.every((2.0 ** (mantissa - 3) + bias) * self.unit)
        above = b.fadd(t, magic)
        r, z = b.fadd(t, b.fsub(magic, above)), b.bitcast(above, self.whole)
        if single:
            root = self.call("llvm.x86.avx2.permd", EIGHT, self.constant(1), z)
        else:
            words = b.bitcast(z, EIGHT)
            places = b.shuffle_vector(words, words, EIGHT([0, 0, 2, 2, 4, 4, 6, 6]))
            halves = [self.call("llvm.x86.avx2.permd", EIGHT, self.constant(k), places) for k in (1, 2)]
            root = b.bitcast(b.shuffle_vector(*halves, EIGHT([0, 9, 2, 11, 4, 13, 6, 15])), self.whole)
        power = b.add(b.shl(z, self.whole([mantissa - 3] * self.count)), root)
        return r, b.bitcast(power, self.kind), z


def across(v: Vectors, parts: list[Any], joined: Any = None) -> Any:
    b, one, count = v.builder, parts[0], v.count
    joined = b.fadd if joined is None else joined
    for part in parts[1:]:
        one = joined(one, part)
    while count > 1:
        count //= 2
        halves = [[*range(first, first + count)] for first in (0, count)]
        one = joined(*(b.shuffle_vector(one, one, ir.VectorType(INT, count)(half)) for half in halves))
    return b.extract_element(one, INT(0))


def beyond(v: Vectors, seen: Any) -> Any:
    """Whether a t was NaN, below the exponents, or more than one above them."""
    b, allowed = v.builder, 0x500007FF if v.bits == 32 else 0x4400000000003FFF
    four = ir.VectorType(ir.IntType(64), 4)
    bits = four([allowed * (2**32 + 1) if v.bits == 32 else allowed] * 4)
    return b.icmp_signed("==", v.call("llvm.x86.avx.ptestc.256", INT, bits, b.bitcast(b.load(seen), four)), INT(0))
