"""SciPy: log_softmax and a gather."""

import numpy as np
from scipy.special import log_softmax


def rows(logits, tokens):
    def call():
        return (np.take_along_axis(log_softmax(logits, axis=-1), tokens[:, None], -1)[:, 0],)

    return call, tuple


TASKS = {("scipy", "rows"): rows}
