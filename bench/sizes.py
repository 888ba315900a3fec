"""What is timed: every operation of fastalign.cases at these sizes and dtypes."""

from typing import NamedTuple

from fastalign.cases import OPERATIONS

# RL sizes: 128 steps of 8 or 4096 environments; RLHF sizes: 512 tokens of a vocabulary of 32,000 or 128,256.
SIZES = {
    "row": {"tiny": (8, 1_000), "typical": (512, 32_000), "large": (128, 128_256)},
    "scan": {"tiny": (128, 8), "typical": (128, 4_096), "one stream": (1_000_000,)},
    "pointwise": {"tiny": (64,), "small": (1_024,), "typical": (1 << 20,)},
    "group": {"tiny": (8, 64), "typical": (2_048, 512)},
}
HALVES = ("float16", "bfloat16")


class Entry(NamedTuple):
    """One operation on one set of arrays."""

    operation: str
    size: str
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        return SIZES[OPERATIONS[self.operation].shape][self.size]

    def __str__(self) -> str:
        return f"{self.operation} {'x'.join(map(str, self.shape))} {self.dtype}"


def entries(quick: bool) -> list[Entry]:
    """All of them; ``quick``: the typical size, in float32, and one stream of steps."""
    found = []
    for name, operation in OPERATIONS.items():
        for size in SIZES[operation.shape]:
            halves = HALVES if operation.shape == "row" and size == "typical" else ()
            for dtype in ("float32", "float64", *halves):
                if not quick or (size in ("typical", "one stream") and dtype == "float32"):
                    found.append(Entry(name, size, dtype))
    return found
