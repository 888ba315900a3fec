"""What Numba has no words for: a tile of several arrays, read, written and tallied as tuples.

a) Numba indexes a tuple of arrays only as a whole; these go through its parts when they are compiled.
b) A loop over ten arrays vectorises only where they are known to lie apart: every load and store here says so.
c) Only sums may be reassociated, and no other instruction: the flag stands on the one addition.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, types
from numba.core import cgutils

TILE = 512
LINE = 64  # bytes of a cache line, and of the widest vector
ARRAYS = 32  # more than a tile has
# Of a literal Numba compiles what is called a version of its own, and sums of rows had four: the first log-probability
# and the first gradient of one kind, 25 s of an EPYC of 2017, take 21 without.
NO, YES = np.False_, np.True_
intrinsic: Any = extending.intrinsic  # what is called has an argument less than what is defined


def _apart(instruction, module, own, loop="step"):
    """Marks a load or store of the array ``own`` as touching none of the others of its loop; 0 is for all that is read.

    It holds between all instructions of the loops of that name, in whatever function they end up.
    """
    domain = module.add_metadata([ir.MetaDataString(module, loop)])
    scopes = [module.add_metadata([ir.MetaDataString(module, f"array {k}"), domain]) for k in range(ARRAYS)]
    instruction.set_metadata("alias.scope", module.add_metadata([scopes[own]]))
    instruction.set_metadata("noalias", module.add_metadata([s for k, s in enumerate(scopes) if k != own]))


@intrinsic(prefer_literal=True)
def scratch(context, like, parts):
    """Room on the stack for ``parts`` tiles of the type of ``like``: an array of NumPy's is slow to compile.

    At lines of the cache, and so then are the vectors that do not fit into registers: LLVM would keep them on a stack
    that is aligned to 16 bytes, across two lines each or not, as it happens to lie (PPO in AVX2: 0.92 ns per element,
    and in some processes 1.7).
    """

    def generate(target, builder, signature, args):
        room = cgutils.alloca_once(builder, args[0].type, parts.literal_value * TILE)
        room.align = LINE
        return room

    return types.CPointer(types.unliteral(like))(like, parts), generate


@intrinsic
def places(context, arrays, at, room, first, there):
    """Where each array's tile is: in the array at ``at``, or else in the parts of ``room`` from ``first`` on."""

    def generate(target, builder, signature, args):
        found, asked = [], target.cast(builder, args[4], there, types.boolean)
        for k in range(len(arrays)):
            array = target.make_array(arrays.dtype)(target, builder, builder.extract_value(args[0], k))
            part = builder.mul(builder.add(args[3], ir.Constant(args[3].type, k)), ir.Constant(args[3].type, TILE))
            wanted = builder.and_(asked, builder.icmp_signed(">", array.nitems, args[1]))  # what is not, is empty
            found.append(builder.select(wanted, builder.gep(array.data, [args[1]]), builder.gep(args[2], [part])))
        return target.make_tuple(builder, signature.return_type, found)

    pointers = types.UniTuple(room, len(arrays))
    return pointers(arrays, types.intp, room, types.intp, there), generate


@intrinsic(prefer_literal=True)
def tiles(context, like, count):
    """As many rooms of a tile on the stack, as arrays of the type of ``like``."""

    def generate(target, builder, signature, args):
        rooms = [cgutils.alloca_once(builder, args[0].type, TILE) for _ in range(count.literal_value)]
        for room in rooms:
            room.align = LINE
        return target.make_tuple(builder, signature.return_type, rooms)

    return types.UniTuple(types.CPointer(types.unliteral(like)), count.literal_value)(like, count), generate


def _reads(loop):
    @intrinsic
    def read(context, tile, i, like):
        """The i-th element of each array of the tile, of the type of ``like``; for a tuple i, the k-th's i[k]-th."""

        def generate(target, builder, signature, args):
            found = []
            for k in range(len(tile)):
                at = builder.extract_value(args[1], k) if isinstance(i, types.BaseTuple) else args[1]
                value = builder.load(builder.gep(builder.extract_value(args[0], k), [at]))
                _apart(value, builder.module, 0, loop)
                found.append(target.cast(builder, value, tile[k].dtype, like))
            return target.make_tuple(builder, signature.return_type, found)

        index = i if isinstance(i, types.BaseTuple) else types.intp
        return types.UniTuple(like, len(tile))(tile, index, like), generate

    return read


