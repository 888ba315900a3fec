"""The curriculum's names: its results where it is right, and the difference where it is not."""

import math
import pickle

import numpy as np
import pytest
import seed
from conftest import need

import fastalign
from fastalign import (
    DPOTrainer,
    PPOBuffer,
    PreferencePair,
    RewardModel,
    compute_log_probs,
    create_preference_dataset,
    gae,
    kl_divergence,
    kl_penalty_reward,
    ppo_loss,
    reward_model_loss,
)

RNG = np.random.default_rng(11)


def test_every_public_name_exists():
    assert sorted(fastalign.__all__) == sorted(set(fastalign.__all__))
    for name in fastalign.__all__:
        assert getattr(fastalign, name) is not None
    assert set(dir(fastalign)) >= set(fastalign.__all__)


# ---- where the curriculum is right -----------------------------------------------------------------------------------


def test_compute_log_probs(backend):
    logits, tokens = RNG.standard_normal((3, 4, 9)), RNG.integers(0, 9, (3, 4))
    got = compute_log_probs(logits, tokens, backend=backend)
    np.testing.assert_allclose(got, seed.seed_compute_log_probs(logits, tokens), rtol=1e-13)
    mask = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
    got = compute_log_probs(logits, tokens, mask=mask, backend=backend)
    each = seed.seed_token_log_probs(logits.reshape(-1, 9), tokens.reshape(-1)).reshape(3, 4)
    np.testing.assert_allclose(got, (each * mask).sum(axis=1), rtol=1e-13)


def test_dpo(backend):
    logps = RNG.standard_normal((4, 50)) * 3
    for smoothing in (0.0, 0.1):
        trainer = DPOTrainer(0.3, smoothing, backend=backend)
        loss, metrics, *grads = trainer.compute_loss(*logps)
        want_loss, want_metrics, *want_grads = seed.seed_dpo_loss(*logps, beta=0.3, label_smoothing=smoothing)
        assert loss == metrics["loss"] == pytest.approx(want_loss, rel=1e-8)
        assert metrics == pytest.approx(want_metrics, rel=1e-8)
        np.testing.assert_allclose(grads, want_grads, rtol=1e-8, atol=1e-15)


def test_reward_model_loss(backend):
    rewards = RNG.standard_normal((2, 20))
    got = reward_model_loss(*rewards, backend=backend)
    want = seed.seed_reward_model_loss(*rewards)
    assert got[0] == pytest.approx(want[0], rel=1e-8)
    np.testing.assert_allclose(got[1:], want[1:], rtol=1e-12)
    columns = reward_model_loss(*rewards[..., None], backend=backend)
    assert columns[0] == got[0] and columns[1].shape == (20, 1)


def test_ppo_inside_the_clip_range(backend):
    old, advantages = RNG.standard_normal((2, 60))
    new = old + RNG.uniform(-0.15, 0.15, 60)
    loss, grad = ppo_loss(new, old, advantages, backend=backend)
    want_loss, want_grad = seed.seed_ppo_loss(new, old, advantages)
    assert loss == pytest.approx(want_loss, rel=1e-13)
    np.testing.assert_allclose(grad, want_grad, rtol=1e-13)


def test_kl(backend):
    p, q = np.log(RNG.dirichlet(np.ones(8), 2))
    assert kl_divergence(p, q, backend=backend) == pytest.approx(seed.seed_kl_divergence(p, q), rel=1e-13)
    got = kl_penalty_reward(p, q, 0.2, backend=backend)
    np.testing.assert_allclose(got, seed.seed_kl_penalty_reward(p, q, 0.2), rtol=1e-13)


def test_buffer(backend):
    buffer = PPOBuffer(0.97, 0.9, backend=backend)
    rewards, values, log_probs = RNG.standard_normal((3, 30))
    done = RNG.random(30) < 0.2
    for k in range(30):
        buffer.add([k], k, rewards[k], values[k], log_probs[k], bool(done[k]))
    assert len(buffer) == 30 and buffer.states[3] == [3] and buffer.dones == done.tolist()
    got = buffer.compute_advantages(0.7)
    want = seed.seed_gae(rewards, values, done, 0.7, 0.97, 0.9)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
    buffer.clear()
    assert len(buffer) == 0 and not buffer.log_probs
    advantages, returns = buffer.compute_advantages()
    assert advantages.shape == returns.shape == (0,)


