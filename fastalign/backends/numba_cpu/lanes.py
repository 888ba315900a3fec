"""Vectors of LANES neighbouring float64, for loops in an order that a compiler does not find by itself.

A rule called with them computes all lanes at once.  One that compares them, or calls functions, cannot: ``spreads``.
"""

import operator
from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core.datamodel import models
from numba.core.errors import TypingError
from numba.core.typeconv import Conversion

from .access import intrinsic

LANES = 4  # of 8: 10^6 steps take the same, rows of 16 steps a quarter more, of float64 in AVX2 2^18 steps 10 % less
REALS, BITS, PLACE = ir.VectorType(ir.DoubleType(), LANES), ir.VectorType(ir.IntType(64), LANES), ir.IntType(32)


class Lanes(types.Type):
    """A number becomes one where the two meet: that number in every lane."""

    def __init__(self) -> None:
        super().__init__("Lanes")

    def can_convert_from(self, context: Any, other: Any) -> Any:
        return Conversion.safe if isinstance(other, types.Number) else None

    def unify(self, context: Any, other: Any) -> Any:
        return self if isinstance(other, types.Number) else None


lanes = Lanes()


@extending.register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Lanes) -> None:
        super().__init__(manager, kind, REALS)


@extending.lower_cast(types.Number, Lanes)
def _every(target, builder, number, kind, value):
    one = builder.insert_element(REALS(ir.Undefined), target.cast(builder, value, number, types.float64), PLACE(0))
    return builder.shuffle_vector(one, one, ir.VectorType(PLACE, LANES)([0] * LANES))


def _computes(symbol: Any, instruction: str) -> None:
    @extending.type_callable(symbol)
    def typed(context: Any) -> Any:
        return lambda a, b: lanes if lanes in (a, b) else None

    @extending.lower_builtin(symbol, Lanes, Lanes)
    @extending.lower_builtin(symbol, Lanes, types.Number)
    @extending.lower_builtin(symbol, types.Number, Lanes)
    def computed(target: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, b = (target.cast(builder, x, kind, lanes) for x, kind in zip(args, signature.args, strict=True))
        return getattr(builder, instruction)(a, b, flags=("contract",))


for _symbol, _instruction in (
    (operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv"),
):  # fmt: skip
    _computes(_symbol, _instruction)


def spreads(function: Any, arguments: tuple[Any, ...]) -> bool:
    """Whether a compiled function takes arguments of these types."""
    try:
        function.get_call_template(arguments, {})
    except TypingError:
        return False
    return True


# ---- memory ----------------------------------------------------------------------------------------------------------


def _at(builder, array, i, kind):
    return builder.bitcast(builder.gep(array, [i]), kind.as_pointer())


@intrinsic
def take(context, array, i):
    """array[i : i + LANES]"""

    def generate(target, builder, signature, args):
        kind = ir.VectorType(target.get_value_type(array.dtype), LANES)
        found = builder.load(_at(builder, args[0], args[1], kind), align=array.dtype.bitwidth // 8)
        return found if array.dtype == types.float64 else builder.fpext(found, REALS)

    return lanes(array, types.intp), generate


@intrinsic
def give(context, array, i, x):
    """array[i : i + LANES] = x"""

    def generate(target, builder, signature, args):
        kind = ir.VectorType(target.get_value_type(array.dtype), LANES)
        made = args[2] if array.dtype == types.float64 else builder.fptrunc(args[2], kind)
        builder.store(made, _at(builder, args[0], args[1], kind), align=array.dtype.bitwidth // 8)
        return target.get_dummy_value()

    return types.none(array, types.intp, lanes), generate


@intrinsic
def none_of(context, flags, i):
    """Whether flags[i : i + LANES] are all 0."""

    def generate(target, builder, signature, args):
        kind = ir.IntType(8 * LANES)
        return builder.icmp_unsigned("==", builder.load(_at(builder, args[0], args[1], kind), align=1), kind(0))

    return types.boolean(flags, types.intp), generate


@intrinsic
def clear(context, flags, i):
    """The mask of the lanes whose flag is 0: all their bits."""

    def generate(target, builder, signature, args):
        some = builder.load(_at(builder, args[0], args[1], ir.VectorType(ir.IntType(8), LANES)), align=1)
        mask = builder.sext(builder.icmp_unsigned("==", some, some.type(None)), BITS)
        return builder.bitcast(mask, REALS)

    return lanes(flags, types.intp), generate


# ---- lanes of others -------------------------------------------------------------------------------------------------


@intrinsic
def alone(context, x):
    """The number x, and zeros after it."""

    def generate(target, builder, signature, args):
        return builder.insert_element(REALS([0.0] * LANES), args[0], PLACE(0))

    return lanes(types.float64), generate


@intrinsic
def leading(context, x):
    """The number in the first lane."""
    return types.float64(lanes), lambda _, builder, __, args: builder.extract_element(args[0], PLACE(0))


@intrinsic(prefer_literal=True)
def later(context, x, after, k):
    """Lane i from lane i + k, the last k from the first of ``after``."""

    def generate(target, builder, signature, args):
        order = [i + k.literal_value for i in range(LANES)]
        return builder.shuffle_vector(args[0], args[1], ir.VectorType(PLACE, LANES)(order))

    return lanes(lanes, lanes, k), generate


@intrinsic
def only(context, mask, x):
    """x where the mask is, else 0; of two masks, where both are."""

    def generate(target, builder, signature, args):
        a, b = (builder.bitcast(value, BITS) for value in args)
        return builder.bitcast(builder.and_(a, b), REALS)

    return lanes(lanes, lanes), generate


@intrinsic
def held(context, mask):
    """The same mask, in a register: LLVM would make it anew, in another way, wherever it is needed (4 % of a sweep)."""

    def generate(target, builder, signature, args):
        made = ir.FunctionType(REALS, [REALS])
        return builder.call(ir.InlineAsm(made, "", "=x,0", side_effect=False), args)

    return lanes(lanes), generate


@intrinsic
def either(context, mask, x, other):
    """x where the mask is, else the other."""

    def generate(target, builder, signature, args):
        bits = builder.bitcast(args[0], BITS)
        return builder.select(builder.icmp_signed("<", bits, BITS(None)), args[1], args[2])

    return lanes(lanes, lanes, lanes), generate
