"""What a training run leaves behind, the same for both ways of alignment."""

from dataclasses import dataclass, field

from .exam import Marks
from .model import LanguageModel


@dataclass
class Course:
    """A training run: its policy, its curves by name, its marks along the way as (step, marks), and what it took."""

    policy: LanguageModel
    curves: dict[str, list[float]] = field(default_factory=dict)
    marks: list[tuple[int, Marks]] = field(default_factory=list)
    seconds: float = 0.0  # without the marks
    updates: int = 0
    answers_written: int = 0

    def record(self, **values: float) -> None:
        for name, value in values.items():
            self.curves.setdefault(name, []).append(float(value))


def mark_steps(steps: int, exams: int) -> set[int]:
    """After which steps to measure: evenly spread, the last one included."""
    return {max(1, round(steps * k / exams)) for k in range(1, exams + 1)}
