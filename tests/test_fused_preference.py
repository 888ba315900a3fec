"""From logits to a preference loss and back: what the separate calls give, in less memory."""

import tracemalloc

import numpy as np
import pytest

from fastalign import (
    dpo_loss_from_logits,
    fused,
    preference_loss,
    sequence_log_probs,
    sequence_log_probs_grad,
    token_log_probs,
    token_log_probs_grad,
)

SIDES = ("chosen", "rejected")
LENGTHS = {"chosen": 7, "rejected": 4}


@pytest.fixture(autouse=True, params=["at once", "long way"])
def way(request, monkeypatch):
    if request.param == "long way":
        monkeypatch.setattr(fused, "FEW", -1)


def inputs(pairs=5, vocabulary=700, dtype=np.float32, lengths=LENGTHS):
    """Arguments by name; per pair some tokens are masked."""
    rng, real = np.random.default_rng(8), np.float64 if dtype == np.float64 else np.float32
    given = {}
    for side in SIDES:
        shape = pairs, lengths[side]
        given[f"{side}_logits"] = (rng.standard_normal((*shape, vocabulary)) * 3).astype(dtype)
        given[f"{side}_tokens"] = rng.integers(0, vocabulary, shape)
        given[f"{side}_mask"] = rng.random(shape) < 0.7
        given[f"ref_{side}_logps"] = (rng.standard_normal(pairs) - 8.0 * lengths[side]).astype(real)
    return given


def packed(given):
    """The same sequences, without what is masked."""
    flat = {name: x for name, x in given.items() if name.startswith("ref_")}
    for side in SIDES:
        kept = given[f"{side}_mask"]
        flat[f"{side}_logits"] = given[f"{side}_logits"][kept]
        flat[f"{side}_tokens"] = given[f"{side}_tokens"][kept]
        flat[f"{side}_cu_seqlens"] = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    return flat


def apart(given, temperature, reduction, backend, **options):
    """By the separate calls: the loss, the gradients by the logits, the sequences' log-probabilities."""
    common = {"temperature": temperature, "backend": backend}
    forward = {
        s: token_log_probs(given[f"{s}_logits"], given[f"{s}_tokens"], mask=given[f"{s}_mask"], **common) for s in SIDES
    }
    group = {"reduction": reduction, "backend": backend}
    logps = [sequence_log_probs(forward[s].logp, mask=given[f"{s}_mask"], **group) for s in SIDES]
    loss = preference_loss(*logps, *(given[f"ref_{s}_logps"] for s in SIDES), backend=backend, **options)
    grads = []
    for s, grad in zip(SIDES, (loss.grad_chosen, loss.grad_rejected), strict=True):
        each = sequence_log_probs_grad(grad, mask=given[f"{s}_mask"], **group)
        rows = given[f"{s}_logits"], given[f"{s}_tokens"], each
        grads.append(token_log_probs_grad(*rows, lse=forward[s].lse, mask=given[f"{s}_mask"], **common))
    return loss, grads, logps


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_it_is_the_separate_calls(backend, dtype, reduction):
    given, options = inputs(dtype=dtype), {"beta": 0.3, "label_smoothing": 0.1}
    loss, grads, logps = apart(given, 0.8, reduction, backend, **options)
    got = dpo_loss_from_logits(**given, temperature=0.8, reduction=reduction, backend=backend, **options)
    assert got.loss == loss.loss and got.metrics == loss.metrics
    for g, w in zip(got[1:7], (*grads, *logps, loss.chosen_rewards, loss.rejected_rewards), strict=True):
        assert g.dtype == w.dtype
        np.testing.assert_array_equal(g, w)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_packed_sequences_give_the_same_bits(backend, reduction):
    given = inputs()
    given["chosen_mask"][1] = False  # a sequence of nothing
    want = dpo_loss_from_logits(**given, reduction=reduction, backend=backend)
    got = dpo_loss_from_logits(**packed(given), reduction=reduction, backend=backend)
    assert got.loss == want.loss and got.metrics == want.metrics
    for side in SIDES:
        kept, name = given[f"{side}_mask"], f"grad_{side}_logits"
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name)[kept])
        assert not getattr(want, name)[~kept].any()
        np.testing.assert_array_equal(getattr(got, f"{side}_logps"), getattr(want, f"{side}_logps"))
    assert want.chosen_logps[1] == 0


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_gradient_is_the_derivative_of_the_loss(backend, reduction):
    given = inputs(3, 6, np.float64, {"chosen": 2, "rejected": 3})
    given["rejected_mask"][0] = [True, False, True]
    options = {"beta": 0.7, "label_smoothing": 0.2, "temperature": 1.4, "reduction": reduction, "backend": backend}
    result = dpo_loss_from_logits(**given, **options)
    assert not result.grad_rejected_logits[0, 1].any()
    h = 1e-6
    for side in SIDES:
        name, grad = f"{side}_logits", getattr(result, f"grad_{side}_logits")
        for place in np.ndindex(grad.shape):
            step = np.zeros_like(grad)
            step[place] = h
            above, below = (
                dpo_loss_from_logits(**given | {name: given[name] + sign * step}, **options).loss for sign in (1, -1)
            )
            assert grad[place] == pytest.approx((above - below) / (2 * h), rel=1e-5, abs=1e-8)


