"""Gradient caching: the exact gradients of a large batch in the memory of a small one.

A contrastive loss needs the features of the whole batch at once, but the encoders' gradients do not: they need, for
each row, only what the loss says about that row's features. So: encode in parts without a graph, take the loss and its
gradient with respect to the features, then encode each part once more with its graph and hand those gradients on.
Accumulating the gradients of smaller losses is something else: its batches know fewer negatives.

Source: Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup (2021).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Part = TypeVar("Part")
Features = Mapping[str, Tensor]
"""By source, [B, E]; B may differ among sources."""


def cached_backward(
    encode: Callable[[Part], Features], parts: Sequence[Part], loss: Callable[[Features], Tensor]
) -> Tensor:
    """Add the gradients of `loss` over the features of all parts to the parameters' `grad`; the loss, detached.

    encode: one part's features, the same sources every time; it is called twice with each part and sees the same random
    numbers both times. loss: a scalar of the features of all parts, in order; what else it depends on, such as the
    temperature, gets its gradient at once. Over several processes `loss` gathers as it would without caching, and the
    gradients of all parameters are the mean over processes of what is left here.
    """
    states, pieces = [], []
    with torch.no_grad():
        for part in parts:
            states.append(_random_state())
            pieces.append(encode(part))
    leaves = {name: torch.cat([piece[name] for piece in pieces]).requires_grad_() for name in pieces[0]}
    value = loss(leaves)
    value.backward()
    grads = {
        name: leaf.grad.split([len(piece[name]) for piece in pieces])
        for name, leaf in leaves.items()
        if leaf.grad is not None
    }
    for number, (part, state) in enumerate(zip(parts, states, strict=True)):
        with torch.random.fork_rng(devices=_devices()):
            _set_random_state(state)
            features = encode(part)
        trained = [name for name in grads if features[name].requires_grad]  # a frozen encoder's have no graph
        torch.autograd.backward([features[name] for name in trained], [grads[name][number] for name in trained])
    return value.detach()


def _devices() -> list[int]:
    return [torch.cuda.current_device()] if torch.cuda.is_initialized() else []


def _random_state() -> tuple[Tensor, list[Tensor]]:
    """Of the CPU and of the GPU in use."""
    return torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in _devices()]


def _set_random_state(state: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(state[0])
    for device, saved in zip(_devices(), state[1], strict=True):
        torch.cuda.set_rng_state(saved, device)
