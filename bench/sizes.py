"""What is timed: every operation of fastalign.cases at these sizes and dtypes."""

from typing import NamedTuple

from fastalign.cases import OPERATIONS

# Rows: 65,536 choices among 6 actions, 16,384 among 100, 512 tokens of a vocabulary of 32,000, 128 of 128,256.  Scans,
# steps by environments: Atari, MuJoCo, and up to thousands of simulated ones.  Elements: 64 actions of 4, 2,048 of 18,
# a batch of 2^20 tokens.
SIZES = {
    "row": {
        "tiny": (8, 1_000), "actions": (65_536, 6), "many actions": (16_384, 100), "typical": (512, 32_000),
        "large": (128, 128_256),
    },
    "scan": {
        "tiny": (128, 8), "one environment": (2_048, 1), "few": (2_048, 8), "few steps": (24, 4_096),
        "typical": (128, 4_096), "wide": (64, 8_192), "long": (1_024, 512), "one stream": (1_000_000,),
    },
    "pointwise": {"tiny": (64,), "small": (1_024,), "middle": (36_864,), "typical": (1 << 20,)},
    "group": {"tiny": (8, 64), "typical": (2_048, 512)},
}  # fmt: skip
HALVES = ("float16", "bfloat16")
LARGE = ("typical", "large", "one stream")  # timed with all threads too


class Entry(NamedTuple):
    """One operation on one set of arrays."""

    operation: str
    size: str
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        return SIZES[OPERATIONS[self.operation].shape][self.size]

    @property
    def large(self) -> bool:
        return self.size in LARGE

    def __str__(self) -> str:
        return f"{self.operation} {'x'.join(map(str, self.shape))} {self.dtype}"


def entries(quick: bool) -> list[Entry]:
    """All of them; ``quick``: the typical size, in float32."""
    found = []
    for name, operation in OPERATIONS.items():
        for size in SIZES[operation.shape]:
            halves = HALVES if operation.shape == "row" and size == "typical" else ()
            for dtype in ("float32", "float64", *halves):
                if not quick or (size == "typical" and dtype == "float32"):
                    found.append(Entry(name, size, dtype))
    return found
