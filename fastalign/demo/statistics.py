"""How sure a measured share is."""

import math


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval of a binomial share that covers 95 % by default (Wilson 1927).

    Unlike share ± z·√(share(1−share)/n) it stays inside [0, 1] and keeps a width at shares of 0 and 1.

    >>> [round(x, 3) for x in wilson_interval(60, 100)]
    [0.502, 0.691]
    """
    if trials < 1:
        return 0.0, 1.0
    share, slack = successes / trials, z * z / trials
    centre = (share + slack / 2) / (1 + slack)
    half = math.sqrt(share * (1 - share) * slack + slack * slack / 4) / (1 + slack)
    return max(0.0, centre - half), min(1.0, centre + half)