def test_without_a_reference_it_counts_as_zero(backend):
    given = inputs()
    zeros = {f"ref_{side}_logps": np.zeros(5, np.float32) for side in SIDES}
    nothing = {f"ref_{side}_logps": None for side in SIDES}
    want, got = (dpo_loss_from_logits(**given | ref, backend=backend) for ref in (zeros, nothing))
    assert got.loss == want.loss
    np.testing.assert_array_equal(got.grad_chosen_logits, want.grad_chosen_logits)


def test_ignored_tokens_are_masked_ones(backend):
    given = inputs()
    want = dpo_loss_from_logits(**given, backend=backend)
    for side in SIDES:
        given[f"{side}_tokens"][~given.pop(f"{side}_mask")] = -100
    got = dpo_loss_from_logits(**given, ignore_index=-100, backend=backend)
    assert got.loss == want.loss
    np.testing.assert_array_equal(got.grad_chosen_logits, want.grad_chosen_logits)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_in_place(backend, dtype):
    """Also of the two halves of one array, as a single forward pass of a model gives them."""
    given = inputs(dtype=dtype, lengths={"chosen": 4, "rejected": 4})
    want = dpo_loss_from_logits(**given, backend=backend)
    both = np.concatenate([given["chosen_logits"], given["rejected_logits"]])
    given |= {"chosen_logits": both[:5], "rejected_logits": both[5:]}
    pair = given["chosen_logits"], given["rejected_logits"]
    got = dpo_loss_from_logits(**given, out=pair, backend=backend)
    assert got.grad_chosen_logits is pair[0] and got.grad_rejected_logits is pair[1] and got.loss == want.loss
    np.testing.assert_array_equal(both, np.concatenate([want.grad_chosen_logits, want.grad_rejected_logits]))


def test_in_place_it_allocates_nothing_of_the_size_of_the_logits(compiled):
    given = inputs(16, 8000)
    pair = given["chosen_logits"], given["rejected_logits"]
    call = lambda: dpo_loss_from_logits(**given, out=pair, backend=compiled)  # noqa: E731
    call()
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < pair[1].nbytes / 50


def test_bits_do_not_depend_on_the_threads(compiled, threads, monkeypatch):
    monkeypatch.setattr("fastalign.threads.WORTH_SHARING", 2)
    given = inputs(9, 900)
    threads(1)
    want = dpo_loss_from_logits(**given, backend=compiled)
    threads(3)
    got = dpo_loss_from_logits(**given, backend=compiled)
    assert got.loss == want.loss and got.metrics == want.metrics
    for g, w in zip(got[1:7], want[1:7], strict=True):
        np.testing.assert_array_equal(g, w)


