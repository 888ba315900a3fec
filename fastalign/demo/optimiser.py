"""Adam with decoupled weight decay."""

import math

import numpy as np


class Adam:
    """Updates named arrays in place (arXiv:1412.6980; decay as in arXiv:1711.05101).

    ``largest_norm`` shortens the gradient of all arrays together: one unlucky batch must not undo many good ones.
    """

    def __init__(
        self, parameters: dict[str, np.ndarray], rate: float, *, decay: float = 0.0, largest_norm: float = math.inf
    ) -> None:
        self.parameters, self.rate, self.decay, self.largest_norm = parameters, rate, decay, largest_norm
        self.first = {name: np.zeros_like(x) for name, x in parameters.items()}
        self.second = {name: np.zeros_like(x) for name, x in parameters.items()}
        self.steps = 0

    def step(self, grads: dict[str, np.ndarray]) -> None:
        self.steps += 1
        norm = math.sqrt(sum(float(np.vdot(g, g)) for g in grads.values()))
        shorten = min(1.0, self.largest_norm / norm) if norm else 1.0
        rate = self.rate * math.sqrt(1.0 - 0.999**self.steps) / (1.0 - 0.9**self.steps)
        for name, x in self.parameters.items():
            first, second, grad = self.first[name], self.second[name], grads[name] * shorten
            first += 0.1 * (grad - first)
            second += 0.001 * (grad * grad - second)
            if self.decay:
                x *= 1.0 - self.rate * self.decay
            x -= rate * first / (np.sqrt(second) + 1e-8)
