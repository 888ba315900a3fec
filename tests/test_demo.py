"""The main job: honest gradients, parts that learn, results that repeat."""

from dataclasses import replace

import numpy as np
import pytest
from trees import ROOT

from fastalign import demo
from fastalign.demo import kernels_table, plot, ppo_part, reward_part, synthetic
from fastalign.demo.features import COLUMNS, hash_texts
from fastalign.demo.learning import forward
from fastalign.demo.model import LanguageModel
from fastalign.demo.optimiser import Adam
from fastalign.demo.settings import QUICK
from fastalign.demo.statistics import wilson_interval
from fastalign.demo.teaching import teach
from fastalign.demo.tokens import END, Answers, Vocabulary, Widths, encode_answers, encode_prompts, widths_of

HH = ROOT.parent / "shared" / "data" / "hh-rlhf-harmless-base-test.jsonl.gz"
TINY = replace(
    QUICK, synthetic_pairs=600, reference_steps=150, dpo_steps=60, ppo_iterations=25, exam_pairs=100, exam_prompts=64,
    exams=2, kernel_rows=4, kernel_elements=1 << 12, kernel_steps=2_560, kernel_seconds=0.0,
)  # fmt: skip


# ---- the model -------------------------------------------------------------------------------------------------------


def small_model():
    rng = np.random.default_rng(3)
    model = LanguageModel(inputs=9, outputs=6, width=4, hidden=5, rng=rng, dtype=np.float64)
    model.parameters["bias"] += 0.1 * rng.standard_normal(15)
    prompts = np.array([[6, 1, 7], [2, 3, 7]])
    tokens = np.array([[1, 2, 0, 6], [5, 0, 6, 6]])
    return model, Answers(prompts, tokens, (tokens < 6).astype(np.uint8))


def test_every_gradient_of_the_language_model():
    """From the parameters through logits, token log-probabilities and their kernels, and back."""
    model, answers = small_model()
    weights = np.random.default_rng(4).standard_normal(answers.tokens.shape)

    def value():
        return float((forward(model, answers).tokens.logp * weights).sum())

    grads = forward(model, answers).backward(weights)
    h = 1e-6
    for name, x in model.parameters.items():
        assert grads[name].shape == x.shape
        for place in np.ndindex(x.shape):
            before = x[place]
            x[place] = before + h
            above = value()
            x[place] = before - h
            slope = (above - value()) / (2 * h)
            x[place] = before
            assert grads[name][place] == pytest.approx(slope, rel=1e-5, abs=1e-8), (name, place)


def test_the_model_is_causal():
    """A later token changes no earlier prediction."""
    model, answers = small_model()
    before = model.forward(answers)[0]
    answers.tokens[:, 2] = 3
    after = model.forward(answers)[0]
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    assert (after[:, 3] != before[:, 3]).any()


def test_samples_follow_the_model():
    """Of many samples of one prompt, first tokens occur as often as the logits say."""
    model, answers = small_model()
    prompts = np.repeat(answers.prompts[:1], 20_000, axis=0)
    found = model.sample(prompts, 3, np.random.default_rng(0))
    logits = model.forward(Answers(prompts[:1], np.zeros((1, 1), np.int64), np.ones((1, 1), np.uint8)))[0][0, 0]
    p = np.exp(logits - np.logaddexp.reduce(logits))
    counts = np.bincount(found.tokens[:, 0], minlength=6)
    assert (np.abs(counts - 20_000 * p) < 4 * np.sqrt(20_000 * p)).all()
    ended = found.tokens[:, 0] == END
    assert not found.mask[ended, 1:].any() and found.mask[~ended, 1].all()


def test_adam_finds_a_minimum():
    x = {"x": np.array([5.0, -3.0])}
    optimiser = Adam(x, 0.1, largest_norm=1.0)
    for _ in range(300):
        optimiser.step({"x": 2 * (x["x"] - [1.0, 2.0])})
    np.testing.assert_allclose(x["x"], [1.0, 2.0], atol=1e-3)


# ---- text ------------------------------------------------------------------------------------------------------------


