"""Rows as the loops see them: peaks that rise late, offsets, long prefixes of nothing, accuracy; in every build."""

import numpy as np
import pytest
from conftest import usable

from fastalign import TokenLogProbs, policy_loss_from_logits, token_log_probs, token_log_probs_grad
from fastalign.backends import CUT, cython_cpu
from fastalign.cases import HALVES, as_dtype, real, widened

INF = np.inf
DTYPES = ("float32", "float64", "float16", "bfloat16")


def truth(logits, tokens):
    """(logp, lse, entropy, p) in long doubles."""
    x = logits.astype(np.longdouble)
    peak = x.max(axis=1, keepdims=True)
    z = x - peak
    log_total = np.log(np.exp(z).sum(axis=1, keepdims=True))
    log_p = z - log_total
    p = np.exp(log_p)
    entropy = -np.where(p > 0, p * np.where(p > 0, log_p, 0), 0).sum(axis=1)
    return np.take_along_axis(log_p, tokens[:, None], 1)[:, 0], (peak + log_total)[:, 0], entropy, p


def agree(walker, logits, dtype, eps):
    x = as_dtype(logits, dtype)
    exact = widened("logits", x)
    tokens = np.where(np.arange(len(x)) % 2, exact.argmax(axis=1), np.arange(len(x)) % exact.shape[1])
    got = token_log_probs(x, tokens, entropy=True, backend=walker)
    logp, lse, entropy, p = truth(exact, tokens)
    for g, w in zip(got, (logp, lse, entropy), strict=False):
        np.testing.assert_allclose(g, w.astype(np.float64), rtol=eps, atol=8 * eps)
    grad = token_log_probs_grad(x, tokens, np.ones(len(x)), backend=walker)
    want = -p.astype(np.float64)
    want[np.arange(len(x)), tokens] += 1
    unit = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(dtype, 8 * eps)
    np.testing.assert_allclose(widened("logits", grad).astype(np.float64), want, rtol=unit, atol=max(unit, 1e-7) / 16)