@pytest.mark.parametrize("name", ["reward", "value", "done"])
@pytest.mark.parametrize("wrong", [None, "1.5", 1j, [1.0], np.datetime64("2020"), 2**70])
def test_a_step_of_the_buffer_is_of_numbers(name, wrong):
    """None made NaN of all before it, text and dates were numbers, and what NumPy refused did not say where."""
    buffer, step = PPOBuffer(), {"state": None, "action": 0, "reward": 1.0, "value": 0.5, "log_prob": -1.0}
    buffer.add(**step)
    buffer.add(**step | {name: wrong})
    with pytest.raises(TypeError, match=f"^{name}s (has dtype|cannot be read as an array)"):
        buffer.compute_advantages()


@pytest.mark.parametrize("wrong", [None, "1.5", np.datetime64("2020"), 2**70])
def test_the_last_value_of_the_buffer_is_a_number(wrong):
    buffer = PPOBuffer()
    buffer.add(None, 0, 1.0, 0.5, -1.0)
    with pytest.raises(TypeError, match="^last_value "):
        buffer.compute_advantages(wrong)
    with pytest.raises(ValueError, match=r"^last_value has shape \(2,\); expected one number$"):
        buffer.compute_advantages(np.ones(2))
    buffer.rewards.append(1.0)
    with pytest.raises(ValueError, match=r"^values has shape \(1,\); expected one number per step$"):
        buffer.compute_advantages()


def test_a_step_of_the_buffer_may_be_an_array_of_one():
    buffer, plain = PPOBuffer(), PPOBuffer()
    for k in range(3):
        buffer.add(None, 0, np.ones(1, np.float32), np.full(1, k), -1.0, np.array([k == 1]))
        plain.add(None, 0, 1, k, -1.0, k == 1)
    np.testing.assert_array_equal(buffer.compute_advantages(np.ones(1)), plain.compute_advantages(1))


def test_steps_of_the_buffer_are_the_numbers_that_numpy_makes_of_them(backend):
    """Whatever the types, alone and together: the commonest take a way of their own."""
    rng = np.random.default_rng(4)
    kinds = (float, np.float64, np.float32, np.float16, int, np.int64, bool, np.bool_, lambda x: np.array([x]))
    for k in range(200):
        some = rng.choice(len(kinds) - (k % 4 > 0), rng.integers(1, 4))
        buffer, size = PPOBuffer(backend=backend), rng.integers(1, 9)
        for _ in range(size):
            reward, value = (kinds[rng.choice(some)](x) for x in rng.standard_normal(2) * 1e3)
            buffer.add(None, 0, reward, value, -1.0, kinds[rng.choice(some)](rng.random() < 0.3))
        if k % 4 == 0 and len({np.shape(x) for x in (*buffer.rewards, *buffer.values, *buffer.dones)}) > 1:
            continue  # which numpy refuses
        named = (np.asarray(x).astype(float).reshape(size) for x in (buffer.rewards, buffer.values, buffer.dones))
        rewards, values, dones = named
        want = gae(rewards, values, dones != 0, last_values=kinds[k % 3](0.1), backend=backend)
        got = buffer.compute_advantages(kinds[k % 3](0.1))
        np.testing.assert_array_equal(got, want)


def test_lists_that_are_taken_at_once():
    """By the extension: as NumPy makes them, or not at all."""
    from fastalign.backends import cython_cpu

    need("cython", cython_cpu.why_not())
    ready = cython_cpu.core().numbers_ready
    odd = [math.nan, math.inf, -0.0, 5e-324, np.float32(0.1), 2**53 + 1, -(2**63), 2**63 - 1, True, np.False_]
    for x in (odd, odd[:5], odd[5:8], odd[8:], []):
        got, want = ready(x, len(x)), np.asarray(x).astype(float)
        assert got.dtype == want.dtype and got.tobytes() == want.tobytes()
    own = type("F", (float,), {})()
    for x in (None, "1", 1j, 2**63, -(2**63) - 1, np.float16(1), np.int64(1), [1.0], np.ones(1), own):
        assert ready([1.0, x], 2) is None
    for x in (odd[:2], odd[:4], tuple(odd[:3]), np.ones(3), type("L", (list,), {})(odd[:3]), None):
        assert ready(x, 3) is None


