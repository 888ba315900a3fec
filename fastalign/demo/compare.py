"""Part 4: what the two ways cost, and what they reach, on the same held-out prompts."""

import numpy as np

from .course import Course
from .exam import Marks
from .report import table
from .statistics import wilson_interval
from .teaching import Outcome

HEADER = ["", "reward", "judged", "KL", "accuracy", "seconds", "models", "steps", "answers written"]


def comparison(outcome: Outcome) -> list[str]:
    """The table, what its columns mean, and the two policies at the same distance from the reference."""
    held = len(outcome.corpus.held_pairs)
    first = outcome.reward.first
    rlhf, dpo = outcome.ppo, outcome.dpo
    rows = [
        ["reference", *_marks(outcome.before), "", "", "", ""],
        ["RLHF (PPO)", *_marks(rlhf.marks[-1][1]), *_cost(rlhf, 3, first.seconds, first.updates)],
        ["DPO", *_marks(dpo.marks[-1][1]), *_cost(dpo, 2, 0.0, 0)],
    ]
    low, high = wilson_interval(held // 2, held)
    return [
        *table(HEADER, rows),
        "",
        "reward: by the reward model that PPO climbed; judged: by what neither of them saw; both in standard",
        "deviations of the reference's answers, whose mean is 0.  KL: nats per answer.  accuracy: share of held-out",
        f"pairs whose chosen answer gained more; of {held} pairs, chance gives {low:.2f} to {high:.2f}.",
        "seconds, steps: of training; RLHF's include its reward model.  models: policy and reference; for RLHF also",
        "the reward model.",
        *_at_equal_divergence(outcome),
    ]


def _marks(marks: Marks) -> list[str]:
    # The reference does not differ from itself: it prefers nothing.
    accuracy = f"{marks.accuracy:.3f}" if marks.kl else "-"
    return [f"{marks.reward:.2f}", f"{marks.judged:.2f}", f"{marks.kl:.2f}", accuracy]


def _cost(course: Course, models: int, seconds: float, updates: int) -> list[str]:
    return [f"{course.seconds + seconds:.1f}", str(models), str(course.updates + updates), str(course.answers_written)]


def _at_equal_divergence(outcome: Outcome) -> list[str]:
    """Reward bought per divergence: without it, whoever strays further looks better."""
    goal = outcome.ppo.marks[-1][1]
    path = sorted([outcome.before, *(marks for _, marks in outcome.dpo.marks)], key=lambda marks: marks.kl)
    if not path[0].kl <= goal.kl <= path[-1].kl:
        return []
    kls = [marks.kl for marks in path]
    reward, judged = (np.interp(goal.kl, kls, [getattr(m, name) for m in path]) for name in ("reward", "judged"))
    return [
        "",
        f"At RLHF's KL of {goal.kl:.2f}, DPO on its way had reward {reward:.2f} and judged {judged:.2f}; "
        f"RLHF has {goal.reward:.2f} and {goal.judged:.2f}.",
    ]