def test_no_pairs_and_no_tokens(backend):
    none = dpo_loss_from_logits(**inputs(0), backend=backend)
    assert none.loss == 0 and none.grad_chosen_logits.shape == (0, 7, 700) and none.chosen_logps.shape == (0,)
    assert all(np.isnan(v) for v in none.metrics.values())
    empty = inputs(2, 5, lengths={"chosen": 0, "rejected": 0})
    empty |= {f"ref_{side}_logps": None for side in SIDES}
    got = dpo_loss_from_logits(**empty, backend=backend)
    assert got.loss == pytest.approx(np.log(2)) and not got.chosen_logps.any()


def test_a_bad_row_is_its_pairs_own(backend):
    given = inputs(4, 50)
    given |= {"chosen_mask": None, "rejected_mask": None}
    given["chosen_logits"][2, 3, 7] = np.nan
    got = dpo_loss_from_logits(**given, backend=backend)
    good = np.arange(4) != 2
    assert np.isnan(got.loss) and np.isnan(got.chosen_logps[2]) and np.isfinite(got.rejected_logps).all()
    for grad in (got.grad_chosen_logits, got.grad_rejected_logits):
        assert np.isnan(grad[2]).all() and np.isfinite(grad[good]).all()


def test_masked_rows_are_not_read(backend):
    given = inputs()
    want = dpo_loss_from_logits(**given, backend=backend)
    for side in SIDES:
        given[f"{side}_logits"][~given[f"{side}_mask"]] = np.nan
        given[f"{side}_tokens"][~given[f"{side}_mask"]] = 10**9
    got = dpo_loss_from_logits(**given, backend=backend)
    assert got.loss == want.loss
    np.testing.assert_array_equal(got.grad_chosen_logits, want.grad_chosen_logits)


OUT = np.zeros((5, 7, 9), np.float32)


@pytest.mark.parametrize(
    "change, error, text",
    [
        ({"chosen_logits": OUT[0]}, ValueError, r"chosen_logits has shape \(7, 9\); .*packed ones need chosen_cu_seql"),
        ({"rejected_cu_seqlens": [0, 4]}, ValueError, r"rejected_logits has shape \(5, 4, 9\); expected \(tokens, V\)"),
        ({"chosen_tokens": np.zeros((5, 6), int)}, ValueError, r"chosen_tokens has .* shape of chosen_logits without"),
        (
            {"rejected_tokens": np.full((5, 4), 9)},
            IndexError,
            r"rejected_tokens\[0, \d\] is 9; expected 0 <= tok",
        ),
        ({"rejected_mask": np.full((5, 4), 2)}, ValueError, r"rejected_mask\[0, 0\] is 2; expected 0 or 1"),
        ({"rejected_logits": np.zeros((5, 4, 9))}, TypeError, "rejected_logits has dtype float64; expected float32"),
        ({"rejected_logits": None}, TypeError, "rejected_logits is None"),
        ({"rejected_logits": np.array(1, np.float32)}, ValueError, r"rejected_logits has shape \(\); expected \(batch"),
        ({"ref_chosen_logps": None}, TypeError, "only one of ref_chosen_logps and ref_rejected_logps is given"),
        ({"ref_rejected_logps": np.zeros(4)}, ValueError, r"ref_rejected_logps has shape \(4,\); expected \(5,\), one"),
        ({"ref_chosen_logps": np.zeros(5, complex)}, TypeError, "ref_chosen_logps has dtype complex128"),
        ({"loss_type": "ppo"}, ValueError, "loss_type is 'ppo'"),
        ({"beta": 0}, ValueError, "beta is 0.0"),
        ({"label_smoothing": 1.5}, ValueError, "label_smoothing is 1.5"),
        ({"reduction": "max"}, ValueError, "reduction is 'max'"),
        ({"temperature": 0}, ValueError, "temperature is 0.0"),
        ({"out": OUT}, TypeError, "out is a ndarray; expected a tuple of 2 arrays"),
        ({"out": (OUT, OUT)}, ValueError, r"out\[1\] has shape \(5, 7, 9\); expected \(5, 4, 9\)"),
        ({"out": (OUT, OUT.reshape(-1)[:180].reshape(5, 4, 9))}, ValueError, r"out\[0\] shares memory with out\[1\]"),
    ],
)
def test_bad_input(change, error, text):
    given = inputs(5, 9) | change
    with pytest.raises(error, match=text):
        dpo_loss_from_logits(**given)


