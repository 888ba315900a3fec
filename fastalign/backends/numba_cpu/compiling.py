"""How loops are compiled, and the rules as they call them."""

import os
from functools import cache
from typing import Any

from numba import njit

from ...binding import Binding


def _cache_wanted() -> bool:
    text = os.environ.get("FASTALIGN_NUMBA_CACHE", "")
    if text not in ("", "0", "1"):
        raise ValueError(f"FASTALIGN_NUMBA_CACHE is {text!r}; expected 0 or 1")
    return text == "1"


def jit(**options: Any) -> Any:
    return njit(nogil=True, error_model="numpy", cache=_cache_wanted(), **options)


CONTRACT = {"contract"}
SUMS = {"reassoc", "contract", "nsz"}


@cache
def rules() -> Binding:
    return Binding(jit(fastmath=CONTRACT))
