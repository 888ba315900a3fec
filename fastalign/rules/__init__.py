"""The formulas, each written once.

A rule maps floats to floats and uses nothing but ``math``, so that the same lines run in CPython (the tests, at
fifty digits), in Numba on the CPU and on CUDA, and, translated by ``setup.py``, as inlined C.

The prefix of a name is its registration: ``pair_hinge`` is the loss_type "hinge" of the family "pair".  All rules of
a family share one signature.  ``frame_<family>`` is the family's step over one element: it prepares the arguments,
calls the free name ``rule`` and returns first what is stored per element, then what is tallied.
"""

from typing import NamedTuple

FILES = ("elementary", "preference", "reward", "policy", "divergence", "recurrence", "row")


class Family(NamedTuple):
    """What one pointwise family reads, writes and tallies, in the order of its frame's arguments and results."""

    inputs: tuple[str, ...]
    params: tuple[str, ...]
    outputs: tuple[str, ...]
    sums: tuple[str, ...]
    peaks: tuple[str, ...] = ()
    bound: str = ""  # the parameter, if any, that bounds what exp_within is asked for

    @property
    def tallies(self) -> int:
        return len(self.sums) + len(self.peaks)


# ``weight`` multiplies what is a derivative of the reduced loss: 1 / count for a mean.
FAMILIES = {
    "pair": Family(
        inputs=("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected"),
        params=("beta", "label_smoothing", "weight"),
        outputs=("grad_chosen", "grad_rejected", "chosen_rewards", "rejected_rewards"),
        sums=("loss", "chosen", "rejected", "accuracy", "margin"),
    ),
    "reward": Family(
        inputs=("reward_chosen", "reward_rejected", "margin"),
        params=("center_coef", "weight"),
        outputs=("grad_chosen", "grad_rejected"),
        sums=("loss",),
    ),
    "policy": Family(
        inputs=("log_prob", "old_log_prob", "advantage"),
        params=("clip_low", "clip_high", "log_ratio_clamp", "weight"),
        outputs=("grad",),
        sums=("loss", "approx_kl", "clipped", "outside", "ratio"),
        peaks=("ratio_max",),
        bound="log_ratio_clamp",
    ),
    "kl": Family(
        inputs=("log_prob", "ref_log_prob"),
        params=("weight",),
        outputs=("value", "grad"),
        sums=("value",),
    ),
}

# Rules that a compiled backend walks in float32 where the arrays are float32: their results are within 4 eps of the
# exact ones for inputs that differ from the given ones by a rounding.  All others, and a new one by itself, are
# computed in double and rounded once.  kl_k3 is not here: expm1(d) - d cancels for small d.
SINGLE = frozenset({"pair_sigmoid", "reward_bradley_terry", "policy_ppo", "kl_k1", "kl_k2", "kl_p_log_ratio"})
