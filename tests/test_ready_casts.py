"""Small calls whose arrays the extension casts itself: the bits of the long way, its errors and its warnings."""

import warnings

import ml_dtypes
import numpy as np
import pytest
from conftest import same

import fastalign
from fastalign import arrays, dispatch, elementwise, fused
from fastalign.backends import cython_cpu

pytestmark = pytest.mark.skipif(cython_cpu.why_not() is not None, reason=f"cython: {cython_cpu.why_not()}")

RNG = np.random.default_rng(23)
READY = ["scan_ready", "row_forward_ready", "row_backward_ready", "group_reduce_ready", "group_spread_ready"]


def unaligned(x):
    made = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    made[...] = x
    return made


class Foreign:
    """An array of another library, as NumPy sees it."""

    is_cuda = False
    reads = 0

    def __init__(self, x):
        self.x = x

    def __array__(self, dtype=None, copy=None):
        Foreign.reads += 1
        return self.x


arrays.take("x", Foreign(np.zeros(1)))  # as a first call does

LAYOUTS = {
    "list": lambda x: x.tolist(),
    "tuple": lambda x: tuple(x.tolist()),
    "numpy's own numbers": list,
    "strided": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "reversed": lambda x: x[::-1].copy()[::-1],
    "fortran": lambda x: np.asfortranarray(np.stack([x, x], axis=-1))[..., 0],
    "swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "unaligned": unaligned,
    "foreign": Foreign,
    "mapped": lambda x: x.view(np.memmap),
}
DTYPES = {
    "r": "float16 float32 float64 bool int8 int16 int32 int64 uint64 longlong".split(),
    "f": "bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 longlong".split(),
    "i": "int8 int16 uint16 int32 int64 longlong".split(),
    "l": "float16 float32 float64 bool int16 int64".split(),
}


