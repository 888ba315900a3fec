"""The rules' ``math`` in C: the names of Python's module, computed by vecmath.h."""

cdef extern from "vecmath.h" nogil:
    double exp "fa_exp" (double x) noexcept
    double expm1 "fa_expm1" (double x) noexcept
    double log "fa_log" (double x) noexcept
    double log1p "fa_log1p" (double x) noexcept
