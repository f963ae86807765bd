"""Gradient caching with encoders that are awkward on purpose; over processes and real models: tests/parity."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clipvip.losses.gradcache import cached_backward


class Towers(nn.Module):
    """Two small encoders with dropout, and a temperature."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 4))
        self.second = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 4))
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.calls = 0

    def encode(self, x: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        return {"a": self.first(x), "b": self.second(x), "unused": self.first(x)}

    def loss(self, features: dict[str, Tensor]) -> Tensor:
        logits = self.scale.exp() * features["a"] @ features["b"].T
        return nn.functional.cross_entropy(logits, torch.arange(len(logits)))


def grads_of(towers: Towers) -> list[Tensor]:
    return [parameter.grad for parameter in towers.parameters()]


def test_dropout_drops_the_same_in_both_passes() -> None:
    """Catches a replay with other random numbers: its features are not those that the loss was taken of."""
    x = torch.randn(10, 6, generator=torch.Generator().manual_seed(1))
    parts = x.split(3)  # the last one smaller
    plain, cached = Towers(), Towers()
    torch.manual_seed(7)
    pieces = [plain.encode(part) for part in parts]
    after = torch.rand(3)
    expected = plain.loss({name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]})
    expected.backward()
    torch.manual_seed(7)
    loss = cached_backward(cached.encode, parts, cached.loss)
    assert torch.equal(torch.rand(3), after)  # and the numbers that come next are those of a plain step
    assert not loss.requires_grad
    assert cached.calls == 2 * len(parts)
    torch.testing.assert_close(loss, expected.detach())
    for ours, theirs in zip(grads_of(cached), grads_of(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_gradients_are_added_to_what_is_there() -> None:
    """Catches gradients that overwrite: two losses a step would then be one."""
    x = torch.randn(4, 6)
    towers = Towers().eval()
    cached_backward(towers.encode, x.split(2), towers.loss)
    once = [grad.clone() for grad in grads_of(towers)]
    cached_backward(towers.encode, x.split(2), towers.loss)
    for twice, one in zip(grads_of(towers), once, strict=True):
        torch.testing.assert_close(twice, 2 * one)


def test_autocast_keeps_the_weights_gradients() -> None:
    """Catches casts cached by the pass without a graph and used by the one with it: weights without gradients."""
    x = torch.randn(8, 6)
    towers, plain = Towers().eval(), Towers().eval()

    def encode(part: Tensor) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return {name: values.float() for name, values in towers.encode(part).items()}

    cached_backward(encode, x.split(2), towers.loss)
    plain.loss(plain.encode(x)).backward()
    ours, exact = (torch.cat([grad.flatten() for grad in grads_of(module)]) for module in (towers, plain))
    assert (ours - exact).norm() < 0.05 * exact.norm()
