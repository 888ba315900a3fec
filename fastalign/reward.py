"""A reward model and the Bradley–Terry loss that trains it."""

import math
from typing import Any

import numpy as np

from . import arrays
from .arrays import Array
from .elementwise import Rule, Rules

NAMES = ("reward_chosen", "reward_rejected", "margin")


def reward_model_loss(
    reward_chosen: Array,
    reward_rejected: Array,
    *,
    loss_type: str = "bradley_terry",
    margin: Array | None = None,
    center_coef: float = 0.0,
    out: tuple[Array, Array] | None = None,
    backend: str | None = None,
) -> tuple[float, Array, Array]:
    """(loss, ∂loss/∂reward_chosen, ∂loss/∂reward_rejected) of pairs of rewards, averaged over all elements.

    bradley_terry (arXiv:2203.02155, eq. 1):  −log σ(r_w − r_l − margin) + c (r_w + r_l)²

    Arrays of one shape, (batch,) or (batch, 1) or any other; margin (arXiv:2307.09288) of that shape or None for 0; c =
    center_coef (arXiv:2312.09244).  Gradients have the shape and dtype of the rewards (halves: float32) and are divided
    by their number.  Stable: the curriculum's 1e-10 inside the logarithm, which saturates its loss at 23.03, is not
    here.  NaN propagates, infinities follow arithmetic; no elements give 0.0.  float32 arrays are computed in float32.
    ``out``: a pair that receives the gradients.  Raises ValueError for shapes, options and overlapping arrays,
    TypeError for dtypes; then nothing is written.

    >>> from fastalign import reward_model_loss
    >>> loss, chosen, rejected = reward_model_loss([1.2], [0.7], margin=[0.3], center_coef=0.01)
    >>> round(loss, 7), chosen.round(6).tolist(), rejected.round(6).tolist()
    (0.6342389, [-0.412166], [0.488166])
    """
    call = _rules.call
    return call((loss_type, center_coef), (reward_chosen, reward_rejected, margin), None, out, backend)


@Rules
def _rules(loss_type: str, center_coef: float) -> Rule:
    kind, options = arrays.kind("loss_type", loss_type, "reward"), (arrays.number("center_coef", center_coef, 0.0),)
    return Rule("reward", kind, NAMES, options, wanted=2)


class RewardModel:
    """A two-layer network from features to a scalar reward, with its own backward.

    r = relu(x W₁ + b₁) W₂ + b₂;   W₁ ~ N(0, 2/(in + hidden)), W₂ ~ N(0, 2/hidden), biases 0

    ``rng`` seeds it: None, an int, or a numpy Generator.  W1, b1, W2 and b2, float64 or float32 by ``dtype``, are the
    caller's to train: ``backward`` fills the dictionary grads, under these names.  The matrix products are NumPy's, and
    so is what they make of NaN and infinities.  Raises ValueError for sizes and shapes, TypeError for dtypes,
    RuntimeError for a backward without a forward.

    >>> import numpy as np
    >>> from fastalign import RewardModel
    >>> model = RewardModel(3, 4, rng=0)
    >>> model.forward(np.ones((2, 3))).shape
    (2, 1)
    >>> model.backward(np.ones((2, 1))).shape, sorted(model.grads)
    ((2, 3), ['W1', 'W2', 'b1', 'b2'])
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int = 256,
        *,
        rng: "np.random.Generator | int | None" = None,  # unquoted it imports numpy.random, 14 ms
        dtype: Any = np.float64,
    ) -> None:
        input_dim, hidden_dim = arrays.count("input_dim", input_dim), arrays.count("hidden_dim", hidden_dim)
        self.dtype = np.dtype(dtype)
        if self.dtype not in arrays.FLOATS:
            raise TypeError(f"dtype is {self.dtype}; expected float32 or float64")
        try:
            draw = np.random.default_rng(rng).standard_normal
        except (TypeError, ValueError) as error:
            raise type(error)(f"rng is {rng!r}; expected None, an int of 0 or more, or a numpy Generator") from error
        self.W1 = (draw((input_dim, hidden_dim)) * math.sqrt(2.0 / (input_dim + hidden_dim))).astype(self.dtype)
        self.b1 = np.zeros(hidden_dim, self.dtype)
        self.W2 = (draw((hidden_dim, 1)) * math.sqrt(2.0 / hidden_dim)).astype(self.dtype)
        self.b2 = np.zeros(1, self.dtype)
        self.grads: dict[str, np.ndarray] = {}
        self.cache: dict[str, np.ndarray] = {}

    def forward(self, x: Array) -> np.ndarray:
        """Rewards (batch, 1) of features (batch, input_dim)."""
        x = self._matrix("x", x, self.W1.shape[0]).copy()  # backward needs it as it was
        h = x @ self.W1 + self.b1
        h_relu = np.maximum(h, 0)
        self.cache = {"x": x, "h": h, "h_relu": h_relu}
        return h_relu @ self.W2 + self.b2

    def backward(self, grad_reward: Array) -> np.ndarray:
        """Fill ``grads`` with sums over the rows of the last forward; return ∂/∂x (batch, input_dim)."""
        if not self.cache:
            raise RuntimeError("backward needs a forward before it")
        x, h, h_relu = self.cache["x"], self.cache["h"], self.cache["h_relu"]
        grad = self._matrix("grad_reward", grad_reward, 1)
        if len(grad) != len(x):
            raise ValueError(f"grad_reward has {len(grad)} rows; expected {len(x)}, as in the last forward")
        grad_h = np.where(h > 0, grad @ self.W2.T, 0)
        self.grads = {
            "W1": x.T @ grad_h,
            "b1": grad_h.sum(axis=0),
            "W2": h_relu.T @ grad,
            "b2": grad.sum(axis=0),
        }
        return grad_h @ self.W1.T

    def _matrix(self, name: str, x: Array, columns: int) -> np.ndarray:
        x = arrays.take(name, x)
        if arrays.is_device(x):
            raise TypeError(f"{name} is on a device; RewardModel computes with NumPy on the host")
        arrays.real_dtype(name, x.dtype)
        if x.ndim != 2 or x.shape[1] != columns:
            raise ValueError(f"{name} has shape {x.shape}; expected (batch, {columns})")
        return np.asarray(x, self.dtype)