def test_the_sides_hold_as_many_sequences():
    given, fewer = inputs(5, 9), inputs(4, 9)
    given |= {name: x for name, x in fewer.items() if name.startswith("rejected_")}
    with pytest.raises(ValueError, match="rejected_logits holds 4 sequences; expected 5"):
        dpo_loss_from_logits(**given)


def test_a_gradient_is_not_written_over_what_is_still_to_be_read():
    given = inputs(5, 9, lengths={"chosen": 4, "rejected": 4})
    fresh = np.zeros_like(given["chosen_logits"])
    with pytest.raises(ValueError, match=r"out\[0\] shares memory with an input"):
        dpo_loss_from_logits(**given, out=(given["rejected_logits"], fresh))
    same = given | {"rejected_logits": given["chosen_logits"]}
    with pytest.raises(ValueError, match=r"out\[1\] shares memory with an input"):
        dpo_loss_from_logits(**same, out=(fresh, given["chosen_logits"]))


def test_a_refused_call_writes_nothing(backend):
    given = inputs(5, 9)
    given["rejected_tokens"][4, 3], given["rejected_mask"] = 9, None
    pair = np.full((5, 7, 9), 7, np.float32), np.full((5, 4, 9), 7, np.float32)
    with pytest.raises(IndexError, match=r"rejected_tokens\[4, 3\]"):
        dpo_loss_from_logits(**given, out=pair, backend=backend)
    assert all((x == 7).all() for x in pair)


@pytest.mark.parametrize("way", ["at once"], indirect=True)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("change", ["nothing", "in place", "out", "ignore_index", "no mask", "int32"])
def test_few_logits_go_by_whole_calls_with_the_same_bits(compiled, monkeypatch, dtype, reduction, change):
    given = inputs(dtype=dtype) | {"reduction": reduction, "temperature": 0.7, "beta": 0.2, "backend": compiled}
    if change == "no mask":
        given |= {"chosen_mask": None, "rejected_mask": None}
    if change == "ignore_index":
        given |= {"ignore_index": int(given["rejected_tokens"][0, 0])}
    if change == "int32":
        given |= {name: given[name].astype(np.int32) for name in ("chosen_tokens", "rejected_tokens")}
    with monkeypatch.context() as patch:
        patch.setattr(fused, "FEW", -1)
        want = dpo_loss_from_logits(**given)
    logits = tuple(given[f"{side}_logits"] for side in SIDES)
    out = {"in place": logits, "out": tuple(np.full_like(x, 7) for x in logits)}.get(change)
    monkeypatch.setattr(fused, "_Side", lambda *args: pytest.fail("the long way"))
    got = dpo_loss_from_logits(**given, out=out)
    np.testing.assert_equal(got._asdict(), want._asdict())
    assert [x.dtype for x in got[1:7]] == [x.dtype for x in want[1:7]]
    assert out is None or (got.grad_chosen_logits is out[0] and got.grad_rejected_logits is out[1])


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.bool_])
def test_gradients_of_whole_numbers(backend, dtype):
    given = inputs(vocabulary=9, dtype=np.float64)
    for side in SIDES:
        given[f"{side}_logits"] = given[f"{side}_logits"] > 0
    want = dpo_loss_from_logits(
        **given | {f"{s}_logits": given[f"{s}_logits"].astype(float) for s in SIDES}, backend=backend
    )
    given |= {f"{s}_logits": given[f"{s}_logits"].astype(dtype) for s in SIDES}
    out = tuple(np.empty(given[f"{s}_logits"].shape) for s in SIDES)
    for got in (
        dpo_loss_from_logits(**given, backend=backend),
        dpo_loss_from_logits(**given, out=out, backend=backend),
    ):
        assert got.loss == want.loss
        np.testing.assert_array_equal(got.grad_chosen_logits, want.grad_chosen_logits)
        np.testing.assert_array_equal(got.grad_rejected_logits, want.grad_rejected_logits)
    assert got.grad_chosen_logits is out[0] and got.grad_rejected_logits is out[1]
