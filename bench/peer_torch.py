"""PyTorch as its users write it: eager, with autograd; or the same function compiled.  One thread."""

import data
import torch

torch.set_num_threads(1)


def tensors(*arrays):
    return [torch.from_numpy(x) for x in arrays]


def arrays(results):
    return tuple(x.detach().numpy() if isinstance(x, torch.Tensor) else x for x in results)


def compiled(f, how):
    return torch.compile(f) if how == "compile" else f


def rows(how):
    def forward(x, t):
        return x.log_softmax(-1).gather(-1, t[:, None])[:, 0]

    def build(logits, tokens):
        x, t = tensors(logits, tokens)
        f = compiled(forward, how)

        def call():
            with torch.no_grad():
                return (f(x, t),)

        return call, arrays

    return build


def ppo(logp, old, advantages):
    ratio = (logp - old).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - data.CLIP, 1 + data.CLIP) * advantages).mean()


def dpo(chosen, rejected, ref_chosen, ref_rejected):
    z = data.BETA * ((chosen - ref_chosen) - (rejected - ref_rejected))
    return -torch.nn.functional.logsigmoid(z).mean()


def with_gradients(loss, count, how):
    """Of the first ``count`` arguments; the loss is compiled, and with it the backward that autograd runs."""

    def build(**given):
        some = tensors(*given.values())
        leaves = [x.requires_grad_() for x in some[:count]]
        f = compiled(loss, how)

        def call():
            for x in leaves:
                x.grad = None
            value = f(*some)
            value.backward()
            return value.item(), *(x.grad for x in leaves)

        return call, arrays

    return build


def fused(logits, tokens, old, advantages):
    return ppo(logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0], old, advantages)


def answers(logits, tokens, refs):
    logp = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    return dpo(*logp.reshape(*refs.shape, -1).sum(-1), *refs)


def linear(how):
    def forward(h, w, t):
        return (h @ w.T).log_softmax(-1).gather(-1, t[:, None])[:, 0]

    def build(hidden, weight, tokens):
        h, w, t = tensors(hidden, weight, tokens)
        f = compiled(forward, how)

        def call():
            with torch.no_grad():
                return (f(h, w, t),)

        return call, arrays

    return build


TASKS = {}
for _how in ("eager", "compile"):
    TASKS[_how, "rows"] = rows(_how)
    TASKS[_how, "linear"] = linear(_how)
    TASKS[_how, "fused"] = with_gradients(fused, 1, _how)
    TASKS[_how, "answers"] = with_gradients(answers, 1, _how)
    TASKS[_how, "policy"] = with_gradients(ppo, 1, _how)
    TASKS[_how, "pairs"] = with_gradients(dpo, 2, _how)
