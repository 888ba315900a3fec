"""Rows that go many at a time: each is what it would be alone, and among columns of nothing."""

import numpy as np
import pytest
from conftest import same
from test_rows import DTYPES, truth

from fastalign import policy_loss, policy_loss_from_logits, token_log_probs, token_log_probs_grad
from fastalign.cases import as_dtype, real, widened

COLUMNS = (1, 2, 3, 4, 5, 6, 7, 18, 31, 32, 33, 47, 48, 63, 64, 65, 100, 255, 511, 512)
EPS = {"float64": 2e-16}
UNIT = {"float64": 2e-16, "float16": 2.0**-11, "bfloat16": 2.0**-8}
ALL = {"entropy": True, "sum_p2": True, "mean_logit": True, "top1": True}


def rows(count, columns, dtype, changed=lambda x: None):
    rng = np.random.default_rng(0)
    x = (3 * rng.standard_normal((count, columns))).astype(np.float32)
    changed(x)
    return as_dtype(x, dtype), rng.integers(0, columns, count)


def ups(count, dtype, seed=1):
    return np.random.default_rng(seed).standard_normal((5, count)).astype(real(dtype))


def gradient(x, tokens, up, backend, **options):
    """By all outputs."""
    names = ("grad_lse", "grad_entropy", "grad_sum_p2", "grad_mean_logit")
    return token_log_probs_grad(x, tokens, up[0], **dict(zip(names, up[1:], strict=True)), backend=backend, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", COLUMNS)
def test_as_exact_as_their_numbers(walker, dtype, columns):
    x, tokens = rows(200, columns, dtype)
    eps, unit, more = EPS.get(dtype, 6e-8), UNIT.get(dtype, 6e-8), 1 if columns <= 100 else 3
    exact = widened("logits", x)
    logp, lse, entropy, p = truth(exact, tokens)
    got = token_log_probs(x, tokens, **ALL, backend=walker)
    for g, w in zip(got, (logp, lse, entropy, (p * p).sum(1), exact.astype(np.longdouble).mean(1)), strict=False):
        np.testing.assert_allclose(g, w.astype(np.float64), rtol=more * 4 * eps, atol=more * 8 * eps)
    np.testing.assert_array_equal(got.top1, exact.argmax(1) == tokens)
    for saved in ({}, {"lse": got.lse}):
        grad = widened("logits", token_log_probs_grad(x, tokens, np.ones(200, real(dtype)), **saved, backend=walker))
        want = (np.arange(columns) == tokens[:, None]) - p
        np.testing.assert_allclose(grad.astype(np.float64), want.astype(np.float64), rtol=unit, atol=16 * eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [2, 6, 32, 33, 40, 300])
def test_columns_of_nothing_change_nothing(walker, dtype, columns):
    """Up to a rounding: with so many a row goes among others of its kind, or by itself."""
    x, tokens = rows(130, columns, dtype)
    more = 33 if columns < 40 else 17
    wide = np.concatenate([x, as_dtype(np.full((130, more), -np.inf, np.float32), dtype)], axis=1)
    eps, unit, up = EPS.get(dtype, 6e-8), UNIT.get(dtype, 6e-8), ups(130, dtype)
    up[4] = 0  # the mean of -inf
    some = {"entropy": True, "sum_p2": True, "top1": True, "backend": walker}
    for g, w in zip(token_log_probs(x, tokens, **some), token_log_probs(wide, tokens, **some), strict=True):
        if g is not None:
            np.testing.assert_allclose(g, w, rtol=4 * eps, atol=8 * eps)
    g, w = (widened("logits", gradient(y, tokens, up, walker)) for y in (x, wide))
    assert not w[:, columns:].any()
    np.testing.assert_allclose(g, w[:, :columns], rtol=4 * unit, atol=64 * eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [2, 6, 31, 37, 64, 301])
def test_each_is_what_it_is_alone(walker, dtype, columns):
    """Among 1 to 130 others, some of which are masked, NaN, infinite or nothing: to the bit."""

    def special(x):
        x[3], x[64], x[70], x[90::7, columns - 1] = np.nan, np.inf, -np.inf, -np.inf

    x, tokens = rows(131, columns, dtype, special)
    tokens[90::7] = 0
    mask = np.arange(131) % 5 != 2
    up = ups(131, dtype)
    whole = token_log_probs(x, tokens, mask=mask, **ALL, backend=walker)
    back = gradient(x, tokens, up, walker, mask=mask)
    plain = token_log_probs_grad(x, tokens, up[0], mask=mask, backend=walker)
    with_lse = gradient(x, tokens, up, walker, mask=mask, lse=whole.lse, entropy=whole.entropy)
    for a, b in ((0, 1), (3, 4), (63, 66), (64, 128), (2, 67), (90, 131), (0, 65)):
        part = {"mask": mask[a:b], "backend": walker}
        same(token_log_probs(x[a:b], tokens[a:b], **ALL, **part), [field[a:b] for field in whole])
        same([gradient(x[a:b], tokens[a:b], up[:, a:b], **part)], [back[a:b]])
        same([token_log_probs_grad(x[a:b], tokens[a:b], up[0, a:b], **part)], [plain[a:b]])
        saved = {"lse": whole.lse[a:b], "entropy": whole.entropy[a:b]}
        same([gradient(x[a:b], tokens[a:b], up[:, a:b], **part, **saved)], [with_lse[a:b]])


def test_the_sign_of_a_zero_does_not_hang_on_a_neighbour(walker):
    """A gradient that underflows, of the same row alone and beside one that has more than its token's."""
    x, tokens = np.zeros((2, 4), np.float32), np.array([1, 1])
    x[:, 3] = -80
    up, more = np.full(2, 1e-20, np.float32), np.array([0, 1], np.float32)
    for name in ("grad_entropy", "grad_mean_logit", "grad_sum_p2"):
        both = token_log_probs_grad(x, tokens, up, **{name: more}, backend=walker)
        alone = token_log_probs_grad(x[:1], tokens[:1], up[:1], **{name: more[:1]}, backend=walker)
        np.testing.assert_array_equal(np.signbit(both[:1]), np.signbit(alone))
        same([both[:1]], [alone])


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_masked_is_not_looked_at(walker, dtype):
    mask = np.arange(70) % 3 == 0
    x, tokens = rows(70, 5, dtype, lambda x: x.__setitem__(~mask, np.nan))
    tokens[~mask] = -7
    got = token_log_probs(x, tokens, mask=mask, **ALL, backend=walker)
    for field in got:
        assert np.isfinite(field).all() and not field[~mask].any()
    grad = widened("logits", gradient(x, tokens, ups(70, dtype), walker, mask=mask))
    assert np.isfinite(grad).all() and not grad[~mask].any()


MASKS = {
    "few": np.random.default_rng(5).random(400) < 0.03,
    "every other": np.arange(400) % 2 == 0,
    "blocks": np.arange(400) // 70 % 2 == 1,
    "the last": np.arange(400) == 399,
    "none": np.zeros(400, bool),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [5, 48, 300])
@pytest.mark.parametrize("kept", MASKS)
def test_what_a_mask_keeps_is_as_without_it(walker, dtype, columns, kept):
    """To the bit, whether rows that do not count are passed by or walked along, and whatever the outputs held."""
    x, tokens = rows(400, columns, dtype)
    up, mask = ups(400, dtype), MASKS[kept]

    def all_of(mask):
        out = np.full_like(x, 9)
        forward = token_log_probs(x, tokens, mask=mask, **ALL, backend=walker)
        yield from forward
        yield token_log_probs_grad(x, tokens, up[0], mask=mask, out=out, backend=walker).copy()
        yield token_log_probs_grad(x, tokens, up[0], mask=mask, lse=forward.lse, out=out, backend=walker).copy()
        yield gradient(x, tokens, up, walker, mask=mask, out=out).copy()
        for coef in (0.0, 0.1):
            options = {"entropy_coef": coef, "aggregation": "token_sum", "out": out, "backend": walker}
            loss = policy_loss_from_logits(x, tokens, up[0] - 2, up[1], mask=mask, **options)
            yield from (loss.grad_logits.copy(), loss.logp)

    for got, want in zip(all_of(mask), all_of(None), strict=True):
        want[~mask] = 0
        same([got], [want])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "columns, coef", [(n, c) for n in (2, 6, 18, 32, 50, 64) for c in (0.0, 0.01)] + [(200, 0.01), (512, 0.01)]
)
def test_a_policy_loss_is_that_of_its_parts(walker, dtype, columns, coef):
    """In place, too; with advantages of 0, and rows that a mask leaves out."""
    x, tokens = rows(150, columns, dtype)
    logp = token_log_probs(x, tokens, backend=walker).logp
    shift, advantages = ups(150, dtype)[:2]
    old, mask = (logp + 0.3 * shift).astype(real(dtype)), np.arange(150) % 4 != 1
    advantages[::10] = 0
    parts = policy_loss(logp, old, advantages, mask=mask, backend="numpy")
    entropy = token_log_probs(x, tokens, mask=mask, entropy=True, backend=walker).entropy
    share = np.full(150, -coef / mask.sum(), real(dtype))
    want = token_log_probs_grad(
        x,
        tokens,
        parts.grad_log_probs.astype(real(dtype)),
        grad_entropy=share if coef else None,
        mask=mask,
        backend=walker,
    )
    eps, unit = EPS.get(dtype, 6e-8), UNIT.get(dtype, 6e-8)
    for out in (None, x):
        got = policy_loss_from_logits(x, tokens, old, advantages, mask=mask, entropy_coef=coef, out=out, backend=walker)
        same([got.logp], [np.where(mask, logp, 0).astype(real(dtype))])
        assert got.loss == pytest.approx(parts.loss - coef * entropy.sum() / mask.sum(), rel=1e-5, abs=1e-6)
        for name, value in parts.metrics.items():
            assert got.metrics[name] == pytest.approx(value, rel=1e-5, abs=1e-6)
        np.testing.assert_allclose(
            widened("logits", got.grad_logits),
            widened("logits", want),
            rtol=8 * unit,
            atol=2 * eps if dtype != "float16" else 6e-8,
        )
        assert out is None or got.grad_logits is x


