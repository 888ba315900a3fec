"""Part 5: each kernel at a realistic size, the NumPy reference against each other backend of this machine."""

import time
from dataclasses import dataclass

import numpy as np

from .. import available_backends, get_num_threads
from ..cases import OPERATIONS, Arguments, Operation, Shape, disagreement, truth
from ..progress import stage
from .report import table
from .settings import Settings

BASELINE = "numpy"
VOCABULARY, STREAMS, LENGTH = 32_000, 256, 512


@dataclass
class Kernel:
    """One line of the table."""

    name: str
    shape: Shape
    dtype: str

    @property
    def operation(self) -> Operation:
        return OPERATIONS[self.name]

    def __str__(self) -> str:
        return f"{' x '.join(map(str, self.shape))} {self.dtype}"


def kernels(settings: Settings) -> list[Kernel]:
    steps, elements = settings.kernel_steps, settings.kernel_elements
    shapes: dict[str, list[Shape]] = {
        "row": [(settings.kernel_rows, VOCABULARY)],
        "scan": [(steps,), (steps // STREAMS, STREAMS)],
        "pointwise": [(elements,)],
        "group": [(elements // LENGTH, LENGTH)],
    }
    return [
        Kernel(name, shape, "float32" if operation.shape == "row" else "float64")
        for name, operation in OPERATIONS.items()
        for shape in shapes[operation.shape]
    ]


def check_agreement(kernel: Kernel, arguments: Arguments, backends: list[str]) -> None:
    """RuntimeError unless the backends compute what the reference does: a fast wrong answer is worth nothing."""
    want = truth(kernel.operation, arguments)
    for backend in backends:
        found = disagreement(kernel.name, kernel.dtype, kernel.operation.call(arguments, backend), want)
        if found is not None:
            raise RuntimeError(f"{kernel.name} on {backend}: {found}")


def best_times(kernel: Kernel, arguments: Arguments, backends: list[str], seconds: float) -> dict[str, float]:
    """The shortest time of each backend; they take turns, so that a slow moment of the machine hits them alike."""
    best = dict.fromkeys(backends, float("inf"))
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < 2 or time.perf_counter() < end:
        for backend in backends:
            start = time.perf_counter()
            kernel.operation.call(arguments, backend)
            best[backend] = min(best[backend], time.perf_counter() - start)
        rounds += 1
    return best


def run(settings: Settings, rng: np.random.Generator) -> list[str]:
    """The table, and which backends it lacks and why."""
    states = available_backends()
    others = [name for name, why in states.items() if why is None and name != BASELINE]
    rows = []
    todo = kernels(settings)
    with stage("5. kernels", len(todo)) as advance:
        for kernel in todo:
            arguments = kernel.operation.make(rng, kernel.shape, kernel.dtype)
            check_agreement(kernel, arguments, others)
            best = best_times(kernel, arguments, [BASELINE, *others], settings.kernel_seconds)
            rows.append([kernel.name, str(kernel), *_cells(best)])
            advance()
    header = ["kernel", "size", f"{BASELINE} ms", *(title for name in others for title in (f"{name} ms", "ratio"))]
    notes = [f"{name} is not in the table: {why}" for name, why in states.items() if why is not None]
    if "cuda" in others:
        notes.append("cuda: with the copies to the device and back.")
    threads = f"Shortest of several calls, backends in turn; {get_num_threads()} thread(s); agreement checked first."
    return [*table(header, rows), "", threads, *notes]


def _cells(best: dict[str, float]) -> list[str]:
    base = best[BASELINE]
    cells = [f"{1e3 * base:.2f}"]
    for name, seconds in best.items():
        if name != BASELINE:
            cells += [f"{1e3 * seconds:.2f}", f"{base / seconds:.1f}x"]
    return cells
