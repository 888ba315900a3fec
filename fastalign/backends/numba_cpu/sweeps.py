"""Sweeps of tiles and of whole rows by the vectors of vectors.py."""

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from .access import LINE, fetch_line, intrinsic
from .vectors import BESIDE, INT, Vectors, across, beyond


class Tile:
    """Of logits of one kind: ``what`` of it is summed, 1, 2 or 4 sums."""

    def __init__(self, v: Vectors, kind: str, array: Any, octaves: Any, offset: Any, what: int) -> None:
        octaves, offset = (v.builder.fmul(x, v.real(v.unit)) for x in (octaves, offset))
        self.v, self.kind, self.array, self.what = v, kind, array, what
        self.octaves, self.minus = v.spread(octaves), v.spread(v.builder.fneg(offset))
        self.least = v.every((-127.0 if v.bits == 32 else -1023.0) * v.unit)  # where the power is 0
        half = kind in ("bf16", "f16")
        self.stored, self.size = (ir.IntType(16), 2) if half else (v.real, v.bits // 8)
        self.late = half and v.registers == "z"  # of the next step is prepared: no more than floats
        self.keep: Any = None  # where the powers go, if anywhere

    def distance(self, x: Any) -> Any:
        """Octaves above the peak, by UNIT."""
        return self.v.fma(x, self.octaves, self.minus)

    def prepared(self, i: Any) -> tuple[Any, Any]:
        """The distances of a vector from i on, and its logits."""
        x = self.read(i)
        return self.distance(x), x

    def read(self, i: Any) -> Any:
        place = self.v.builder.bitcast(self.v.builder.gep(self.array, [i]), self.some.as_pointer())
        return self.widened(self.v.builder.load(place, align=self.size))

    def prepared_end(self, i: Any, n: Any) -> tuple[Any, Any]:
        """What lies from n on is as far as can be, and 0."""
        v, b = self.v, self.v.builder
        place, mask = b.bitcast(b.gep(self.array, [i]), self.some.as_pointer()), v.lanes_until(n, i)
        low = self.some([{"bf16": 0xFF80, "f16": 0xFC00}.get(self.kind, -math.inf)] * v.count)
        x = self.widened(v.load_some(place, self.size, mask, low))
        t = self.distance(x)
        return t if v.registers == "z" else v.largest(self.least, t), b.select(mask, x, v.every(0.0))

    @property
    def some(self) -> Any:
        return ir.VectorType(self.stored, self.v.count)

    def widened(self, x: Any) -> Any:
        v, b = self.v, self.v.builder
        if self.kind == "bf16":
            return b.bitcast(b.shl(b.zext(x, v.whole), v.whole([16] * v.count)), v.kind)
        return b.fpext(b.bitcast(x, ir.VectorType(ir.HalfType(), v.count)), v.kind) if self.kind == "f16" else x

    def step(self, i: Any, beside: int) -> list[tuple[Any, Any]]:
        places = [self.v.builder.add(i, i.type(k * self.v.count)) for k in range(beside)]
        if self.in_pairs(beside):
            return [(self.distance(x), x) for at in places[::2] for x in self.pair(at)]
        return [self.prepared(at) for at in places]

    def in_pairs(self, beside: int) -> bool:
        return self.kind == "bf16" and beside % 2 == 0

    def pair(self, i: Any) -> tuple[Any, Any]:
        """Every other bfloat16 of two vectors, and those between: an instruction each."""
        v, b = self.v, self.v.builder
        bits = b.load(b.bitcast(b.gep(self.array, [i]), v.whole.as_pointer()), align=self.size)
        upper = b.and_(bits, v.whole([-65536] * v.count))
        return b.bitcast(b.shl(bits, v.whole([16] * v.count)), v.kind), b.bitcast(upper, v.kind)

    def fetch(self, i: Any, ahead: int, beside: int) -> None:
        """The lines of a step, ``ahead`` bytes beyond i, wherever that is, are asked for."""
        for k in range(0, beside * self.v.count * self.size, LINE):
            fetch_line(self.v.builder, self.v.builder.gep(self.array, [i]), ahead + k)

    def add(self, found: list[tuple[Any, Any]], totals: list[list[Any]], seen: Any, i: Any, n: Any = None) -> None:
        """A vector for each of the totals, from i on, or of one as far as n."""
        v, b = self.v, self.v.builder
        powers = [v.power(t) for t, _ in found]
        for (t, x), (p, root, bits), to in zip(found, powers, totals, strict=True):
            if bits is not None:
                b.store(b.or_(bits, b.load(seen)), seen)
            self.into(t, x, p, root, to)
        if self.keep is not None:
            kept = [v.product(p, root) for p, root, _ in powers]
            if self.in_pairs(len(kept)):
                kept = [x for k in range(0, len(kept), 2) for x in v.woven(*kept[k : k + 2])]
            for k, e in enumerate(kept):
                self.store(e, b.add(i, i.type(k * v.count)), n)

    def store(self, e: Any, i: Any, n: Any = None) -> None:
        """A vector of the powers, or what of it lies before n."""
        v, b, size = self.v, self.v.builder, self.v.bits // 8
        place = b.bitcast(b.gep(self.keep, [i]), v.kind.as_pointer())
        if n is None:
            b.store(e, place, align=size)
        else:
            v.store_some(e, place, size, v.lanes_until(n, i))

    def into(self, t: Any, x: Any, p: Any, root: Any, to: list[Any]) -> None:
        v, b = self.v, self.v.builder
        b.store(v.added(p, root, b.load(to[0])), to[0])  # whatever else is summed: the same bits
        if self.what == 1:
            return
        e = v.product(p, root)
        far = v.largest(self.least, t) if v.registers == "z" else t  # 0 must not meet -inf
        b.store(v.fma(e, far, b.load(to[1])), to[1])
        if self.what == 4:
            b.store(v.fma(e, e, b.load(to[2])), to[2])
            b.store(b.fadd(x, b.load(to[3])), to[3])

    def sweep(self, size: Any, beside: int, ahead: int) -> tuple[list[list[Any]], Any]:
        """The totals, and the bits of all t."""
        v, b = self.v, self.v.builder
        totals = [[cgutils.alloca_once_value(b, v.every(0.0)) for _ in range(self.what)] for _ in range(beside)]
        seen, step = cgutils.alloca_once_value(b, v.whole(None)), size.type(beside * v.count)
        whole = b.sub(size, b.srem(size, step))
        self.sweep_whole(whole, beside, ahead, totals, seen)
        with cgutils.for_range_slice(b, whole, size, size.type(v.count)) as (i, _):
            self.add([self.prepared_end(i, size)], totals[:1], seen, i, size)
        return totals, seen

    def sweep_whole(self, whole: Any, beside: int, ahead: int, totals: list[list[Any]], seen: Any) -> None:
        """Whole steps; the next one is prepared before the powers of this one."""
        v, b = self.v, self.v.builder
        zero, step = whole.type(0), whole.type(beside * v.count)
        pool = v.pool() if v.from_memory else None
        with b.if_then(b.icmp_signed(">", whole, zero)):
            rooms = [[cgutils.alloca_once_value(b, x) for x in one] for one in self.step(zero, beside)]
            with cgutils.for_range_slice(b, zero, whole, step) as (i, _):
                if ahead:
                    self.fetch(i, ahead, beside)
                if pool is not None:
                    v.read_again(pool)
                following = b.add(i, step)
                following = b.select(b.icmp_signed("<", following, whole), following, zero)  # after the last, any
                both = self.step(following, beside) + [(b.load(t), b.load(x)) for t, x in rooms]
                if self.late:
                    both = [(self.distance(x), x) for x in v.in_order([x for _, x in both])]
                else:
                    first = v.in_order([t for t, _ in both])
                    both = [(t, x) for t, (_, x) in zip(first, both, strict=True)]
                self.add(both[beside:], totals, seen, i)
                for one, new in zip(rooms, both[:beside], strict=True):
                    for room, x in zip(one, new, strict=True):
                        b.store(x, room)
        v.place = None


class Row(Tile):
    """A whole one, of more than one vector, from its largest element: no power is above 1."""

    def __init__(self, v: Vectors, kind: str, array: Any, octaves: Any, what: int) -> None:
        super().__init__(v, kind, array, octaves, v.real(0.0), what)

    def distance(self, x: Any) -> Any:
        """Exactly 0 at the peak, and so a power of exactly 1: nothing is divided by."""
        v = self.v
        t = v.builder.fmul(v.builder.fsub(x, self.peak), self.octaves)
        return t if v.registers == "z" else v.largest(self.least, t)

    def in_pairs(self, beside: int) -> bool:
        return False

    def sweep_all(self, size: Any, beside: int, ahead: int) -> tuple[Any, list[list[Any]]]:
        """The peak and the totals; what is left of whole vectors is the last one, where its lanes are new."""
        v, b = self.v, self.v.builder
        zero, one, step, more = (size.type(k) for k in (0, 1, v.count, beside * v.count))
        last, before = b.sub(size, step), b.sub(size, one)
        single, whole = b.mul(b.sdiv(before, step), step), b.mul(b.sdiv(before, more), more)
        top = cgutils.alloca_once_value(b, self.read(last))
        with cgutils.for_range_slice(b, zero, single, step) as (i, _):
            if ahead:
                self.fetch(i, ahead, 1)
            b.store(v.larger(self.read(i), b.load(top)), top)
        peak = across(v, [b.load(top)], v.larger)
        self.peak = v.spread(peak)
        totals = [[cgutils.alloca_once_value(b, v.every(0.0)) for _ in range(self.what)] for _ in range(beside)]
        seen = cgutils.alloca_once_value(b, v.whole(None))
        self.sweep_whole(whole, beside, 0, totals, seen)
        if beside > 1:
            with cgutils.for_range_slice(b, whole, single, step) as (i, _):
                self.add([self.prepared(i)], totals[:1], seen, i)
        t, x = self.prepared(last)
        p, root, _ = v.power(t)
        if self.keep is not None:
            self.store(v.product(p, root), last)
        new, none = v.lanes_from(b.sub(single, last)), v.every(0.0)
        p, root = (b.select(new, p, none), None) if root is None else (p, b.select(new, root, none))
        self.into(t, b.select(new, x, none), p, root, totals[0])
        return peak, totals


class Bent(Tile):
    """Slopes, of AVX2: p (a + b t + c p) + d, p = 2^t; ``curved``: 2 all of it, 1 without c and d, 0 p a.

    ns per element of 32 x 32,000 by a saved log-sum-exp, on an EPYC of 2017: float32 0.98, float64 2.98, with entropy
    1.12 and 3.13; by the loops of tiles.py 1.3, 3.7, 1.36 and 3.85.  Two vectors at once: float32 0.83 for 0.75 of a
    tile, three 0.81, float64 nothing.
    """

    def __init__(self, v: Vectors, kind: str, array: Any, params: list[Any], out: Any, curved: int) -> None:
        super().__init__(v, kind, array, params[1], v.real(0.0), 0)
        self.base, _, self.a, self.b, self.c, self.d = map(v.spread, params)
        self.out, self.curved, self.highest = out, curved, v.every(128.0 if v.bits == 32 else 1024.0)  # of infinity
        if not curved:
            v.multiply(self.a)

    def distance(self, x: Any) -> Any:
        return self.v.builder.fmul(self.v.builder.fsub(x, self.base), self.octaves)

    def in_pairs(self, beside: int) -> bool:
        return False

    def add(self, found: list[tuple[Any, Any]], totals: list[list[Any]], seen: Any, i: Any, n: Any = None) -> None:
        v, b = self.v, self.v.builder
        for k, (t, _) in enumerate(found):
            place = b.bitcast(b.gep(self.out, [b.add(i, i.type(k * v.count))]), self.some.as_pointer())
            if n is None:
                b.store(self.bent(t), place, align=self.size)
            else:
                v.store_some(self.bent(t), place, self.size, v.lanes_until(n, i))

    def bent(self, t: Any) -> Any:
        """0 where p is nothing: whatever is made of what lies below, t needs no lower bound."""
        v, b = self.v, self.v.builder
        p, root, _ = v.power(v.smallest(self.highest, t))
        e = v.product(p, root)
        if self.curved:
            by = v.fma(self.b, t, self.a)
            e = b.fmul(e, by if self.curved == 1 else v.fma(self.c, e, by))
        e = b.select(b.fcmp_ordered("<", t, self.least), v.every(0.0), e)
        return self.narrowed(b.fadd(e, self.d) if self.curved == 2 else e)

    def narrowed(self, x: Any) -> Any:
        """As tiles.py does."""
        v, b = self.v, self.v.builder
        if self.kind == "f16":
            return b.bitcast(b.fptrunc(x, ir.VectorType(ir.HalfType(), v.count)), self.some)
        if self.kind != "bf16":
            return x
        bits, number = b.bitcast(x, v.whole), lambda k: v.whole([k] * v.count)
        odd = b.and_(b.lshr(bits, number(16)), number(1))
        rounded = b.add(b.add(bits, number(0x7FFF)), odd)
        made = b.select(b.fcmp_unordered("uno", x, x), b.or_(bits, number(0x400000)), rounded)
        return b.trunc(b.lshr(made, number(16)), self.some)

    def bend(self, size: Any, beside: int) -> None:
        v, b = self.v, self.v.builder
        whole = b.sub(size, b.srem(size, size.type(beside * v.count)))
        self.sweep_whole(whole, beside, 0, [], None)
        with cgutils.for_range_slice(b, whole, size, size.type(v.count)) as (i, _):
            self.add([self.prepared_end(i, size)], [], None, i, size)


def bending(kind: str, registers: str) -> Any:
    """bent(address, n, (base, octaves, a, b, c, d), out, curved): slopes of logits of one kind; out may be they."""
    real = "double" if kind == "f64" else "float"

    @intrinsic(prefer_literal=True)
    def bent(context, array, n, params, out, curved):
        def generate(target, builder, signature, args):
            v = Vectors(builder, registers, real, False, 1.0)
            given = [builder.extract_value(args[2], k) for k in range(6)]
            tile = Bent(v, kind, args[0], given, args[3], curved.literal_value)
            tile.bend(args[1], BESIDE[registers, kind in ("f16", "bf16")])
            return target.get_dummy_value()

        return types.none(array, types.intp, params, out, curved), generate

    return bent


def sweeping(kind: str, registers: str, ahead: int = 0) -> tuple[Any, Any, Any]:
    """swept(address, n, level, what): sums of a tile of logits of one kind; what it makes of one, the peak; and
    swept_and_kept(address, n, level, room, what): the powers, too."""
    half = kind in ("f16", "bf16")
    real, near = "double" if kind == "f64" else "float", registers == "z" and not half

    def generated(builder, args, what, keep):
        v = Vectors(builder, registers, real, near)
        octaves, offset = (builder.extract_value(args[2], k) for k in (1, 4))
        tile = Tile(v, kind, args[0], octaves, offset, what)
        tile.keep = keep
        totals, seen = tile.sweep(args[1], BESIDE[registers, half], ahead)
        found = [across(v, [builder.load(part[k]) for part in totals]) for k in range(what)]
        if what > 1:
            found[1] = builder.fmul(found[1], v.real(1.0 / v.unit))
        if registers == "y":
            found[0] = builder.select(beyond(v, seen), v.real(math.inf), found[0])
        return found

    @intrinsic(prefer_literal=True)
    def swept(context, array, n, level, what):
        def generate(target, builder, signature, args):
            found = generated(builder, args, what.literal_value, None)
            return target.make_tuple(builder, signature.return_type, found)

        return types.UniTuple(level.dtype, what.literal_value)(array, types.intp, level, what), generate

    @intrinsic(prefer_literal=True)
    def swept_and_kept(context, array, n, level, room, what):
        def generate(target, builder, signature, args):
            found = generated(builder, args, what.literal_value, args[3])
            return target.make_tuple(builder, signature.return_type, found)

        return types.UniTuple(level.dtype, what.literal_value)(array, types.intp, level, room, what), generate

    @intrinsic
    def swept_one(context, x, level):
        def generate(target, builder, signature, args):
            v = Vectors(builder, registers, real, near)
            octaves, offset = (builder.extract_value(args[1], k) for k in (1, 4))
            tile = Tile(v, kind, None, octaves, offset, 1)
            p, root, _ = v.power(tile.distance(v.spread(args[0])))
            return builder.extract_element(v.product(p, root), INT(0))

        return level.dtype(level.dtype, level), generate

    return swept, swept_one, swept_and_kept


def sweeping_rows(kind: str, registers: str, ahead: int = 0) -> tuple[Any, Any]:
    """swept_row(address, n, octaves, what): the peak and the sums; kept_row(address, n, octaves, room): powers, too."""
    half = kind in ("f16", "bf16")
    real, near = "double" if kind == "f64" else "float", registers == "z" and not half

    def generated(target, builder, signature, args, what, keep):
        v = Vectors(builder, registers, real, near)
        row = Row(v, kind, args[0], args[2], what)
        row.keep = keep
        peak, totals = row.sweep_all(args[1], BESIDE[registers, half], ahead)
        found = [peak, *(across(v, [builder.load(part[k]) for part in totals]) for k in range(what))]
        if what > 1:
            found[2] = builder.fmul(found[2], v.real(1.0 / v.unit))
        return target.make_tuple(builder, signature.return_type, found)

    @intrinsic(prefer_literal=True)
    def swept_row(context, array, n, octaves, what):
        def generate(target, builder, signature, args):
            return generated(target, builder, signature, args, what.literal_value, None)

        return types.UniTuple(octaves, 1 + what.literal_value)(array, types.intp, octaves, what), generate

    @intrinsic
    def kept_row(context, array, n, octaves, room):
        def generate(target, builder, signature, args):
            return generated(target, builder, signature, args, 1, args[3])

        return types.UniTuple(octaves, 2)(array, types.intp, octaves, room), generate

    return swept_row, kept_row