def test_pairs():
    pairs = create_preference_dataset(["p", "q"], ["a", "b"], ["c", "d"])
    assert pairs == [PreferencePair("p", "a", "c"), PreferencePair("q", "b", "d")]
    assert create_preference_dataset([], [], []) == []


# ---- where it is not -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio, advantage", [(0.5, 1.0), (1.5, -1.0)])
def test_ppo_outside_the_clip_range(backend, ratio, advantage):
    """The unclipped branch is the minimum there, so the loss has a slope; the curriculum's is 0."""
    new, old, a = np.array([math.log(ratio)]), np.zeros(1), np.array([advantage])
    loss, grad = ppo_loss(new, old, a, backend=backend)
    h = 1e-6
    slope = (seed.seed_ppo_loss(new + h, old, a)[0] - seed.seed_ppo_loss(new - h, old, a)[0]) / (2 * h)
    assert grad[0] == pytest.approx(slope, rel=1e-8) and grad[0] == pytest.approx(-ratio * advantage)
    assert loss == pytest.approx(seed.seed_ppo_loss(new, old, a)[0])
    assert seed.seed_ppo_loss(new, old, a)[1][0] == 0


@pytest.mark.parametrize("z", [-100.0, -700.0, -1e6])
def test_dpo_does_not_saturate(backend, z):
    """log(σ + 1e-10) stops at 23.03; the loss of a hopeless pair is −z, with the slope that the gradient says."""
    zero = np.zeros(1)
    loss, _, grad, _ = DPOTrainer(beta=1.0, backend=backend).compute_loss(zero + z, zero, zero, zero)
    assert loss == -z and grad[0] == -1
    assert seed.seed_dpo_loss(zero + z, zero, zero, zero, beta=1.0)[0] == pytest.approx(23.03, abs=0.01)


def test_reward_loss_does_not_saturate(backend):
    loss, grad, _ = reward_model_loss([-50.0], [0.0], backend=backend)
    assert loss == pytest.approx(50.0, rel=1e-15) and grad[0] == pytest.approx(-1)
    assert seed.seed_reward_model_loss(np.array([-50.0]), np.zeros(1))[0] == pytest.approx(23.03, abs=0.01)


def test_a_confident_pair_keeps_its_loss(backend):
    """−log(σ(40) + 1e-10) rounds below zero; the loss is e⁻⁴⁰."""
    assert reward_model_loss([40.0], [0.0], backend=backend)[0] == pytest.approx(math.exp(-40), rel=1e-12)
    assert seed.seed_reward_model_loss(np.array([40.0]), np.zeros(1))[0] < 0


def test_nothing_is_dropped_from_unequal_lists():
    assert len(list(zip("abc", "ab", "a", strict=False))) == 1  # what the curriculum keeps
    with pytest.raises(ValueError, match="prompts 3, chosen_responses 2, rejected_responses 1"):
        create_preference_dataset(list("abc"), list("ab"), list("a"))


