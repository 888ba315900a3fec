"""What this processor can do: asked before a build for it is imported, since importing runs its code."""

from libc.stdlib cimport getenv

cdef extern from *:
    """
    #if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
    static int fa_has(int isa)
    {
        __builtin_cpu_init();
        if (isa == 1)
            return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
        return fa_has(1) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    }
    #else
    static int fa_has(int isa) { (void)isa; return 0; }
    #endif

    /* A subnormal that survives: flush-to-zero is off. */
    static int fa_keeps_subnormals(void)
    {
        volatile double tiny = 2.2250738585072014e-308;
        tiny /= 2.0;
        return tiny != 0.0;
    }
    """
    bint fa_has(int isa) noexcept
    bint fa_keeps_subnormals() noexcept


def supports(str isa):
    """Whether this processor runs code built for ``isa``."""
    if isa == "avx2":
        return fa_has(1)
    if isa == "avx512":
        return fa_has(2)
    return isa == "baseline"


def keeps_subnormals():
    """Whether this thread computes with subnormal numbers."""
    return fa_keeps_subnormals()


def environment(str name):
    """What os.environ.get(name, "") says, in a tenth of its time; os.environ writes through to C's environment."""
    cdef const char *text = getenv(name.encode())
    return text.decode(errors="surrogateescape") if text != NULL else ""
