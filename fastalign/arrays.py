"""What comes in: checked once, cast once, and refused with the name, the place and the remedy.

Host arrays are cast to what a kernel takes.  Device arrays (anything with __cuda_array_interface__) are taken as they
are or refused: a cast would be a hidden copy.  Nothing broadcasts.
"""

import math
from collections.abc import Callable, Iterable
from functools import lru_cache, wraps
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
HALVES = {"float16": "f16", "bfloat16": "bf16"}
KINDS = {"float32": "f32", "float64": "f64", "uint16": "bf16", **HALVES}
NATIVE = {np.dtype(name): kind for name, kind in KINDS.items() if name != "bfloat16"}  # a name takes a sixth of a call

UNCHANGING = frozenset({bool, int, float, np.float64, str, type(None), ModuleType})
in_hand: set[type] = {np.ndarray, list}  # types of what has been on the host, the other libraries' once it has
ABSENT = object()

Result = TypeVar("Result")
Array = Any  # numpy.ndarray, or a device array with the same shape, dtype, size and reshape


def remembered(check: Callable[..., Result]) -> Callable[..., Result]:
    """``check``, a function of up to six options, with its last results kept: a training loop's are always the same.

    Only of types that never change: a tensor's hash is where it lies, whatever it holds.  The last options of all are
    known one by one, 70 ns before their hash is, and by identity: 0.1 equals a float16 that is another number.
    """
    kept = lru_cache(64)(check)
    last: tuple[Any, ...] = (object(),) * 7  # one object: another thread replaces all at once

    @wraps(check)
    def call(
        a: Any = ABSENT, b: Any = ABSENT, c: Any = ABSENT, d: Any = ABSENT, e: Any = ABSENT, f: Any = ABSENT
    ) -> Any:
        nonlocal last
        a_last, b_last, c_last, d_last, e_last, f_last, result = last
        if a is a_last and b is b_last and c is c_last and d is d_last and e is e_last and f is f_last:
            return result
        options = [x for x in (a, b, c, d, e, f) if x is not ABSENT]
        if not UNCHANGING.issuperset(map(type, options)):
            return check(*options)
        result = kept(*options)
        last = a, b, c, d, e, f, result
        return result

    return call


def is_device(x: Any) -> bool:
    """Whether ``x`` lies in the memory of a CUDA device.  Imports nothing."""
    if type(x) is np.ndarray or isinstance(x, (np.ndarray, list, tuple, float, int)) or x is None:
        return False
    if getattr(x, "is_cuda", None) is not None:  # torch: CPU tensors refuse the interface with an AttributeError
        return bool(x.is_cuda)
    return hasattr(x, "__cuda_array_interface__") or getattr(x, "__cuda_ndarray__", False)


def _cuda() -> Any:
    return import_module(f"{__package__}.backends.numba_cuda")


def where_is(index: int, shape: tuple[int, ...]) -> str:
    """A flat index as written behind an array's name: "[2, 5]"."""
    return "[" + ", ".join(map(str, np.unravel_index(index, shape))) + "]" if shape else ""


def take(name: str, x: Any) -> Array:
    """``x`` as an array, of whatever dtype it has."""
    if type(x) is np.ndarray:
        return x
    if is_device(x):
        return _cuda().wrap(x)
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be lost; pass its data and mask=")
    if x is None:
        raise TypeError(f"{name} is None; expected an array")
    try:
        array = np.asarray(x)
    except Exception as error:  # ragged lists, foreign arrays that refuse: theirs to explain, ours to name
        raise TypeError(f"{name} cannot be read as an array: {error}{_remedy(name, x)}") from error
    in_hand.add(type(x))
    return array


def _remedy(name: str, x: Any) -> str:
    """NumPy has no bfloat16, so that PyTorch hands out none; what is read as its bits is what may be large."""
    if str(getattr(x, "dtype", "")) != "torch.bfloat16":
        return ""
    bits = name.endswith(("logits", "hidden", "weight", "bias"))
    return "; pass its bits, x.view(torch.uint16)" if bits else "; pass x.float()"


