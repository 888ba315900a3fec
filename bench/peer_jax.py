"""JAX under jit: the same losses with value_and_grad, and rlax's estimator under vmap."""

import data
import jax
import jax.numpy as jnp
import numpy as np

jnp.zeros(()).block_until_ready()  # the backend takes its threads now (worker.load)


def on_device(given):
    return [jnp.asarray(x) for x in given.values()]


def arrays(results):
    return tuple(np.asarray(x) for x in jax.tree.leaves(results))


def forward(logits, tokens):
    return jnp.take_along_axis(jax.nn.log_softmax(logits, -1), tokens[:, None], -1)[:, 0]


def ppo(logp, old, advantages):
    ratio = jnp.exp(logp - old)
    return -jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - data.CLIP, 1 + data.CLIP) * advantages).mean()


def dpo(chosen, rejected, ref_chosen, ref_rejected):
    z = data.BETA * ((chosen - ref_chosen) - (rejected - ref_rejected))
    return -jax.nn.log_sigmoid(z).mean()


def fused(logits, tokens, old, advantages):
    return ppo(forward(logits, tokens), old, advantages)


def answers(logits, tokens, refs):
    return dpo(*forward(logits, tokens).reshape(*refs.shape, -1).sum(-1), *refs)


def jitted(f):
    def build(**given):
        some, compiled = on_device(given), jax.jit(f)
        return lambda: jax.block_until_ready(compiled(*some)), arrays

    return build


def estimator():
    import rlax

    along = jax.vmap(
        lambda r, d, v: rlax.truncated_generalized_advantage_estimation(r, d, data.LAM, v), in_axes=1, out_axes=1
    )

    def build(rewards, values, terminated, last_values):
        """Discounts and the values with the last one appended are made beforehand, and not timed."""
        discounts = (data.GAMMA * ~terminated).astype(rewards.dtype)
        some = on_device({"r": rewards, "d": discounts, "v": np.concatenate([values, last_values[None]])})
        compiled = jax.jit(along)
        return lambda: jax.block_until_ready((compiled(*some),)), arrays

    return build


TASKS = {
    ("jit", "rows"): jitted(lambda *x: (forward(*x),)),
    ("jit", "fused"): jitted(jax.value_and_grad(fused)),
    ("jit", "answers"): jitted(jax.value_and_grad(answers)),
    ("jit", "policy"): jitted(jax.value_and_grad(ppo)),
    ("jit", "pairs"): jitted(jax.value_and_grad(dpo, argnums=(0, 1))),
    ("jit", "linear"): jitted(lambda h, w, t: (forward(h @ w.T, t),)),
    ("rlax", "streams"): lambda **given: estimator()(**given),
}