def test_tokens_and_widths():
    words = Vocabulary(["the cat sat", "the dog"], most=3)
    assert words.words == ["", "the", "cat", "dog"] and words.size == 4
    prompts = encode_prompts(["the cat", "a very long prompt the dog"], words, 4)
    assert prompts.tolist() == [[4, 1, 2, 5], [6, 1, 3, 5]]
    answers = encode_answers(prompts, ["cat cat", "sat dog the cat dog"], words, 4)
    assert answers.tokens.tolist() == [[2, 2, END, 4], [6, 3, 1, 2]]
    assert answers.mask.tolist() == [[1, 1, 1, 0], [0, 1, 1, 1]]
    assert words.decode(np.array([1, 2, END, 3])) == "the cat"
    pairs = synthetic.generate_pairs(20, np.random.default_rng(0))
    assert widths_of(pairs, Widths(5, 6)) == Widths(5, 6)


def test_features_are_the_same_on_every_machine():
    hashed = hash_texts(["It is not hard.", "", "hard hard"])
    rows = hashed.dense(np.array([2, 0, 1]))
    assert rows.shape == (3, COLUMNS) and rows[1, 497] == pytest.approx(-1 / 3) and not rows[2].any()
    np.testing.assert_allclose(np.square(rows).sum(axis=1), [1, 1, 0], rtol=1e-6)


def test_wilson():
    assert wilson_interval(0, 10)[0] == 0 and wilson_interval(10, 10)[1] == pytest.approx(1)
    low, high = wilson_interval(612, 1000)
    assert low == pytest.approx(0.5814, abs=1e-4) and high == pytest.approx(0.6418, abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)


# ---- the parts -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outcome():
    pairs = synthetic.generate_pairs(TINY.synthetic_pairs, np.random.default_rng(0))
    return teach(pairs, TINY, 0, worth=synthetic.worth)


def test_generated_preferences_are_drawn_as_told():
    pairs = synthetic.generate_pairs(4000, np.random.default_rng(1))
    better = np.mean([synthetic.worth(p.chosen) > synthetic.worth(p.rejected) for p in pairs])
    ties = np.mean([synthetic.worth(p.chosen) == synthetic.worth(p.rejected) for p in pairs])
    assert better + ties / 2 == pytest.approx(synthetic.best_accuracy(pairs), abs=0.02)
    assert synthetic.worth("gladly , you fix it ; it is not hard") == pytest.approx(1.2 + 0.8)


def test_each_pair_is_judged_once_by_a_model_that_did_not_see_it(outcome):
    result = outcome.reward
    assert result.pairs == TINY.synthetic_pairs and len(result.folds) == result.pairs
    assert set(result.folds.tolist()) == set(range(reward_part.FOLDS))
    sizes = np.bincount(result.folds)
    assert sizes.max() - sizes.min() <= 10
    pairs = synthetic.generate_pairs(TINY.synthetic_pairs, np.random.default_rng(0))
    by_prompt = {}
    for pair, fold in zip(pairs, result.folds.tolist(), strict=True):
        assert by_prompt.setdefault(pair.prompt, fold) == fold, "a prompt on both sides of a fold"


def test_the_reward_model_learns(outcome):
    low, high = outcome.reward.interval
    assert 0.5 < low < outcome.reward.accuracy < high
    assert outcome.reward.first.losses[-1] < outcome.reward.first.losses[0]


def test_the_reference_learns(outcome):
    assert outcome.reference.held_loss < outcome.reference.losses[0] - 1.0


def test_dpo_learns(outcome):
    after, curves = outcome.dpo.marks[-1][1], outcome.dpo.curves
    assert curves["loss"][0] == pytest.approx(np.log(2), abs=1e-6) and curves["margin"][0] == pytest.approx(0, abs=1e-6)
    assert after.accuracy > 0.55 and after.margin > 0.05
    assert np.mean(curves["loss"][-10:]) < 0.68