@lru_cache(128)  # three halves by their names take 20 us of a call
def real_dtype(name: str, dtype: np.dtype) -> np.dtype:
    """The dtype in which values of ``dtype`` are computed."""
    native = dtype.newbyteorder("=")
    if native in FLOATS:
        return FLOATS[FLOATS.index(native)]  # of equal ones this, which an array of it has
    if dtype.kind in "iub":
        return np.dtype(np.float64)
    if dtype.name in HALVES:
        return np.dtype(np.float32)
    raise TypeError(f"{name} has dtype {dtype}; expected float64, float32, a half precision, or integers")


def reals(*optional: str, **named: Any) -> list[Array]:
    """The arrays, of one shape, contiguous, in their common floating dtype.  None stays None where it may be given."""
    given = [(name, take(name, x)) for name, x in named.items() if x is not None or name not in optional]
    first_name, first = given[0]
    dtype = real_dtype(first_name, first.dtype)
    for name, x in given[1:]:
        if x.shape != first.shape:
            raise ValueError(f"{name} has shape {x.shape}; expected {first.shape}, the shape of {first_name}")
        if x.dtype != dtype:
            dtype = np.result_type(dtype, real_dtype(name, x.dtype))
    cast = {name: cast_to(name, x, dtype) for name, x in given}
    return [cast.get(name) for name in named]


def cast_to(name: str, x: Array, dtype: np.dtype) -> Array:
    """Contiguous and of this dtype; the very array where it already is."""
    if type(x) is np.ndarray:
        x = np.asarray(x, None if x.dtype == dtype else dtype, order="C")  # a third of what np.require takes
        return x if x.flags.aligned else x.copy()
    if x.dtype != dtype:
        raise TypeError(f"{name} has dtype {x.dtype}; expected {dtype} (arrays on a device are not cast)")
    return x


def rank(name: str, x: Array, *allowed: int) -> None:
    if x.ndim not in allowed:
        ranks = " or ".join(f"{n}-D" for n in allowed)
        raise ValueError(f"{name} has shape {x.shape}; expected a {ranks} array")


def flags(name: str, x: Any, shape: tuple[int, ...], meaning: str = "1 = counts") -> Array | None:
    """A mask as uint8 of ``shape``; None stays None."""
    if x is None:
        return None
    x = take(name, x)
    if x.dtype.kind not in "biu" and x.size:
        raise TypeError(f"{name} has dtype {x.dtype}; expected bool or integers ({meaning})")
    if x.shape != shape:
        raise ValueError(f"{name} has shape {x.shape}; expected {shape}")
    if type(x) is not np.ndarray:
        return cast_to(name, x, np.dtype(np.uint8)) if x.dtype != np.bool_ else x.view(np.uint8)
    if x.dtype == np.bool_:
        return (x if x.flags.c_contiguous else np.ascontiguousarray(x).reshape(shape)).view(np.uint8)
    if x.size and (x.max() > 1 or x.min() < 0):
        at = int(np.flatnonzero((x != 0) & (x != 1))[0])
        raise ValueError(f"{name}{where_is(at, shape)} is {x.reshape(-1)[at]}; expected 0 or 1 ({meaning})")
    return np.ascontiguousarray(x, np.uint8).reshape(shape)


def tokens(
    name: str,
    x: Any,
    shape: tuple[int, ...],
    vocabulary: int,
    mask: Any,
    ignore_index: int | None,
    prefix: str = "",
) -> tuple[Array, Array | None]:
    """Token ids as flat int64, and the flat mask of those that count; every one that counts is in [0, V).

    ``prefix`` stands before the caller's "logits" and "mask".
    """
    x = take(name, x)
    if x.dtype.kind not in "iu" and x.size:
        raise TypeError(f"{name} has dtype {x.dtype}; expected integers")
    if x.shape != shape:
        like = f"the shape of {prefix}logits without its last axis"
        raise ValueError(f"{name} has shape {x.shape}; expected {shape}, {like}")
    if ignore_index is not None and (isinstance(ignore_index, bool) or not isinstance(ignore_index, (int, np.integer))):
        raise TypeError(f"ignore_index is {ignore_index!r}; expected an integer")
    kept = flags(f"{prefix}mask", mask, shape)
    if type(x) is not np.ndarray:
        return _device_tokens(name, x, vocabulary, kept, ignore_index)
    if ignore_index is not None:
        counts = x != ignore_index
        kept = (counts if kept is None else counts & (kept != 0)).view(np.uint8)
    ids = np.ascontiguousarray(x, np.int64).reshape(-1)
    if kept is not None:
        kept = kept.reshape(-1)
    _check_range(name, x, ids, shape, vocabulary, kept)
    return ids, kept


