"""The estimators of reinforcement-learning libraries, called as their own code calls them."""

import data
import numpy as np


def tianshou(rewards, values, terminated, last_values):
    """``_gae``, Numba: float64, streams one after another; what its caller prepares is not timed."""
    from tianshou.algorithm.algorithm_base import _gae

    shape = rewards.shape
    after = np.concatenate([values[1:], np.reshape(last_values, (1, *shape[1:]))])
    ends = terminated.copy()
    ends[-1] = True  # where a stream ends, the trace is cut
    flat = [np.ascontiguousarray(x.T, np.float64).reshape(-1) for x in (values, after * ~terminated, rewards)]
    flags = np.ascontiguousarray(ends.T).reshape(-1)

    def call():
        return _gae(*flat, flags, data.GAMMA, data.LAM)

    return call, lambda found: (found.reshape(shape[::-1]).T,)


def stable_baselines3(rewards, values, terminated, last_values):
    """``RolloutBuffer``: its flags say that a step begins an episode."""
    import torch
    from gymnasium import spaces
    from stable_baselines3.common.buffers import RolloutBuffer

    torch.set_num_threads(1)
    steps, streams = rewards.shape
    space = spaces.Box(-1, 1, (1,))
    buffer = RolloutBuffer(steps, space, space, "cpu", data.LAM, data.GAMMA, streams)
    buffer.rewards, buffer.values = rewards.astype(np.float32), values.astype(np.float32)
    buffer.episode_starts = np.concatenate([np.zeros((1, streams)), terminated[:-1]]).astype(np.float32)
    last, done = torch.from_numpy(last_values.astype(np.float32)), terminated[-1].astype(np.float32)

    def call():
        buffer.compute_returns_and_advantage(last, done)
        return buffer.advantages, buffer.returns

    return call, tuple


TASKS = {("tianshou", "streams"): tianshou, ("stable_baselines3", "streams"): stable_baselines3}