EPS = {"float64": 1e-15, "float32": 3e-7, "float16": 3e-7, "bfloat16": 3e-7}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_peak_that_rises_late(walker, dtype):
    """Slowly, in steps, all at the end; within a tile and across tiles; and falling."""
    n = 5003
    slow = np.linspace(-60.0, 60.0, n)
    steps = np.repeat(np.arange(12) * 30.0 - 200, n // 12 + 1)[:n]
    late = np.where(np.arange(n) < n - 3, -500.0, 0.0)
    inside = np.where(np.arange(n) % 2048 == 1000, 90.0 + np.arange(n) / 100, 0.0)
    agree(walker, np.stack([slow, slow[::-1], steps, steps[::-1], late, inside]), dtype, EPS[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [300, 600, 4000, 32_000])
@pytest.mark.parametrize("moments", [False, True])
def test_the_entropy_of_a_row_with_one_likely_token(walker, dtype, columns, moments):
    """It is a small difference of what its sums are, where these are relative to a peak that came before."""
    rng = np.random.default_rng(columns)
    spread = np.array([5.0, 8, 10, 12, 15, 17, 20, 30]).repeat(6)
    logits = rng.standard_normal((len(spread), columns)) * 2
    logits[np.arange(len(spread)), rng.integers(columns // 2, columns, len(spread))] += spread
    x, tokens = as_dtype(logits, dtype), np.zeros(len(spread), np.int64)
    want = truth(widened("logits", x), tokens)[2]
    got = token_log_probs(x, tokens, entropy=True, sum_p2=moments, backend=walker).entropy
    eps = float(np.finfo(got.dtype).eps)
    assert np.abs(got - want).max() <= 48 * eps
    old, slope = np.zeros((2, len(spread)), got.dtype)
    r = policy_loss_from_logits(x, tokens, old, slope, entropy_coef=1.0, backend=walker)
    assert r.metrics["entropy"] == pytest.approx(float(want.mean()), abs=8 * eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_entropy_of_a_row_whose_peak_rises_again(walker, dtype):
    """After many elements of some weight, and one that they are nothing beside."""
    grown, first, more = (x.ravel() for x in np.meshgrid([1.5, 3.0, 5.0], [6.0, 8.0, 10.0, 10.3], np.arange(3.0, 10.0)))
    logits = np.random.default_rng(7).standard_normal((len(grown), 32_000)) - 20
    logits[:, :256] = 0.0
    logits[:, 256:2300] = grown[:, None]
    logits[:, 16_000], logits[:, 24_000] = first, first + more
    x = as_dtype(logits, dtype)
    want = truth(widened("logits", x), np.zeros(len(x), np.int64))[2]
    got = token_log_probs(x, np.zeros(len(x), np.int64), entropy=True, backend=walker).entropy
    certain = want < 0.1
    assert certain.any()
    assert np.abs(got - want)[certain].max() <= 64 * np.finfo(got.dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_rise_by_any_number_of_octaves(walker, dtype):
    """Also by more than a power of two can hold, in one element or from there on, in whole vectors or not."""
    rises = np.concatenate([np.arange(0.0, 800.0, 7.3), np.arange(85.0, 93.0, 0.25), 2.0 ** np.arange(10, 16)])
    alone, after = np.zeros((len(rises), 701)), np.zeros((len(rises), 701))
    alone[:, 500] = rises
    after[:, 650:] = rises[:, None]
    agree(walker, np.concatenate([alone, after]), dtype, EPS[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("prefix", [1, 255, 256, 2048, 4096])
def test_a_prefix_of_nothing(walker, dtype, prefix):
    logits = np.random.default_rng(1).standard_normal((2, prefix + 5)) * 3
    logits[:, :prefix] = -INF
    agree(walker, logits, dtype, EPS[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", [0, 255, 256, 600, 2047, 2048, 4990, 4999])
def test_far_below_in_any_tile(walker, dtype, place):
    """By more octaves than an exponent has, in one element or from there on, be it that the peak rises there, too."""
    rng = np.random.default_rng(5)
    logits = rng.standard_normal((9, 5000))
    for row, low in enumerate([-88.0, -89.0, -750.0, -3e4, -INF]):
        logits[row, place] = low
    logits[5, place:] -= 800.0
    logits[6, place:] += 800.0
    logits[7, place::7] = -INF
    logits[8, place], logits[8, place - 1] = 500.0, -INF
    # Halves are few far from 0: sums of equal numbers drift in one direction.
    agree(walker, logits, dtype, EPS[dtype] * (2 if dtype in HALVES else 1))


@pytest.mark.parametrize("dtype, offset", [(d, o) for d in DTYPES for o in (0.0, 100.0, -3e4)] + [
    ("float32", 1e4), ("float32", 1e6), ("float32", -1e9), ("float32", 1e38), ("float64", 1e15), ("float64", 1e300),
    ("bfloat16", 1e38),
])  # fmt: skip
def test_an_offset(walker, dtype, offset):
    """Exact in what the logits, as rounded, are: far from 0 they have steps."""
    logits = np.random.default_rng(2).standard_normal((4, 2500)) * 3 + offset
    agree(walker, logits, dtype, EPS[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", [0, 255, 256, 2047, 2048, 4095, 4999])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, INF])
def test_no_number_in_any_tile(walker, dtype, place, bad):
    x = as_dtype(np.zeros((3, 5000)), dtype)
    x[1, place] = as_dtype(np.array([bad]), dtype)[0]
    got = token_log_probs(x, np.zeros(3, int), entropy=True, backend=walker)
    assert np.isnan(got.logp[1]) and np.isnan(got.entropy[1])
    assert got.lse[1] == INF if bad == INF else np.isnan(got.lse[1])
    np.testing.assert_allclose(got.logp[[0, 2]], -np.log(5000), rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sure_token_has_exactly_nothing_to_lose(walker, dtype):
    """Whatever the rounding of its product with log2(e)."""
    rng = np.random.default_rng(3)
    values = as_dtype(rng.standard_normal((200, 1)) * 50, dtype)
    assert not token_log_probs(values, np.zeros(200, int), temperature=0.7, backend=walker).logp.any()
    x = np.full((200, 70), -500.0 if dtype in HALVES else -INF)
    x[:, 33] = widened("logits", values)[:, 0]
    got = token_log_probs(as_dtype(x, dtype), np.full(200, 33), backend=walker)
    assert not got.logp.any()
    np.testing.assert_array_equal(got.lse, x[:, 33].astype(got.lse.dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.7, 1.3e-24])
def test_a_sure_token_has_no_gradient(walker, dtype, temperature):
    """Not what the rounding of g / T leaves of it, which in float16 was infinite at the second temperature."""
    x, tokens = as_dtype(np.full((200, 70), -5e3), dtype), np.full(200, 33)
    x[:, 33] = as_dtype(np.array([5e3]), dtype)
    g = np.random.default_rng(6).standard_normal(200).astype(real(dtype))
    lse = token_log_probs(x, tokens, temperature=temperature, backend=walker).lse
    for saved in (None, lse):
        grad = token_log_probs_grad(x, tokens, g, lse=saved, temperature=temperature, backend=walker)
        assert not widened("logits", grad).any()
    fused = policy_loss_from_logits(x, tokens, 0.1 * g, g, temperature=temperature, backend=walker)
    assert not widened("logits", fused.grad_logits).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("width", [6, 200, 5003])
def test_derivatives_near_the_ends_of_the_numbers(walker, dtype, saved, width):
    """Of a loss that is a sum over much, or was scaled up: no step between may be beyond them, or lose digits."""
    of = np.finfo(dtype)
    given = np.array([-of.max * 0.9, of.max * 0.5, of.tiny / 4, of.tiny * 1e3, 1e25, -1e-25, INF, -INF], dtype)
    x = np.random.default_rng(4).standard_normal((len(given), width)).astype(dtype)
    x[:, 1] = 30  # all but sure
    tokens = np.full(len(given), 1)
    lse = token_log_probs(x, tokens, backend=walker).lse if saved else None
    got = token_log_probs_grad(x, tokens, given, lse=lse, backend=walker)
    wide = x.astype(np.longdouble)
    p = np.exp(wide - wide.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    want = -given[:, None].astype(np.longdouble) * np.delete(p, 1, 1)
    with np.errstate(over="ignore", under="ignore"):
        np.testing.assert_allclose(np.delete(got, 1, 1), want.astype(dtype), 60 * of.eps, of.smallest_subnormal)


@pytest.mark.parametrize("dtype, most", [("float32", 4e-6), ("float64", 2e-13)])
def test_accuracy_of_a_long_vocabulary(walker, dtype, most):
    rng = np.random.default_rng(4)
    x = (rng.standard_normal((6, 128_256)) * 3).astype(dtype)
    tokens = np.concatenate([rng.integers(0, 128_256, 3), x[3:].argmax(axis=1)])
    got = token_log_probs(x, tokens, backend=walker)
    assert np.abs(got.logp - truth(x, tokens)[0]).max() <= most


# ---- the other outputs -----------------------------------------------------------------------------------------------

ALL = {"entropy": True, "sum_p2": True, "mean_logit": True, "top1": True}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 7, 600, 5003])
def test_the_other_outputs_by_their_definitions(walker, dtype, width):
    x = as_dtype(np.random.default_rng(5).standard_normal((6, width)) * 3, dtype)
    exact = widened("logits", x).astype(np.longdouble)
    tokens = np.where(np.arange(6) % 2, exact.argmax(axis=1), width // 2)
    got = token_log_probs(x, tokens, temperature=0.5, backend=walker, **ALL)
    p = truth(exact * 2, tokens)[3]
    eps = 20 * EPS[dtype]
    np.testing.assert_allclose(got.sum_p2, (p * p).sum(axis=1).astype(np.float64), rtol=eps)
    np.testing.assert_allclose(got.mean_logit, 2 * exact.mean(axis=1).astype(np.float64), rtol=eps, atol=eps)
    assert got.top1.dtype == np.bool_ and got.top1.shape == tokens.shape
    np.testing.assert_array_equal(got.top1, exact.argmax(axis=1) == tokens)


def test_what_is_not_asked_for_is_none(walker):
    x = np.zeros((2, 3), np.float32)
    assert token_log_probs(x, [0, 1], backend=walker)[2:] == (None, None, None, None)
    got = token_log_probs(x, [0, 1], mean_logit=True, backend=walker)
    assert got.mean_logit is not None and got[2:4] == (None, None) and got.top1 is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [5, 600, 3000])
def test_the_other_outputs_of_special_rows(walker, dtype, width):
    x = np.full((7, width), -2.0)
    x[0, width - 1] = np.nan
    x[1, 3] = INF
    x[2] = -INF
    x[3, 1] = -INF
    x[4, [2, 4]] = 7.0  # equal: the first is the argmax
    x[5, [2, 4]] = 7.0
    x[6, 2] = -0.0
    x[6, 4] = 0.0
    tokens = [width - 1, 3, 0, 0, 2, 4, 2]
    got = token_log_probs(as_dtype(x, dtype), tokens, backend=walker, **ALL)
    assert got.top1.tolist() == [False, True, True, True, True, False, True]
    np.testing.assert_array_equal(got.mean_logit[:4], [np.nan, INF, -INF, -INF])
    assert np.isnan(got.sum_p2[:3]).all() and np.isfinite(got.sum_p2[3:]).all()
    grad = token_log_probs_grad(
        as_dtype(x, dtype), tokens, np.zeros(7), grad_sum_p2=np.ones(7), grad_mean_logit=np.ones(7), backend=walker
    )
    grad = widened("logits", grad).astype(np.float64)
    assert np.isnan(grad[:3]).all() and np.isfinite(grad[3:]).all()
    assert grad[3, 1] == pytest.approx(1 / width, rel=1e-2)  # nothing but the mean's


def test_a_mean_beyond_the_sum_of_float32(walker):
    x = np.full((1, 4000), 3e38, np.float32)
    got = token_log_probs(x, [0], backend=walker, **ALL)
    assert got.mean_logit[0] == pytest.approx(3e38, rel=1e-6) and got.sum_p2[0] == pytest.approx(1 / 4000, rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("low", [-90.0, -1000.0, -30000.0])
def test_what_follows_nothing_may_be_far_below_zero(walker, dtype, low):
    """Relative to 0 its exponentials are nothing."""
    x = np.full((2, 5000), -INF)
    x[:, 4000:] = low
    x[1, 4500] = low + 2.0
    x = as_dtype(x.astype(np.float32), dtype)
    got = token_log_probs(x, [4000, 4500], backend=walker, **ALL)
    exact = widened("logits", x)[:, 4000:].astype(np.float64)
    lse = exact.max(axis=1) + np.log(np.exp(exact - exact.max(axis=1, keepdims=True)).sum(axis=1))
    np.testing.assert_allclose(got.lse, lse, rtol=4 * EPS[dtype])
    np.testing.assert_allclose(got.logp, exact[[0, 1], [0, 500]] - lse, rtol=1e-5 if got.logp.dtype == "f4" else 1e-12)
    loss = policy_loss_from_logits(x, [4000, 4500], got.logp, np.ones(2, got.logp.dtype), backend=walker)
    assert np.isfinite(loss.loss) and np.isfinite(widened("logits", loss.grad_logits)).all()


# ---- rows divided among threads --------------------------------------------------------------------------------------


def long_rows(dtype):
    """Parts like any, of nothing, and with a peak that only the last has."""
    x = np.random.default_rng(6).standard_normal((4, 2 * CUT + 4321)) * 3
    x[1, :CUT] = -INF
    x[2, -5] = 200.0
    x[3] += 1000.0
    return as_dtype(x, dtype), np.array([CUT, CUT + 7, 2 * CUT + 4316, 0])


def everything(x, tokens, walker, **more):
    got = token_log_probs(x, tokens, temperature=0.9, backend=walker, **ALL, **more)
    ups = np.random.default_rng(7).standard_normal((5, 4)).astype(got.logp.dtype)
    named = dict(zip(("grad_lse", "grad_entropy", "grad_sum_p2", "grad_mean_logit"), ups[1:], strict=True))
    common = {"temperature": 0.9, "backend": walker, **more}
    own = x.copy()
    return [
        *got,
        token_log_probs_grad(x, tokens, ups[0], **named, **common),
        token_log_probs_grad(x, tokens, ups[0], lse=got.lse, **common),
        token_log_probs_grad(own, tokens, ups[0], lse=got.lse, grad_entropy=ups[1], out=own, **common),
    ]


def test_no_call_of_rows_of_several_parts_is_taken_whole():
    """Whatever the limit: there the loops forward would go on beyond the last row."""
    usable("cython")
    for isa in cython_cpu.isas():
        core = cython_cpu.load(isa)
        for columns, taken in ((CUT, True), (CUT + 1, False)):
            x, tokens, g = np.zeros((1, columns), np.float32), np.zeros(1, np.int64), np.ones(1, np.float32)
            forward = core.row_forward_ready(
                TokenLogProbs, x, tokens, 1.0, None, False, False, False, False, None, 1 << 40
            )
            back = core.row_backward_ready(x, tokens, (g, *[None] * 6), 1.0, None, None, 1 << 40)
            assert (forward is not None, back is not None) == (taken, taken)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_of_divided_rows_do_not_depend_on_the_threads(walker, threads, divisions, dtype):
    x, tokens = long_rows(dtype)
    masked = {"mask": [1, 1, 0, 1]}
    threads(1)
    want = everything(x, tokens, walker) + everything(x, tokens, walker, **masked)
    assert not divisions
    for count in (2, 3):
        threads(count)
        got = everything(x, tokens, walker) + everything(x, tokens, walker, **masked)
        for g, w in zip(got, want, strict=True):
            np.testing.assert_array_equal(g.view(np.uint8), w.view(np.uint8))
    assert walker == "numpy" or {(12, 2), (12, 3)} <= set(divisions)  # the parts, not the rows


def test_many_long_rows_in_place_are_divided_between_rows(walker, threads):
    """Whoever began within a row would find what another has written already."""
    if walker == "numpy":
        pytest.skip("the reference has no threads")
    x = np.random.default_rng(8).standard_normal((66, CUT + 5), np.float32)
    tokens, ups = np.full(66, CUT + 2), np.ones(66, np.float32)
    threads(1)
    want = token_log_probs_grad(x, tokens, ups, backend=walker)
    threads(3)
    for _ in range(3):
        got = x.copy()
        token_log_probs_grad(got, tokens, ups, out=got, backend=walker)
        assert np.array_equal(got, want)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("count", [1, 2])
def test_divided_rows_are_right(walker, threads, dtype, count):
    threads(count)
    x, tokens = long_rows(dtype)
    exact = widened("logits", x)
    got = token_log_probs(x, tokens, backend=walker, **ALL)
    logp, lse, entropy, p = truth(exact, tokens)
    eps = 10 * EPS[dtype]
    for g, w in zip(got, (logp, lse, entropy, (p * p).sum(axis=1), exact.mean(axis=1)), strict=False):
        np.testing.assert_allclose(g, w.astype(np.float64), rtol=eps, atol=eps)
    assert got.top1.tolist() == (exact.argmax(axis=1) == tokens).tolist()
    grad = widened("logits", token_log_probs_grad(x, tokens, np.ones(4), lse=got.lse, backend=walker))
    want = -p.astype(np.float64)
    want[np.arange(4), tokens] += 1
    unit = 2.0**-7 if dtype == "bfloat16" else 10 * EPS[dtype]
    np.testing.assert_allclose(grad, want, rtol=unit, atol=unit / 1000)


@pytest.mark.parametrize("place", [0, CUT - 1, CUT, 2 * CUT, 2 * CUT + 100])
@pytest.mark.parametrize("bad", [np.nan, INF])
def test_no_number_in_any_part(walker, threads, place, bad):
    x = np.zeros((2, 2 * CUT + 101), np.float32)
    x[1, place] = bad
    for count in (1, 2):
        threads(count)
        got = token_log_probs(x, [0, 0], backend=walker, **ALL)
        assert np.isnan([got.logp[1], got.entropy[1], got.sum_p2[1]]).all() and np.isfinite(got.logp[0])
        assert got.lse[1] == INF if bad == INF else np.isnan(got.lse[1])
        assert got.top1.tolist() == [True, bad == INF and place == 0]
        grad = token_log_probs_grad(x, [0, 0], [1.0, 1.0], backend=walker)
        assert np.isnan(grad[1]).all() and np.isfinite(grad[0]).all()


@pytest.mark.parametrize("temperature", [1e-36, 1e-30, 1e30, 1e36, 1e37])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_logits_and_temperatures_near_the_ends_of_floats(walker, dtype, temperature):
    """Sums of logits, that are not in octaves, would be infinite, or subnormal."""
    x = as_dtype(np.random.default_rng(2).standard_normal((3, 3000)) * temperature, dtype)
    tokens = np.array([0, 1500, 2999])
    got = token_log_probs(x, tokens, temperature=temperature, entropy=True, backend=walker)
    logp, _, entropy, _ = truth(widened("logits", x).astype(np.longdouble) / temperature, tokens)
    np.testing.assert_allclose(got.logp, logp, 3e-6)
    np.testing.assert_allclose(got.entropy, entropy, 3e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_far_below_is_nothing_whatever_its_bits(walker, dtype):
    """Sums by AVX2 look for what is beyond in the bits of octaves and a magic number, 1.5 2^20 of floats: of any power
    of two less, or one and a half, the low bits could be taken for those of a number near the peak."""
    high = 2.0**49 if dtype == "float64" else 2.0**20
    sums = [high * part for part in (2.0, 1.75, 1.5, 1.25, *(2.0**-k * m for k in range(19) for m in (1, 1.5)))]
    octaves = np.array([z + k - high * base for base in (1.0, 1.5) for z in sums for k in (-7, 0, 3, 9)])
    octaves = octaves[octaves < -200]
    for far in octaves:
        low = {"float16": -65504.0, "bfloat16": -98304.0}.get(dtype, far * np.log(2))
        temperature = low / (far * np.log(2))
        row = np.zeros((2, 1024))
        row[0, 700] = row[1, 512:] = low
        for entropy in (False, True):
            got = token_log_probs(
                as_dtype(row, dtype), np.zeros(2, np.int64), temperature=temperature, entropy=entropy, backend=walker
            )
            np.testing.assert_allclose(got.logp, -np.log([1023.0, 512.0]), 3e-6, err_msg=f"{far} octaves")
            if entropy:
                np.testing.assert_allclose(got.entropy, np.log([1023.0, 512.0]), 3e-6, err_msg=f"{far} octaves")