@pytest.mark.parametrize("wrong", ["ab", b"ab", {"a", "b"}, iter("ab"), None], ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("place", range(3))
def test_pairs_are_of_lists(wrong, place):
    """A text gave pairs of its characters, a set pairs in an order of its own."""
    lists = [["a", "b"]] * 3
    lists[place] = wrong
    name = ("prompts", "chosen_responses", "rejected_responses")[place]
    with pytest.raises(TypeError, match=f"^{name} is a {type(wrong).__name__}; expected a list of texts$"):
        create_preference_dataset(*lists)


def test_an_impossible_outcome_adds_nothing(backend):
    p, q = np.array([-np.inf, 0.0]), np.array([-np.inf, 0.0])
    assert kl_divergence(p, q, backend=backend) == 0
    np.testing.assert_array_equal(kl_penalty_reward(p, q, backend=backend), 0)
    with np.errstate(invalid="ignore"):
        assert math.isnan(seed.seed_kl_divergence(p, q))


# ---- objects ---------------------------------------------------------------------------------------------------------


def test_reward_model_gradients_are_derivatives():
    model = RewardModel(5, 7, rng=3)
    model.b1 += 0.1
    x, weights = RNG.standard_normal((4, 5)), RNG.standard_normal((4, 1))

    def value():
        return float((model.forward(x) * weights).sum())

    def slope(array, place, h=1e-6):
        before = array[place]
        array[place] = before + h
        above = value()
        array[place] = before - h
        below = value()
        array[place] = before
        return (above - below) / (2 * h)

    model.forward(x)
    grad_x = model.backward(weights)
    grads = dict(model.grads)
    for name in ("W1", "b1", "W2", "b2"):
        array = getattr(model, name)
        for place in np.ndindex(array.shape):
            assert grads[name][place] == pytest.approx(slope(array, place), rel=1e-6, abs=1e-8), (name, place)
    for place in np.ndindex(x.shape):
        assert grad_x[place] == pytest.approx(slope(x, place), rel=1e-6, abs=1e-8)


def test_reward_model_keeps_what_it_was_given():
    model = RewardModel(3, 4, rng=0)
    x = np.ones((2, 3))
    model.forward(x)
    want = model.backward(np.ones((2, 1))), dict(model.grads)
    model.forward(x)
    x[:] = 5
    got = model.backward(np.ones((2, 1)))
    np.testing.assert_array_equal(got, want[0])
    np.testing.assert_array_equal(model.grads["W1"], want[1]["W1"])


def test_reward_model_is_seeded_by_what_it_is_given():
    a, b = RewardModel(4, 3, rng=7), RewardModel(4, 3, rng=np.random.default_rng(7))
    np.testing.assert_array_equal(a.W1, b.W1)
    assert (RewardModel(4, 3).W1 != RewardModel(4, 3).W1).any()
    assert a.forward([[1, 2, 3, 4]]).dtype == np.float64
    assert RewardModel(4, 3, dtype=np.float32).forward(np.ones((2, 4))).dtype == np.float32
    wide = RewardModel(1000, 500, rng=0)
    assert wide.W1.std() == pytest.approx(math.sqrt(2 / 1500), rel=0.02)
    assert wide.W2.std() == pytest.approx(math.sqrt(2 / 500), rel=0.1)


def test_objects_pickle(backend):
    trainer = pickle.loads(pickle.dumps(DPOTrainer(0.2, 0.1, backend=backend)))
    assert vars(trainer) == vars(DPOTrainer(0.2, 0.1, backend=backend))
    assert repr(trainer).startswith("DPOTrainer(beta=0.2, label_smoothing=0.1, loss_type='sigmoid'")
    model = RewardModel(4, 3, rng=1)
    x = np.ones((2, 4))
    model.forward(x)
    model.backward(np.ones((2, 1)))
    twin = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(twin.forward(x), model.forward(x))
    np.testing.assert_array_equal(twin.grads["W1"], model.grads["W1"])
    buffer = PPOBuffer()
    buffer.add(0, 0, 1.0, 0.5, -1.0)
    assert len(pickle.loads(pickle.dumps(buffer))) == 1


def test_controller():
    controller = fastalign.AdaptiveKLController(0.1, target=2.0, horizon=1000)
    assert controller.update(2.0, 100) == 0.1
    assert controller.update(20.0, 100) == pytest.approx(0.1 * 1.02)
    assert controller.update(0.0, 100) == pytest.approx(0.1 * 1.02 * 0.98)
    assert controller.update(0.0, 10_000) == 0
    assert "target=2.0" in repr(controller)
    controller = fastalign.AdaptiveKLController(0.0, 1e-300, 1e-300)
    with pytest.raises(ValueError, match=r"n_steps is 1e\+300; expected fewer: the coefficient would be nan"):
        controller.update(1e300, 1e300)
    assert controller.value == 0.0