def _check_range(name: str, x: np.ndarray, ids: np.ndarray, shape: tuple[int, ...], vocabulary: int, kept: Any) -> None:
    if not ids.size or (ids.min() >= 0 and ids.max() < vocabulary):  # uint64 beyond int64 wraps to negative
        return
    bad = (ids < 0) | (ids >= vocabulary)
    if kept is not None:
        bad &= kept != 0
    if not bad.any():
        return
    at = int(np.flatnonzero(bad)[0])
    value = int(x.reshape(-1)[at])
    hint = "; ignore_index=-100 skips such tokens" if value == -100 else ""
    raise IndexError(f"{name}{where_is(at, shape)} is {value}; expected 0 <= token < {vocabulary}{hint}")


def _device_tokens(
    name: str, x: Array, vocabulary: int, kept: Any, ignore_index: int | None
) -> tuple[Array, Array | None]:
    if ignore_index is not None:
        raise TypeError("ignore_index is for host arrays; on a device pass mask=")
    if x.dtype != np.int64:
        raise TypeError(f"{name} has dtype {x.dtype}; expected int64 (arrays on a device are not cast)")
    shape = x.shape
    x, kept = x.reshape((x.size,)), None if kept is None else kept.reshape((x.size,))
    at = _cuda().first_bad_token(x, kept, vocabulary)
    if at >= 0:
        raise IndexError(f"{name}{where_is(at, shape)} is outside the vocabulary; expected 0 <= token < {vocabulary}")
    return x, kept


def offsets(x: Any, n: int | None = None, name: str = "cu_seqlens") -> np.ndarray:
    """cu_seqlens as int64, checked: starts at 0, never falls, ends at n where that is known."""
    if is_device(x):
        raise TypeError(f"{name} is on a device; pass it as a host array")
    array = take(name, x)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{name} has dtype {array.dtype}; expected integers")
    rank(name, array, 1)
    if not array.size or array[0] != 0:
        raise ValueError(f"{name} starts with {array[0] if array.size else 'nothing'}; expected 0")
    bounds = np.ascontiguousarray(array, np.int64)
    falls = np.flatnonzero(array[1:] < array[:-1])  # of differences some would wrap
    if falls.size:
        at = int(falls[0]) + 1
        raise ValueError(f"{name}[{at}] is {array[at]}, less than the {array[at - 1]} before it")
    if n is None and array[-1] > np.iinfo(np.int64).max:
        raise ValueError(f"{name} ends with {array[-1]}; expected a number of elements")
    if n is not None and array[-1] != n:
        raise ValueError(f"{name} ends with {array[-1]}; expected {n}, the number of elements")
    return bounds