def _writes(loop):
    @intrinsic
    def write(context, tile, i, results):
        """The first results to the i-th element of the arrays of the tile, or to the i[k]-th of the k-th."""

        def generate(target, builder, signature, args):
            for k in range(len(tile)):
                at = builder.extract_value(args[1], k) if isinstance(i, types.BaseTuple) else args[1]
                value = target.cast(builder, builder.extract_value(args[2], k), results[k], tile[k].dtype)
                place = builder.gep(builder.extract_value(args[0], k), [at])
                _apart(builder.store(value, place), builder.module, k + 1, loop)
            return target.get_dummy_value()

        return types.none(tile, i if isinstance(i, types.BaseTuple) else types.intp, results), generate

    return write


read, write = _reads("step"), _writes("step")
read_ahead, write_ahead = _reads("ahead"), _writes("ahead")  # of a loop whose results another one reads


@intrinsic(prefer_literal=True)
def over(context, n, body, x, y, params, tally, beside):
    """tally = body(x, y, i, params, tally) for all i below n, ``beside`` vectors side by side, or 0."""
    called = body.get_call_type(context, (x, y, types.intp, params, tally), {})

    def generate(target, builder, signature, args):
        call = target.get_function(body, called)
        target.add_linking_libs(getattr(call, "libs", ()))
        seen = cgutils.alloca_once_value(builder, args[5])
        at = cgutils.alloca_once_value(builder, ir.Constant(args[0].type, 0))
        step, done = builder.append_basic_block("step"), builder.append_basic_block("done")
        builder.cbranch(builder.icmp_signed("<", ir.Constant(args[0].type, 0), args[0]), step, done)
        builder.position_at_end(step)
        i = builder.load(at)
        builder.store(call(builder, (args[2], args[3], i, args[4], builder.load(seen))), seen)
        following = builder.add(i, ir.Constant(i.type, 1), flags=("nsw",))
        builder.store(following, at)
        again = builder.cbranch(builder.icmp_signed("<", following, args[0]), step, done)
        again.set_metadata("llvm.loop", _side_by_side(builder.module, beside.literal_value))
        builder.position_at_end(done)
        return builder.load(seen)

    return tally(n, body, x, y, params, tally, beside), generate


def _side_by_side(module, count):
    name, value = ("vectorize.enable", ir.IntType(1)(0)) if count == 0 else ("interleave.count", ir.IntType(32)(count))
    hint = module.add_metadata([ir.MetaDataString(module, f"llvm.loop.{name}"), value])
    loop = module.add_metadata([hint])
    loop.operands = (loop, hint)  # a loop's name is itself
    return loop


@intrinsic
def put(context, array, i, value):
    """array[i] = value"""

    def generate(target, builder, signature, args):
        builder.store(args[2], builder.gep(args[0], [args[1]]))
        return target.get_dummy_value()

    return types.none(array, types.intp, array.dtype), generate


@intrinsic
def get(context, array, i):
    """array[i]"""
    return array.dtype(array, types.intp), lambda _, builder, __, args: builder.load(builder.gep(args[0], [args[1]]))


@intrinsic
def shift(context, array, i):
    """The address of array[i]."""
    return array(array, types.intp), lambda _, builder, __, args: builder.gep(args[0], [args[1]])


@intrinsic(prefer_literal=True)
def fetch(context, array, ahead, bytes):
    """The lines of so many bytes, ``ahead`` bytes beyond an address, wherever that is, are asked for."""

    def generate(target, builder, signature, args):
        for k in range(0, bytes.literal_value, LINE):
            fetch_line(builder, args[0], ahead.literal_value + k)
        return target.get_dummy_value()

    return types.none(array, ahead, bytes), generate


def fetch_line(builder, place, ahead):
    """Into the innermost cache."""
    byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    made = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
    fetched = cgutils.get_or_insert_function(builder.module, made, "llvm.prefetch.p0")
    beyond = builder.gep(builder.bitcast(place, byte), [ir.IntType(64)(ahead)])
    builder.call(fetched, [beyond, number(0), number(3), number(1)])


