"""How loops are compiled, and the rules as they call them."""

import os
from functools import cache
from typing import Any

from numba import njit

from ...binding import Binding


def jit(**options: Any) -> Any:
    return njit(nogil=True, error_model="numpy", cache=os.environ.get("FASTALIGN_NUMBA_CACHE") == "1", **options)


CONTRACT = {"contract"}
SUMS = {"reassoc", "contract", "nsz"}


@cache
def rules() -> Binding:
    return Binding(jit(fastmath=CONTRACT))
