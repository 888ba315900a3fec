"""Sums of exponentials of a tile by x86's own instructions, which LLVM finds in no loop: tables in registers.

2^t = 2^(j/m) 2^n 2^r, as in src_ext/lanes.h: with AVX2 m = 8, with AVX-512 16, of float32 32, so that the polynomial of
2^r is short.  AVX-512 has instructions for r and 2^n, which need no bounds.  With AVX2, bounds are a fifth of the time:
nothing is bounded, and a tile where something was beyond is swept again by the loops of tiles.py.

ns per element of 64 x 32,000, float32, float64, bfloat16, float16; with entropy; by the loops of tiles.py before:
AVX-512   0.120 0.352 0.139 0.140   0.161 0.423 0.188 0.191   0.164 0.498 0.160 0.162   0.195 0.575 0.215 0.215
AVX2      0.176 0.592 0.211 0.190   0.255 0.752 0.291 0.273   0.198 0.796 0.219 0.210   0.262 1.05 0.293 0.287
By those loops float64 in AVX2 comes to 0.67 at best, counting halves of octaves and pairs of the polynomial by f^2; in
AVX-512 that takes 0.54.  The stack of those loops aligned to 64 bytes, and they functions of their own: AVX-512 0.489,
AVX2 0.92, float32 0.242.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from .access import intrinsic

INT = ir.IntType(32)
DOWN = 9  # rounding, without exceptions
# Vectors at once, of halves too.  By 1, 2, 4, without bounds: AVX-512 0.122 0.119 0.119, float64 0.339 0.344 0.362,
# halves 0.146 0.144 0.140; AVX2 0.167 0.164 0.181, with entropy 0.227 0.263 0.308, float64 0.557 0.623 0.756.
BESIDE = {("z", False): 2, ("z", True): 4, ("y", False): 1, ("y", True): 1}
# Minimax with P(0) = 1, of 2^r from 0 to 1/32 and to 1/16, and to both sides of 0 up to 1/16.  2^t is off by at most
# 2.9 and 2.0 units of the last place, 1.9 and 1.75.
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


class Vectors:
    """Of one type, in one builder."""

    def __init__(self, builder: Any, registers: str, real: str) -> None:
        self.builder, self.registers, self.name = builder, registers, real
        single = real == "float"
        self.bits = 32 if single else 64
        self.count = (512 if registers == "z" else 256) // self.bits
        self.real = ir.FloatType() if single else ir.DoubleType()
        self.kind = ir.VectorType(self.real, self.count)
        self.whole = ir.VectorType(ir.IntType(self.bits), self.count)

    def every(self, x: float) -> Any:
        return self.kind([float(np.float32(x)) if self.bits == 32 else x] * self.count)

    def spread(self, x: Any) -> Any:
        one = self.builder.insert_element(self.kind(ir.Undefined), x, INT(0))
        return self.builder.shuffle_vector(one, one, ir.VectorType(INT, self.count)([0] * self.count))

    def call(self, name: str, kind: Any, *args: Any) -> Any:
        made = ir.FunctionType(kind, [x.type for x in args])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, made, name), args)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return self.call(f"llvm.fma.v{self.count}f{self.bits}", self.kind, a, b, c)

    def largest(self, a: Any, b: Any) -> Any:
        """b, where it is not below a: NaN stays."""
        return self.builder.select(self.builder.fcmp_ordered("<", b, a), a, b)

    def power(self, t: Any) -> tuple[Any, Any, Any]:
        """2^t in two factors, and the bits that tell whether t was within bounds, or None."""
        r, root, seen = self.parts_z(t) if self.registers == "z" else self.parts_y(t)
        series = [self.every(c) for c in (1.0, *SERIES[self.registers, self.name])]
        p = series[-1]
        for c in series[-2::-1]:
            p = self.fma(p, r, c)
        return p, root, seen

    def parts_z(self, t: Any) -> tuple[Any, Any, Any]:
        single = self.bits == 32
        kind, end = self.kind, "ps.512" if single else "pd.512"
        mask, steps = ir.IntType(self.count)(-1), 5 if single else 4
        roots = [float(np.float32(2 ** (j / 2**steps)) if single else 2 ** (j / 2**steps)) for j in range(2**steps)]
        low, high = kind(roots[: self.count]), kind(roots[self.count :])
        any_, near = kind(ir.Undefined), INT(4)
        r = self.call(f"llvm.x86.avx512.mask.reduce.{end}", kind, t, INT(steps << 4 | DOWN), any_, mask, near)
        magic = self.every(1.5 * 2.0 ** (23 - steps if single else 52 - steps))
        z = self.builder.bitcast(self.call(f"llvm.x86.avx512.add.{end}", kind, t, magic, INT(DOWN)), self.whole)
        root = self.call(f"llvm.x86.avx512.vpermi2var.{end}", kind, low, z, high)
        return r, self.call(f"llvm.x86.avx512.mask.scalef.{end}", kind, root, t, any_, mask, near), None

    def parts_y(self, t: Any) -> tuple[Any, Any, Any]:
        b, single = self.builder, self.bits == 32
        bias, mantissa = (127, 23) if single else (1023, 52)
        magic = self.every(1.5 * 2.0 ** (mantissa - 3) + bias)
        above = b.fadd(t, magic)
        r, z = b.fsub(t, b.fsub(above, magic)), b.bitcast(above, self.whole)
        real, whole = (np.float32, np.int32) if single else (np.float64, np.int64)
        roots = np.array([2 ** (j / 8) for j in range(8)], real).view(whole) - np.array(1, real).view(whole)
        table = (roots - np.arange(8, dtype=whole) * 2 ** (mantissa - 3)).view(np.uint32)
        eight = ir.VectorType(INT, 8)
        if single:
            root = self.call("llvm.x86.avx2.permd", eight, eight([int(x) for x in table]), z)
        else:
            words = b.bitcast(z, eight)
            places = b.shuffle_vector(words, words, eight([0, 0, 2, 2, 4, 4, 6, 6]))
            lower, upper = (eight([int(x) for x in table[k::2]]) for k in (0, 1))
            halves = [self.call("llvm.x86.avx2.permd", eight, some, places) for some in (lower, upper)]
            root = b.bitcast(b.shuffle_vector(*halves, eight([0, 9, 2, 11, 4, 13, 6, 15])), self.whole)
        power = b.add(b.shl(z, self.whole([mantissa - 3] * self.count)), root)
        return r, b.bitcast(power, self.kind), z


# ---- loops -----------------------------------------------------------------------------------------------------------


class Tile:
    """Of logits of one kind: ``what`` of it is summed, 1, 2 or 4 sums."""

    def __init__(self, v: Vectors, kind: str, array: Any, level: Any, counter: float, what: int) -> None:
        b = v.builder
        low, octaves, count, peak = (b.extract_value(level, k) for k in range(4))
        self.v, self.kind, self.array, self.what = v, kind, array, what
        self.low, self.octaves, self.peak = v.spread(low), v.spread(octaves), v.spread(peak)
        self.minus = v.spread(b.fsub(count, v.real(counter)))  # whole octaves: the product is rounded once

    def loaded(self, i: Any, n: Any) -> tuple[Any, Any]:
        """A vector from i on; what lies from n on is -inf, and masked."""
        v, b, half = self.v, self.v.builder, self.kind in ("bf16", "f16")
        stored, size, short = (ir.IntType(16), 2, "i16") if half else (v.real, v.bits // 8, f"f{v.bits}")
        some, mask = ir.VectorType(stored, v.count), None
        place = b.bitcast(b.gep(self.array, [i]), some.as_pointer())
        if n is None:
            x = b.load(place, align=size)
        else:
            lanes = ir.VectorType(INT, v.count)
            left = b.insert_element(lanes(ir.Undefined), b.trunc(b.sub(n, i), INT), INT(0))
            mask = b.icmp_signed("<", lanes(list(range(v.count))), b.shuffle_vector(left, left, lanes(None)))
            low = some([{"bf16": 0xFF80, "f16": 0xFC00}.get(self.kind, -math.inf)] * v.count)
            x = v.call(f"llvm.masked.load.v{v.count}{short}.p0", some, place, INT(size), mask, low)
        if self.kind == "bf16":
            x = b.bitcast(b.shl(b.zext(x, v.whole), v.whole([16] * v.count)), v.kind)
        elif self.kind == "f16":
            x = b.fpext(b.bitcast(x, ir.VectorType(ir.HalfType(), v.count)), v.kind)
        return x, mask

    def powers(self, x: list[Any], filled: bool) -> list[Any]:
        t = [self.v.fma(value, self.octaves, self.minus) for value in x]
        if filled:
            least = self.v.every(-127.0 if self.v.bits == 32 else -1023.0)  # where the power is 0
            t = [self.v.largest(least, value) for value in t]
        return [self.v.power(value) for value in t]

    def add(self, i: Any, n: Any, totals: list[list[Any]], seen: Any) -> None:
        """A vector for each of the totals."""
        v, b = self.v, self.v.builder
        found = [self.loaded(b.add(i, i.type(k * v.count)), n) for k in range(len(totals))]
        filled = n is not None and v.registers == "y"
        for (x, mask), (p, root, bits), to in zip(
            found, self.powers([x for x, _ in found], filled), totals, strict=True
        ):
            if bits is not None:
                b.store(b.or_(bits, b.load(seen)), seen)
            b.store(v.fma(p, root, b.load(to[0])), to[0])  # whatever else is summed: the same bits
            if self.what == 1:
                continue
            e = b.fmul(p, root)
            t = b.fmul(b.fsub(v.largest(self.low, x), self.peak), self.octaves)  # 0 at the peak; 0 must not meet -inf
            b.store(v.fma(e, t, b.load(to[1])), to[1])
            if self.what == 4:
                b.store(v.fma(e, e, b.load(to[2])), to[2])
                b.store(b.fadd(x if mask is None else b.select(mask, x, v.every(0.0)), b.load(to[3])), to[3])


def _across(v: Vectors, parts: list[Any]) -> Any:
    b, one = v.builder, parts[0]
    for part in parts[1:]:
        one = b.fadd(one, part)
    lanes = [b.extract_element(one, INT(j)) for j in range(v.count)]
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [b.fadd(x, y) for x, y in zip(lanes[:half], lanes[half:], strict=True)]
    return lanes[0]


def _beyond(v: Vectors, seen: Any) -> Any:
    """Whether a t was NaN, below the exponents, or more than one above them."""
    b, allowed = v.builder, 0x49C007FF if v.bits == 32 else 0x4308000000003FFF
    lanes = [b.extract_element(b.load(seen), INT(j)) for j in range(v.count)]
    bits = lanes[0]
    for lane in lanes[1:]:
        bits = b.or_(bits, lane)
    return b.icmp_unsigned("!=", b.and_(bits, bits.type(~allowed & (2**v.bits - 1))), bits.type(0))


def sweeping(kind: str, registers: str, counter: float) -> tuple[Any, Any]:
    """swept(address, n, level, what): sums of a tile of logits of one kind; what it makes of one, the peak."""
    real, beside = "double" if kind == "f64" else "float", BESIDE[registers, kind in ("f16", "bf16")]

    @intrinsic(prefer_literal=True)
    def swept(context, array, n, level, what):
        def generate(target, builder, signature, args):
            v = Vectors(builder, registers, real)
            tile = Tile(v, kind, args[0], args[2], counter, what.literal_value)
            totals = [
                [cgutils.alloca_once_value(builder, v.every(0.0)) for _ in range(tile.what)] for _ in range(beside)
            ]
            seen = cgutils.alloca_once_value(builder, v.whole(None))
            size, step = args[1], args[1].type(beside * v.count)
            whole = builder.sub(size, builder.srem(size, step))
            with cgutils.for_range_slice(builder, size.type(0), whole, step) as (i, _):
                tile.add(i, None, totals, seen)
            with cgutils.for_range_slice(builder, whole, size, size.type(v.count)) as (i, _):
                tile.add(i, size, totals[:1], seen)
            found = [_across(v, [builder.load(part[k]) for part in totals]) for k in range(tile.what)]
            if registers == "y":
                found[0] = builder.select(_beyond(v, seen), v.real(math.inf), found[0])
            return target.make_tuple(builder, signature.return_type, found)

        return types.UniTuple(level.dtype, what.literal_value)(array, types.intp, level, what), generate

    @intrinsic
    def swept_one(context, x, level):
        def generate(target, builder, signature, args):
            v = Vectors(builder, registers, real)
            tile = Tile(v, kind, None, args[1], counter, 1)
            p, root, _ = tile.powers([v.spread(args[0])], False)[0]
            return builder.extract_element(builder.fmul(p, root), INT(0))

        return level.dtype(level.dtype, level), generate

    return swept, swept_one