@intrinsic
def called(context, address, x, params, y):
    """The C function at an address is called, of three arrays of doubles."""

    def generate(target, builder, signature, args):
        made = ir.FunctionType(ir.VoidType(), [x.type for x in args[1:]])
        builder.call(builder.inttoptr(args[0], made.as_pointer()), args[1:])
        return target.get_dummy_value()

    return types.none(address, x, params, y), generate


@intrinsic
def start(context, array):
    """The address of an array's first element."""

    def generate(target, builder, signature, args):
        return target.make_array(array)(target, builder, args[0]).data

    return types.CPointer(array.dtype)(array), generate


@intrinsic(prefer_literal=True)
def tallied(context, tally, results, sums):
    """The tally joined by the last results: sums by addition, what follows them by the maximum."""

    def generate(target, builder, signature, args):
        found, before = [], len(results) - len(tally)
        for k in range(len(tally)):
            old, new = builder.extract_value(args[0], k), builder.extract_value(args[1], before + k)
            new = target.cast(builder, new, results[before + k], tally.dtype)
            if k < sums.literal_value:
                found.append(builder.fadd(old, new, flags=("reassoc", "nsz")))
            else:
                found.append(_maximum(builder, old, new))
        return target.make_tuple(builder, tally, found)

    return tally(tally, results, sums), generate


def _maximum(builder, a, b):
    function = builder.module.declare_intrinsic("llvm.maximum", [a.type], ir.FunctionType(a.type, [a.type, a.type]))
    return builder.call(function, [a, b], fastmath=("nsz",))  # which of two zeros: three instructions


@intrinsic
def larger(context, a, b):
    """The maximum; NaN stays."""
    return a(a, a), lambda target, builder, signature, args: _maximum(builder, *args)


@intrinsic
def fma(context, a, b, c):
    """a b + c, rounded once; a call of libm where that is no instruction."""

    def generate(target, builder, signature, args):
        kind = args[0].type
        function = builder.module.declare_intrinsic("llvm.fma", [kind], ir.FunctionType(kind, [kind] * 3))
        return builder.call(function, args)

    return a(a, a, a), generate


@intrinsic
def product(context, a, b):
    """a b, rounded before it is added to anything."""

    def generate(target, builder, signature, args):
        return builder.fmul(*args, flags=("nsz",))  # with none of its own it gets its function's, "contract" among them

    return a(a, a), generate


@intrinsic
def extended(context, bits):
    """The float32 that is a float16; a call of libgcc's, which is not there, where that is no instruction."""

    def generate(target, builder, signature, args):
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(bits), generate


@intrinsic
def shortened(context, x):
    """The float16 nearest to a float32; of the same instructions."""

    def generate(target, builder, signature, args):
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(x), generate


@intrinsic
def likely(context, condition):
    """The condition, foretold to hold: what depends on it stays a branch and is not selected."""

    def generate(target, builder, signature, args):
        bit = args[0].type
        expect = builder.module.declare_intrinsic("llvm.expect", [bit], ir.FunctionType(bit, [bit, bit]))
        return builder.call(expect, [args[0], ir.Constant(bit, 1)])

    return types.boolean(types.boolean), generate


@intrinsic
def alike(context, values, like):
    """A tuple of numbers in the type of ``like``."""

    def generate(target, builder, signature, args):
        parts = [builder.extract_value(args[0], k) for k in range(len(values))]
        made = [target.cast(builder, x, kind, like) for x, kind in zip(parts, values, strict=True)]
        return target.make_tuple(builder, signature.return_type, made)

    return types.UniTuple(like, len(values))(values, like), generate


@intrinsic
def address(context, array):
    """Where an address lies, as a number."""

    def generate(target, builder, signature, args):
        return builder.ptrtoint(args[0], ir.IntType(64))

    return types.int64(array), generate


@intrinsic
def unknown(context, i):
    """The same number, of which LLVM knows nothing: a loop of so few turns it would write out, and not vectorise."""

    def generate(target, builder, signature, args):
        made = ir.FunctionType(args[0].type, [args[0].type])
        return builder.call(ir.InlineAsm(made, "", "=r,0", side_effect=False), args)

    return types.intp(types.intp), generate