def real(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def flags(*shape):
    return RNG.random(shape) < 0.6


def tokens(*shape):
    return RNG.integers(0, 8, shape)


def calls():
    """(function, arguments: (array, kind), options of arrays likewise, other options)."""
    r, f = (real(30), "r"), (flags(30), "f")
    yield fastalign.policy_loss, [r, (real(30), "r"), (real(30), "r")], {"mask": f}, {}
    yield fastalign.policy_loss, [(real(4, 6), "r") for _ in range(3)], {}, {"aggregation": "token_sum"}
    yield fastalign.preference_loss, [(real(30), "r") for _ in range(4)], {}, {"beta": 0.3}
    yield fastalign.preference_loss, [r, (real(30), "r")], {}, {}
    yield fastalign.reward_model_loss, [r, (real(30), "r")], {"margin": (real(30), "r")}, {}
    yield fastalign.kl_estimate, [r, (real(30), "r")], {"mask": f}, {}
    yield fastalign.kl_divergence, [r, (real(30), "r")], {}, {}
    steps = {"last_values": (real(3), "r"), "truncated": (flags(9, 3), "f"), "final_values": (real(9, 3), "r")}
    yield fastalign.gae, [(real(9, 3), "r"), (real(9, 3), "r"), (flags(9, 3), "f")], {"mask": (flags(9, 3), "f")}, {}
    yield fastalign.gae, [(real(9, 3), "r"), (real(9, 3), "r"), (flags(9, 3), "f")], steps, {"lam": 0.8}
    packed = {"cu_seqlens": (np.array([0, 4, 30]), "i"), "last_values": (real(2), "r")}
    yield fastalign.discounted_returns, [r, f], packed, {}
    padded, spread = {"mask": (flags(3, 4), "f")}, {"cu_seqlens": (np.array([0, 4, 30]), "i"), "mask": f}
    yield fastalign.sequence_log_probs, [(real(3, 4), "r")], padded, {"reduction": "mean"}
    yield fastalign.sequence_log_probs_grad, [(real(2), "r")], spread, {}
    for shape in ((7,), (2, 3)):
        logits, ids, kept = (real(*shape, 8), "l"), (tokens(*shape), "i"), {"mask": (flags(*shape), "f")}
        own = [(real(*shape), "r") for _ in range(4)]
        yield fastalign.token_log_probs, [logits, ids], kept, {"entropy": True, "top1": True}
        yield fastalign.token_log_probs_grad, [logits, ids, own[0]], {**kept, "grad_entropy": own[1]}, {}
        yield fastalign.policy_loss_from_logits, [logits, ids, *own[:2]], kept, {"entropy_coef": 0.1}


CALLS = list(calls())
NAMES = [f"{call[0].__name__}-{k}" for k, call in enumerate(CALLS)]


@pytest.fixture
def by_the_long_way(monkeypatch):
    """Calls a function where the extension takes no whole calls."""

    def run(function, *given, **options):
        with monkeypatch.context() as patch:
            for name in READY:
                patch.setattr(cython_cpu.core(), name, lambda *given: None)
            patch.setattr(dispatch.choose("cython"), "_pointwise_ready", None)
            patch.setattr(fused, "_whole", lambda *given: lambda *given: None)
            return function(*given, **options, backend="cython")

    return run


@pytest.fixture
def whole(monkeypatch):
    """Calls a function that may not prepare anything in Python."""

    def run(function, *given, **options):
        with monkeypatch.context() as patch:
            patch.setattr(elementwise.Rule, "_prepared", lambda *given: pytest.fail("the long way"))
            for module in ("advantages", "log_probs", "fused", "sequences"):
                patch.setattr(f"fastalign.{module}.choose", lambda *given: pytest.fail("the long way"))
            return function(*given, **options)

    return run


def agree(got, want):
    """Arrays, numbers and metrics."""
    assert type(got) is type(want)
    both = (got, want) if isinstance(got, tuple) else ((got,), (want,))
    for x, y in zip(*both, strict=True):
        if isinstance(y, np.ndarray):
            same([x], [y])
            assert x.flags.c_contiguous and x.flags.writeable
        else:
            np.testing.assert_equal(x, y)


def variants(x, kind):
    for dtype in DTYPES[kind]:
        yield (np.abs(3 * x) if dtype[0] in "iul" and kind in "rl" else x).astype(dtype)
    for name, change in LAYOUTS.items():
        if (kind, name) != ("l", "swapped"):
            yield change(x)


def some_cast(call):
    """The arguments with one that needs a cast: (places, names)."""
    _, given, more, _ = call
    named = {**dict(enumerate(given)), **more}
    for place, (array, kind) in named.items():
        for other in variants(array, kind):
            if place != 0 or type(other) is not tuple:  # whose backend is chosen by what it holds
                some = {name: x for name, (x, _) in named.items()} | {place: other}
                yield [some.pop(k) for k in range(len(given))], some


@pytest.mark.parametrize("call", CALLS, ids=NAMES)
def test_one_array_that_needs_a_cast(by_the_long_way, whole, call):
    function, *_, options = call
    for given, more in some_cast(call):
        want = by_the_long_way(function, *given, **more, **options)
        agree(whole(function, *given, **more, **options), want)


@pytest.mark.parametrize("change", [name for name in LAYOUTS if name not in ("tuple", "swapped")])
@pytest.mark.parametrize("call", CALLS, ids=NAMES)
def test_all_arrays(by_the_long_way, whole, call, change):
    function, given, more, options = call
    arguments = [LAYOUTS[change](x) for x, _ in given]
    named = {name: LAYOUTS[change](x) for name, (x, _) in more.items()}
    want = by_the_long_way(function, *arguments, **named, **options)
    agree(whole(function, *arguments, **named, **options), want)


def refusals(x, kind):
    """What may be wrong with an array: of other shapes and dtypes, in a list, and what it holds."""
    yield from (x[:-1].tolist(), x.astype("g"), x.astype(complex), x.astype(str), x.astype(object), x.astype("M8[s]"))
    yield from (np.ma.masked_array(x), [*x[:-1].tolist(), None], [*x[:-1].tolist(), [1.0, 2.0, 3.0]], [[]], {}, "text")
    yield from (np.zeros((0, *x.shape[1:])), x.tolist()[0], np.float32(1), [10**30] * len(x))
    if kind == "f":
        yield from (x.astype(np.float32), x.astype(float).tolist(), (x * 2).tolist(), x.astype(np.int16) * -1)
        yield from (x.astype(np.uint64) << 63, (x.astype(np.int32) * 256)[::-1])
    if kind == "i":
        yield from ((x + 1000).tolist(), (x - 9).astype(np.int32), x.astype(float).tolist(), (x > 0).tolist())
        yield x.astype(np.uint64) + (1 << 63)


def said(run, *given, **options):
    """The error, or what is returned."""
    try:
        return None, run(*given, **options)
    except Exception as error:
        return (type(error), str(error)), None


@pytest.mark.parametrize("call", CALLS, ids=NAMES)
def test_what_is_wrong_is_said(by_the_long_way, call):
    function, given, more, options = call
    errors = set()
    named = {**dict(enumerate(given)), **more}
    for place, (array, kind) in named.items():
        for other in refusals(array, kind):
            some = {name: x for name, (x, _) in named.items()} | {place: other}
            arguments = [some.pop(k) for k in range(len(given))]
            error, want = said(by_the_long_way, function, *arguments, **some, **options)
            told, got = said(function, *arguments, **some, **options)
            assert told == error
            if error is None:
                agree(got, want)
            errors.add(error)
    assert len(errors) > 8


def test_a_copy_hides_no_memory_that_is_written():
    memory = np.full(80, 7, np.float32)
    for x in (memory[::2], memory[39::-1], memory.view(np.float16)[1::4]):
        for out in (memory[:40].astype(np.float64), memory[:40]):
            real = np.float64 if x.dtype == np.float16 and out.dtype == np.float64 else np.float32
            some = (x, *(np.zeros(40, real) for _ in range(2)))
            if np.may_share_memory(x, out) and real == out.dtype:
                with pytest.raises(ValueError, match="out shares memory with an input"):
                    fastalign.policy_loss(*some, out=out)
            elif real == out.dtype:
                got = fastalign.policy_loss(*some, out=out)
                assert got.grad_log_probs is out and not np.any(out == 7)
    assert np.all(memory == 7)
    x, ids = np.zeros((8, 5), np.float32), np.zeros(8, np.int64)
    slopes = x.reshape(-1).view(np.float64)[:8]  # cast to float32
    for call, given in (
        (fastalign.token_log_probs_grad, (x, ids, slopes)),
        (fastalign.token_log_probs_grad, (x.T.copy().T, ids, slopes)),
        (fastalign.policy_loss_from_logits, (x, ids, slopes, ids)),
        (fastalign.token_log_probs_grad, (x, x.reshape(-1).view(np.int32)[:16:2], ids)),
    ):
        with pytest.raises(ValueError, match="out shares memory with an input"):
            call(*given, out=x)
    pair = np.zeros((2, 9))
    with pytest.raises(ValueError, match=r"out\[1\] shares memory with an input"):
        fastalign.gae([1] * 9, pair[0, ::-1], [0] * 9, out=(np.zeros(9), pair[0]))
    assert not x.any() and not pair.any()


def test_outputs_of_calls_that_are_cast(whole):
    want = fastalign.gae(np.arange(9.0), np.ones(9), np.arange(9) == 4)
    out = np.zeros(9), np.zeros(9)
    got = whole(fastalign.gae, np.arange(9), np.ones(9, np.float32), (np.arange(9) == 4).tolist(), out=out)
    assert got is out
    same(got, want)
    x, ids, g = real(8, 5), tokens(8) % 5, real(8)
    place, grad = x.copy(), fastalign.token_log_probs_grad(x, ids, g)
    assert whole(fastalign.token_log_probs_grad, place, ids.tolist(), g.astype(np.float64), out=place) is place
    same([place], [grad])
    rows = np.repeat(x, 2, axis=1)[:, ::2]  # in place they are written where they lie
    assert fastalign.token_log_probs_grad(rows, ids, g, out=np.zeros_like(x)).dtype == np.float32
    with pytest.raises(ValueError, match="out must have contiguous rows"):
        fastalign.token_log_probs_grad(rows, ids, g, out=rows)
    with pytest.raises(TypeError, match="out has dtype float32; expected float64"):
        fastalign.kl_penalty_reward([0, 1], [1, 1], out=np.zeros(2, np.float32))


def test_warnings_of_casts(by_the_long_way):
    """Numbers beyond float32 warn, once, or raise where that is wanted; and integers are rounded once."""
    x, ids = real(8, 5), np.zeros(8, np.int64)
    large = np.linspace(0, 1e300, 8)
    for error in ("ignore", "warn", "raise"):
        for run in (by_the_long_way, lambda function, *given: function(*given)):
            with np.errstate(over=error), warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                told, got = said(run, fastalign.token_log_probs_grad, x, ids, large)
            assert [str(w.message) for w in caught] == ["overflow encountered in cast"] * (error == "warn")
            assert (told and told[0]) == (FloatingPointError if error == "raise" else None)
    one_and_a_bit = (1 << 60) + (1 << 36) + 1  # float64 rounds it to the middle of two of float32, and that down
    for slopes in ([one_and_a_bit] * 8, np.full(8, one_and_a_bit)):
        want = by_the_long_way(fastalign.token_log_probs_grad, x, ids, slopes)
        same([fastalign.token_log_probs_grad(x, ids, slopes)], [want])


def test_numbers_of_numpys_decide_the_dtype():
    """As in NumPy: a list of nothing but float32 is float32, one number of Python's among them makes it float64."""
    x = real(6)
    assert fastalign.kl_penalty_reward(list(x), x).dtype == np.float32
    assert fastalign.kl_penalty_reward([*x[:5], 1.0], x).dtype == np.float64
    assert fastalign.kl_penalty_reward([1, *x[:5]], x).dtype == np.float64
    assert fastalign.kl_penalty_reward(x.astype(np.float16), x).dtype == np.float32
    assert fastalign.kl_penalty_reward([True] * 6, x).dtype == np.float64
    rows = x.reshape(2, 3)
    assert fastalign.kl_penalty_reward([list(rows[0]), list(rows[1])], rows).dtype == np.float32
    assert fastalign.kl_penalty_reward([[1.0, *rows[0, 1:]], list(rows[1])], rows).dtype == np.float64


@pytest.mark.parametrize("kind", ["f16", "bf16", "bfloat16"])
def test_halves_that_lie_apart(by_the_long_way, whole, kind):
    x = real(3, 4, 8)
    logits = {"f16": x.astype(np.float16), "bfloat16": x.astype(ml_dtypes.bfloat16)}.get(kind)
    logits = (x.view(np.uint32) >> 16).astype(np.uint16) if logits is None else logits
    ids, g = tokens(3, 3), real(3, 3).astype(np.float64)
    agree(
        whole(fastalign.token_log_probs_grad, logits[:, :-1], ids.tolist(), g),
        by_the_long_way(fastalign.token_log_probs_grad, logits[:, :-1], ids, g),
    )


@pytest.mark.parametrize("last", [np.float32(0.25), np.array(0.25), [0.25], np.array([1]), 1e35, np.inf, 2**200, True])
def test_the_last_value_of_one_stream(by_the_long_way, last):
    for dtype in (np.float32, np.float64):
        given = real(9).astype(dtype), real(9).astype(dtype), flags(9)
        error, want = said(by_the_long_way, fastalign.gae, *given, last_values=last)
        told, got = said(fastalign.gae, *given, last_values=last)
        assert told == error
        if error is None:
            agree(got, want)


@pytest.mark.parametrize("kind", ["halves", "list", "tuple"])
def test_larger_ones_are_left_to_python_at_once(kind):
    core, large = cython_cpu.core(), np.zeros((1 << 16) + 1, np.float16)
    made = {"halves": np.asarray, "list": np.ndarray.tolist, "tuple": tuple}[kind]
    ends = np.zeros(large.size, np.bool_)
    for n, taken in ((large.size - 1, True), (large.size, False)):
        x, plain = made(large[:n]), np.zeros(n, np.float32 if kind == "halves" else np.float64)
        options = ends[:n], None, None, 0.9, 0.9, "TN", None, None, 1 << 30
        done = core.scan_ready("gae", x, plain, None, None, None, *options)
        assert (done is not None) == taken
        rows = core.group_reduce_ready(made(large[None, :n]) if kind != "tuple" else [x], None, None, "sum")
        assert (rows is not None) == (taken or kind == "list")  # which NumPy has read, and nothing is to be cast of


def test_large_ones_that_need_no_cast_are_read_where_they_are(whole):
    x = [real((1 << 16) + 1) for _ in range(3)]
    agree(whole(fastalign.policy_loss, *map(Foreign, x)), fastalign.policy_loss(*x))
    logits, ids = real(9, 9000), tokens(9)
    agree(whole(fastalign.token_log_probs, Foreign(logits), Foreign(ids)), fastalign.token_log_probs(logits, ids))


def test_of_a_type_that_was_on_the_host_some_may_not_be():
    class Tensor(Foreign):
        """As PyTorch's, whose types do not tell where they are."""

        cuda = False
        is_cuda = property(lambda self: self.cuda)

    x = [Tensor(real(5)) for _ in range(3)]
    for _ in range(3):
        fastalign.policy_loss(*x)
    x[1].cuda, before = True, Foreign.reads
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        fastalign.policy_loss(*x)
    assert type(x[0]) in arrays.in_hand and Foreign.reads <= before + 2  # x[0], by either way


def test_memory_behind_another_librarys_array_is_not_hidden():
    memory = np.arange(40, dtype=np.float32)
    for x in (Foreign(memory), Foreign(memory[::2]), Foreign(memory[::-1])):
        some = x, *(real(*x.x.shape) for _ in range(2))
        with pytest.raises(ValueError, match="out shares memory with an input"):
            fastalign.policy_loss(*some, out=memory[: x.x.size])
    assert np.array_equal(memory, np.arange(40))


def test_the_environment_chooses_for_lists_too(monkeypatch):
    given = [0.5, 1.0], [1.0, 0.5]
    fastalign.kl_penalty_reward(*given), fastalign.kl_penalty_reward(*given)
    monkeypatch.setenv("FASTALIGN_BACKEND", "hand")
    for call, some in ((fastalign.kl_penalty_reward, given), (fastalign.gae, (*given, [0, 0]))):
        with pytest.raises(ValueError, match="FASTALIGN_BACKEND is 'hand'; expected one of"):
            call(*some)
    with pytest.raises(ValueError, match="FASTALIGN_BACKEND is 'hand'; expected one of"):
        fastalign.token_log_probs([[0.5, 1.0]], [1])


def test_ignored_tokens_in_lists():
    x = real(4, 5)
    want = fastalign.token_log_probs(x, np.array([0, 3, 3, 1]), mask=np.array([True, False, False, True]))
    same(fastalign.token_log_probs(x, [0, 3, 3, 1], ignore_index=3)[:2], want[:2])
    with pytest.raises(TypeError, match="ignore_index is True; expected an integer"):
        fastalign.token_log_probs(x, [0, 3, 3, 1], ignore_index=True)