def output(
    name: str,
    out: Any,
    shape: tuple[int, ...],
    dtype: np.dtype,
    inputs: Iterable[Any],
    allowed: Any = None,
    in_pieces: bool = False,
) -> Any:
    """``out`` checked: shape, dtype, contiguous, writable, and no part of an input but ``allowed`` itself.

    As a plain array, of a subclass a view: a matrix has two axes whatever it is told.  in_pieces: its rows may lie
    apart.
    """
    if is_device(out):
        out = take(name, out)
    elif not isinstance(out, np.ndarray):
        raise TypeError(f"{name} is a {type(out).__name__}; expected a numpy.ndarray")
    if out.shape != shape:
        raise ValueError(f"{name} has shape {out.shape}; expected {shape}")
    if out.dtype != dtype:
        raise TypeError(f"{name} has dtype {out.dtype}; expected {dtype}")
    if not isinstance(out, np.ndarray):
        return out
    if not (out.flags.c_contiguous or (in_pieces and _rows_lie_apart(out))):
        where = "have contiguous rows that do not overlap" if in_pieces else "be C-contiguous"
        raise ValueError(f"{name} must {where}; its strides are {out.strides}, its shape {out.shape}")
    if not (out.flags.aligned and out.dtype.isnative):
        raise ValueError(f"{name} must be aligned and in native byte order")
    if not out.flags.writeable:
        raise ValueError(f"{name} is read-only")
    for x in inputs:
        array = x if isinstance(x, np.ndarray) or is_device(x) else np.asarray(x)  # which copies a list, not a buffer
        if isinstance(array, np.ndarray) and np.may_share_memory(out, array):
            same = x is allowed and array.ctypes.data == out.ctypes.data and array.strides == out.strides
            if not same:
                raise ValueError(f"{name} shares memory with an input")
    return out if type(out) is np.ndarray else out.view(np.ndarray)


def _rows_lie_apart(x: np.ndarray) -> bool:
    """Whether the last axis is contiguous, and each other one, in any order, steps over all that lies within it."""
    extent = x.shape[-1] * x.itemsize
    for stride, n in sorted(zip(x.strides[:-1], x.shape[:-1], strict=True)):
        if n > 1 and stride < extent:
            return False
        extent += (n - 1) * stride
    return x.strides[-1] == x.itemsize


def number(name: str, x: Any, low: float = -math.inf, high: float = math.inf, *, above: bool = False) -> float:
    """A finite float in [low, high], or in (low, high] with ``above``."""
    try:
        if isinstance(x, (np.ndarray, np.generic)) and issubclass(x.dtype.type, (np.complexfloating, np.flexible)):
            raise TypeError  # NumPy would read text, too, and drop an imaginary part
        value = math.ldexp(x, 0)  # as float(x), which would also read text
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is {x!r}; expected a number") from error
    except OverflowError as error:
        raise ValueError(f"{name} is an integer beyond all floats; expected a finite number") from error
    inside = low < value <= high if above else low <= value <= high
    if not (inside and math.isfinite(value)):
        sign, bracket = (">", "(") if above else (">=", "[")
        bound = f"{sign} {low:g}" if high == math.inf else f"in {bracket}{low:g}, {high:g}]"
        raise ValueError(f"{name} is {value!r}; expected a finite number{'' if low == -math.inf else ' ' + bound}")
    return value + 0.0  # of two zeros, which are equal, one: what is remembered of the other would have its sign


def choice(name: str, x: Any, allowed: Iterable[str]) -> str:
    allowed = tuple(allowed)
    for known in allowed:
        if isinstance(x, str) and x == known:
            return known  # a plain string, whatever x is a subclass of
    raise ValueError(f"{name} is {x!r}; expected one of {', '.join(map(repr, allowed))}")


def kind(name: str, x: Any, family: str) -> str:
    """``x`` if the rules of that family have it."""
    from .binding import family as kinds_of  # reads the rules, which importing the package need not

    return choice(name, x, kinds_of(family))


def count(name: str, x: Any) -> int:
    """A positive integer of whatever type."""
    if isinstance(x, (bool, np.bool_)) or not isinstance(x, (int, np.integer)) or x < 1:
        raise ValueError(f"{name} is {x!r}; expected a positive integer")
    return int(x)


def shape_of(name: str, x: Any) -> tuple[int, ...]:
    """A shape: a tuple or list of integers that are not negative."""
    if not isinstance(x, (tuple, list)) or not all(isinstance(n, (int, np.integer)) and n >= 0 for n in x):
        raise ValueError(f"{name} is {x!r}; expected a tuple of lengths")
    if math.prod(x) > np.iinfo(np.int64).max:
        raise ValueError(f"{name} is {x!r}, of more elements than can be counted")
    return tuple(map(int, x))