def test_ppo_earns_more_and_stays_near(outcome):
    curves, after = outcome.ppo.curves, outcome.ppo.marks[-1][1]
    assert after.reward > outcome.before.reward + 0.5 and np.mean(curves["reward"][-5:]) > curves["reward"][0] + 0.5
    assert 0.3 * TINY.kl_target < np.mean(curves["kl"][-5:]) < 3 * TINY.kl_target
    assert after.judged > outcome.before.judged + 0.3
    assert outcome.before.kl == 0 and outcome.ppo.answers_written == TINY.ppo_iterations * TINY.ppo_batch


def test_the_same_seed_gives_the_same_results(outcome):
    pairs = synthetic.generate_pairs(TINY.synthetic_pairs, np.random.default_rng(0))
    again = teach(pairs, TINY, 0, worth=synthetic.worth)
    assert again.ppo.curves["reward"] == outcome.ppo.curves["reward"]
    assert again.dpo.marks == outcome.dpo.marks and again.reward.correct == outcome.reward.correct


def test_whitened_advantages():
    rng = np.random.default_rng(0)
    x, mask = rng.standard_normal((4, 6)).astype(np.float32) * 3 + 5, rng.integers(0, 2, (4, 6)).astype(np.uint8)
    white = ppo_part.whiten(x, mask)
    kept = white[mask == 1]
    assert kept.mean() == pytest.approx(0, abs=1e-6) and kept.std() == pytest.approx(1, abs=1e-5)
    assert not white[mask == 0].any() and white.dtype == np.float32


# ---- the whole -------------------------------------------------------------------------------------------------------


def test_the_demo_prints_every_part(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(demo, "QUICK", TINY)
    assert demo.run(quick=True, plot=tmp_path / "out.png") == 0
    told = capsys.readouterr()
    for heading in ("1. Reward model", "2. Direct preference", "3. Proximal policy", "4. RLHF and DPO", "5. Kernels"):
        assert heading in told.out
    for column in ("reward", "judged", "KL", "accuracy", "seconds", "models", "steps"):
        assert column in told.out
    assert "RLHF (PPO)" in told.out and "token_log_probs" in told.out
    assert "PPO" in told.err  # progress
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_of_kernels_checks_before_it_times(monkeypatch):
    kernel = kernels_table.Kernel("kl_estimate-k1", (5,), "float64")
    arguments = kernel.operation.make(np.random.default_rng(0), kernel.shape, kernel.dtype)
    kernels_table.check_agreement(kernel, arguments, ["numpy"])
    monkeypatch.setattr(kernels_table, "truth", lambda operation, a: (np.ones(5), np.ones(5)))
    with pytest.raises(RuntimeError, match="kl_estimate-k1 on numpy: result 0 at "):
        kernels_table.check_agreement(kernel, arguments, ["numpy"])


@pytest.mark.parametrize("name, text", [("x.xyz", "unknown kind '.xyz'"), ("no/x.png", "cannot be written there")])
def test_a_picture_that_cannot_be_drawn_is_refused_first(tmp_path, name, text):
    with pytest.raises(demo.DataError, match=text):
        plot.check(tmp_path / name)


def test_a_kind_that_needs_what_is_not_here_is_refused_first(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # where no TeX is
    with pytest.raises(demo.DataError, match=r"^--plot .*x.pgf: a .pgf cannot be drawn here: .*xelatex"):
        plot.check(tmp_path / "x.pgf")


def test_a_negative_seed_is_refused():
    with pytest.raises(demo.DataError, match="--seed is -1"):
        demo.run(seed=-1)


@pytest.mark.skipif(not HH.exists(), reason="the HH-RLHF pairs are not beside the repository")
def test_real_preferences_are_learned():
    """Five folds over all pairs: the 95 % interval lies above one half, and above what length alone tells."""
    from fastalign.demo.data import read_pairs

    found = read_pairs(HH)
    assert len(found.pairs) == 2303 and len(found.skipped) == 9
    assert set(found.skipped.values()) == {"blank response", "prompts differ"}
    result = reward_part.run(found.pairs, QUICK, np.random.default_rng(0))
    low, _ = result.interval
    assert low > 0.5
    assert result.accuracy == pytest.approx(0.61, abs=0.03)
    assert result.shorter == pytest.approx(0.55, abs=0.005)