def test_temperatures_far_from_1(walker):
    """From 2^-64 on downwards the scale leaves them to themselves."""
    x, tokens = rows(70, 6, "float64")
    for temperature in (1e-3, 1e-200, 1e15, 1e19, 1e20, 1e25, 1e200):
        got = token_log_probs(x, tokens, temperature=temperature, entropy=True, backend=walker)
        logp, lse, entropy, _ = truth(x.astype(np.longdouble) / np.longdouble(temperature), tokens)
        for g, w in zip(got, (logp, lse, entropy), strict=False):
            np.testing.assert_allclose(g, w.astype(np.float64), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [33, 50, 130, 550])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_no_number_at_every_place(walker, dtype, columns, bad):
    """Row k has it in column k: what is left over after whole steps is read with what lies before it."""
    x, tokens = rows(columns, columns, dtype, lambda x: np.fill_diagonal(x, bad))
    tokens = (np.arange(columns) + 1 + tokens % (columns - 1)) % columns  # another one
    got, want = (token_log_probs(x, tokens, **ALL, backend=b) for b in (walker, "numpy"))
    eps, unit = EPS.get(dtype, 6e-8) * (4 if columns > 512 else 1), UNIT.get(dtype, 6e-8)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=8 * eps, atol=16 * eps)
    g, w = (widened("logits", gradient(x, tokens, ups(columns, dtype), b)) for b in (walker, "numpy"))
    np.testing.assert_allclose(g, w, rtol=8 * unit, atol=64 * eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [33, 50, 64, 130, 511, 550])
def test_a_gradient_in_place_has_the_same_bits(walker, dtype, columns):
    x, tokens = rows(140, columns, dtype)
    up = ups(140, dtype)
    for one in (np.concatenate([up[:1], np.zeros_like(up[1:])]), up):
        want, here = gradient(x, tokens, one, walker), x.copy()
        assert gradient(here, tokens, one, walker, out=here) is here
        same([here], [want])
