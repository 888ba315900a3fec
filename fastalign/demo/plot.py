"""The picture: learning curves of all parts, and the two ways against each other."""

import os
from io import BytesIO
from pathlib import Path
from typing import Any

from .data import DataError
from .settings import Settings
from .teaching import Outcome


def check(path: Path) -> None:
    """DataError, before a minute is spent, if the picture could not be written."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise DataError("--plot needs matplotlib: pip install matplotlib") from None
    kinds = Figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in kinds:
        raise DataError(f"--plot {path}: unknown kind {path.suffix!r}; expected one of {', '.join(sorted(kinds))}")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise DataError(f"--plot {path}: cannot be written there")
    try:
        trial = Figure((1, 1))
        trial.text(0, 0, "x")
        trial.savefig(BytesIO(), format=path.suffix[1:].lower())
    except Exception as error:  # .pgf asks for TeX, images ask Pillow, each in its own words
        raise DataError(f"--plot {path}: a {path.suffix} cannot be drawn here: {error}") from None


def draw(outcome: Outcome, settings: Settings, path: Path) -> None:
    """Four panels into a file; no window, no global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    panels = figure.subplots(2, 2)
    _reward_panel(panels[0, 0], outcome)
    _dpo_panel(panels[0, 1], outcome)
    _ppo_panel(panels[1, 0], outcome, settings)
    _trade_panel(panels[1, 1], outcome)
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise DataError(f"--plot {path}: cannot be written: {error.strerror or error}") from None


def _titled(panel: Any, title: str, x: str, y: str) -> None:
    panel.set(title=title, xlabel=x, ylabel=y)
    panel.spines[["top", "right"]].set_visible(False)


def _reward_panel(panel: Any, outcome: Outcome) -> None:
    losses, (low, high) = outcome.reward.first.losses, outcome.reward.interval
    panel.plot(range(1, len(losses) + 1), losses, "o-", label="training loss")
    panel.axhline(0.6931, color="grey", linewidth=0.8, linestyle=":", label="loss of a coin, log 2")
    title = f"1. Reward model: held-out accuracy {outcome.reward.accuracy:.3f} ({low:.3f} to {high:.3f})"
    _titled(panel, title, "epoch", "Bradley-Terry loss")
    panel.legend(frameon=False)


def _dpo_panel(panel: Any, outcome: Outcome) -> None:
    marks = outcome.dpo.marks
    steps = [0, *(step for step, _ in marks)]
    margins = [0.0, *(m.margin for _, m in marks)]
    panel.plot(steps[1:], [m.accuracy for _, m in marks], "o-", label="accuracy")
    panel.axhline(0.5, color="grey", linewidth=0.8, linestyle=":", label="chance")
    panel.plot(steps, margins, "s-", label="reward margin")
    _titled(panel, "2. DPO on held-out pairs", "step", "")
    panel.legend(frameon=False)


def _ppo_panel(panel: Any, outcome: Outcome, settings: Settings) -> None:
    curves = outcome.ppo.curves
    panel.plot(curves["reward"], label="reward of own answers")
    panel.plot(curves["kl"], label="KL to the reference")
    panel.axhline(settings.kl_target, color="C1", linewidth=0.8, linestyle=":", label="KL target")
    panel.plot(curves["kl_coef"], color="grey", label="KL coefficient")
    _titled(panel, "3. PPO", "iteration", "standard deviations; nats per answer")
    panel.set_ylim(top=1.5 * panel.get_ylim()[1])  # room for the legend
    panel.legend(frameon=False, ncols=2, loc="upper left")


def _trade_panel(panel: Any, outcome: Outcome) -> None:
    for name, course, style in (("RLHF (PPO)", outcome.ppo, "o-"), ("DPO", outcome.dpo, "s-")):
        path = [outcome.before, *(m for _, m in course.marks)]
        line = panel.plot([m.kl for m in path], [m.reward for m in path], style, label=f"{name}, reward model")[0]
        judged = [m.judged for m in path]
        panel.plot([m.kl for m in path], judged, style, color=line.get_color(), alpha=0.4, label=f"{name}, judged")
    _titled(panel, "4. What distance from the reference buys", "KL, nats per answer", "standard deviations")
    panel.legend(frameon=False)
