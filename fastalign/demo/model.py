"""A small causal language model in NumPy: embedding, one GRU layer, a linear map to logits; with its backward pass.

    r, z = σ(x W_rz + h U_rz + b_rz)        n = tanh(x W_n + b_n + r ∘ (h U_n))        h′ = n + z ∘ (h − n)

The cell is that of arXiv:1406.1078 with the reset gate after the product, as in cuDNN, so that one product with U
serves all three parts.  Arrays run time first inside, so that each step reads contiguous memory; batch first outside.
"""

from dataclasses import dataclass

import numpy as np

from .tokens import END, Answers


@dataclass
class Trace:
    """What a forward pass leaves for the backward pass; per step, time first."""

    inputs: np.ndarray  # (L, B) ids
    gates: np.ndarray  # (L, B, 3H): r, z, n
    recurrent: np.ndarray  # (L, B, H): h U_n
    hidden: np.ndarray  # (L + 1, B, H), the first is 0
    states: np.ndarray  # (B, T, H): what the logits are made of


class LanguageModel:
    """Predicts each token of an answer from the prompt and the tokens before it."""

    def __init__(
        self, inputs: int, outputs: int, width: int, hidden: int, rng: np.random.Generator, dtype: type = np.float32
    ) -> None:
        def draw(rows: int, columns: int) -> np.ndarray:
            return (rng.standard_normal((rows, columns)) / np.sqrt(rows)).astype(dtype)

        self.hidden = hidden
        self.parameters = {
            "embedding": rng.standard_normal((inputs, width)).astype(dtype),
            "input": draw(width, 3 * hidden),
            "recurrent": draw(hidden, 3 * hidden),
            "bias": np.zeros(3 * hidden, dtype),
            "output": draw(hidden, outputs),
            "output_bias": np.zeros(outputs, dtype),
        }

    def copy(self) -> "LanguageModel":
        """The same model with parameters of its own."""
        twin = object.__new__(type(self))
        twin.hidden = self.hidden
        twin.parameters = {name: x.copy() for name, x in self.parameters.items()}
        return twin

    def forward(self, answers: Answers) -> tuple[np.ndarray, Trace]:
        """Logits (B, T, V) of the tokens of the answers, and the trace for ``backward``."""
        inputs = np.concatenate([answers.prompts, answers.tokens[:, :-1]], axis=1).T
        p = self.parameters
        drive = p["embedding"][inputs] @ p["input"] + p["bias"]
        steps, batch = inputs.shape
        gates = np.empty_like(drive)
        recurrent = np.empty((steps, batch, self.hidden), drive.dtype)
        hidden = np.zeros((steps + 1, batch, self.hidden), drive.dtype)
        for t in range(steps):
            hidden[t + 1] = self._cell(drive[t], hidden[t], gates[t], recurrent[t])
        first = answers.prompts.shape[1]
        states = np.ascontiguousarray(hidden[first:].transpose(1, 0, 2))
        return states @ p["output"] + p["output_bias"], Trace(inputs, gates, recurrent, hidden, states)

    def _cell(self, drive: np.ndarray, h: np.ndarray, gates: np.ndarray, recurrent: np.ndarray) -> np.ndarray:
        """One step: fills gates and recurrent, returns the next state."""
        n_from = 2 * self.hidden
        product = h @ self.parameters["recurrent"]
        gates[:, :n_from] = _sigmoid(drive[:, :n_from] + product[:, :n_from])
        recurrent[...] = product[:, n_from:]
        r, z, n = np.split(gates, 3, axis=1)
        n[...] = np.tanh(drive[:, n_from:] + r * recurrent)
        return n + z * (h - n)

    def backward(self, trace: Trace, grad_logits: np.ndarray) -> dict[str, np.ndarray]:
        """Gradients of all parameters from those of the logits (B, T, V)."""
        p = self.parameters
        flat = grad_logits.reshape(-1, grad_logits.shape[-1])
        grads = {
            "output": trace.states.reshape(len(flat), -1).T @ flat,
            "output_bias": flat.sum(axis=0),
        }
        grad_states = (grad_logits @ p["output"].T).transpose(1, 0, 2)
        grad_drive, grad_product = self._through_time(trace, grad_states)
        before = trace.hidden[:-1].reshape(-1, self.hidden)
        rows = grad_drive.reshape(-1, 3 * self.hidden)
        embedded = p["embedding"][trace.inputs].reshape(len(rows), -1)
        grads["recurrent"] = before.T @ grad_product.reshape(len(rows), -1)
        grads["input"] = embedded.T @ rows
        grads["bias"] = rows.sum(axis=0)
        grads["embedding"] = np.zeros_like(p["embedding"])
        np.add.at(grads["embedding"], trace.inputs.reshape(-1), rows @ p["input"].T)
        return grads

    def _through_time(self, trace: Trace, grad_states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradients of drive and of h U, (L, B, 3H), from those of the states that logits were made of."""
        steps, first = len(trace.inputs), len(trace.inputs) - len(grad_states)
        grad_drive = np.empty_like(trace.gates)
        grad_product = np.empty_like(trace.gates)
        back = np.ascontiguousarray(self.parameters["recurrent"].T)
        grad_h = np.zeros_like(trace.hidden[0])
        for t in range(steps - 1, -1, -1):
            if t >= first:
                grad_h = grad_h + grad_states[t - first]
            r, z, n = np.split(trace.gates[t], 3, axis=1)
            grad_n = grad_h * (1 - z) * (1 - n * n)
            grad_r = grad_n * trace.recurrent[t] * r * (1 - r)
            grad_z = grad_h * (trace.hidden[t] - n) * z * (1 - z)
            grad_drive[t] = np.concatenate([grad_r, grad_z, grad_n], axis=1)
            grad_product[t] = np.concatenate([grad_r, grad_z, grad_n * r], axis=1)
            grad_h = grad_h * z + grad_product[t] @ back
        return grad_drive, grad_product

    def sample(self, prompts: np.ndarray, width: int, rng: np.random.Generator) -> Answers:
        """Answers of at most ``width`` tokens drawn from the model; the mask ends with the end of each."""
        h = np.zeros((len(prompts), self.hidden), self.parameters["bias"].dtype)
        for ids in prompts.T:
            h = self._advance(h, ids)
        tokens = np.zeros((len(prompts), width), np.int64)
        mask = np.zeros((len(prompts), width), np.uint8)
        going = np.ones(len(prompts), bool)
        for t in range(width):
            tokens[:, t] = _draw(h @ self.parameters["output"] + self.parameters["output_bias"], rng)
            mask[:, t] = going
            going &= tokens[:, t] != END
            h = self._advance(h, tokens[:, t])
        return Answers(prompts, tokens, mask)

    def _advance(self, h: np.ndarray, ids: np.ndarray) -> np.ndarray:
        drive = self.parameters["embedding"][ids] @ self.parameters["input"] + self.parameters["bias"]
        return self._cell(drive, h, np.empty_like(drive), np.empty_like(h))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    # Through tanh: no overflow on either side.
    return 0.5 * np.tanh(0.5 * x) + 0.5


def _draw(logits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One id per row, from softmax(logits), by inverting the distribution function."""
    weights = np.exp((logits - logits.max(axis=1, keepdims=True)).astype(np.float64)).cumsum(axis=1)
    marks = rng.random((len(logits), 1)) * weights[:, -1:]
    return np.minimum((weights < marks).sum(axis=1), logits.shape[1] - 1)
