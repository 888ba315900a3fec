"""How long each part of the demo trains, and on how much."""

from dataclasses import dataclass, field

from .tokens import Widths


@dataclass(frozen=True)
class Settings:
    """The full demo: about a minute on two cores."""

    synthetic_pairs: int = 3000
    # Reward model.  One pass over a large file teaches as much as five over a small one.
    reward_hidden: int = 32
    reward_rate: float = 1e-3
    reward_decay: float = 1.0
    reward_epochs: int = 5
    reward_visits: int = 200_000
    # Language model.
    language_pairs: int = 8000
    most_words: int = 1000
    most_tokens: Widths = field(default_factory=lambda: Widths(24, 24))
    embedding: int = 48
    hidden: int = 96
    reference_steps: int = 500
    reference_batch: int = 64
    reference_rate: float = 3e-3
    # DPO.
    dpo_beta: float = 0.1
    dpo_steps: int = 240
    dpo_batch: int = 32
    dpo_rate: float = 5e-4
    # PPO.
    ppo_iterations: int = 80
    ppo_batch: int = 128
    ppo_epochs: int = 4
    ppo_minibatches: int = 2
    ppo_rate: float = 5e-4
    kl_target: float = 3.0
    kl_coef: float = 0.3
    # Held-out measurements along the way, and the closing table.
    exam_pairs: int = 400
    exam_prompts: int = 256
    exams: int = 12
    kernel_rows: int = 256
    kernel_elements: int = 1 << 20
    kernel_steps: int = 200_000
    kernel_seconds: float = 0.8


QUICK = Settings(
    synthetic_pairs=1500,
    reward_visits=40_000,
    language_pairs=2000,
    most_words=400,
    most_tokens=Widths(16, 16),
    embedding=32,
    hidden=64,
    reference_steps=300,
    dpo_steps=120,
    ppo_iterations=40,
    exam_pairs=300,
    exams=4,
    kernel_rows=64,
    kernel_elements=1 << 18,
    kernel_steps=50_000,
    kernel_seconds=0.2,
)
