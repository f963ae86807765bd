"""Linear layers and attention of bfloat16 training on CPUs against torch's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clipvip.errors import ClipVipWarning
from clipvip.model.kernels import compile_blocks, products


def gradients(run: Callable[..., Tensor], *inputs: Tensor | None) -> list[Tensor]:
    """The output of `run` under autocast, then the gradients of all inputs, for a fixed direction."""
    leaves = [None if x is None else x.detach().clone().requires_grad_() for x in inputs]
    with torch.autocast("cpu", torch.bfloat16):
        output = run(*leaves)
    assert output.dtype == torch.bfloat16
    torch.manual_seed(1)
    output.backward(torch.randn(output.shape).to(output.dtype))  # not randn_like: it fills in the order of memory
    return [output.detach(), *(x.grad for x in leaves if x is not None and x.grad is not None)]


def assert_close(ours: list[Tensor], expected: list[Tensor]) -> None:
    """Within a few bfloat16 roundings of the largest value."""
    assert len(ours) == len(expected)
    for mine, theirs in zip(ours, expected, strict=True):
        assert mine.dtype == theirs.dtype
        assert mine.shape == theirs.shape
        assert (mine.float() - theirs.float()).abs().max() <= 2.0**-6 * theirs.abs().max()


@pytest.mark.parametrize(("inputs", "outputs"), [(96, 96), (64, 320), (700, 300), (1024, 600)])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1.702])
@pytest.mark.parametrize("sliced", [False, True])
def test_linear_layers_and_their_gradients(
    inputs: int, outputs: int, with_bias: bool, scale: float, sliced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a gradient that is transposed, unscaled or glued together from the wrong slices, in every shape class."""
    monkeypatch.setattr(products, "shares_badly", lambda: sliced)
    torch.manual_seed(0)
    x, weight = torch.randn(3, 5, inputs), torch.randn(outputs, inputs) / inputs**0.5
    bias = torch.randn(outputs) if with_bias else None

    def expected(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, scale * weight, bias)

    given = (x, weight) if bias is None else (x, weight, bias)
    ours = gradients(lambda x, weight, bias=None: products.linear(x, weight, bias, scale), *given)
    assert_close(ours, gradients(expected, *given))
    assert all(gradient.dtype == torch.float32 for gradient in ours[1:])


@pytest.mark.parametrize("kind", ["all", "causal", "mask"])
@pytest.mark.parametrize("cacheful", [products.CACHEFUL, 100])
def test_attention_and_its_gradients(kind: str, cacheful: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a lost scale, a mask that hides the wrong side, heads mixed up with tokens, or a slice left out."""
    monkeypatch.setattr(products, "CACHEFUL", cacheful)
    torch.manual_seed(0)
    queries = 7 if kind == "causal" else 3
    q, k, v = (torch.randn(2, n, 4, 16) for n in (queries, 7, 7))
    mask = torch.arange(7) <= torch.tensor([2, 5])[:, None, None, None] if kind == "mask" else None

    def run(attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def cast(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask, kind == "causal")

        return cast

    def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal).transpose(1, 2)

    assert_close(gradients(run(products.attention), q, k, v), gradients(run(sdpa), q, k, v))


@pytest.mark.parametrize("num_queries", [1, products.FEW_QUERIES, products.FEW_QUERIES + 1])
def test_attention_for_inference(num_queries: int) -> None:
    """Catches a softmax or product that is worse than rounding, on both sides of the change to SDPA."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, n, 4, 16).bfloat16() for n in (num_queries, 70, 70))
    with torch.inference_mode():
        expected = products.attention(*(x.float() for x in (q, k, v)))
        found = products.attention(q, k, v)
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).abs().max() <= 2.0**-6 * expected.abs().max()


def test_linear_layers_of_one_input() -> None:
    """Catches joined layers that come back in another order, and a block that torch.compile would cut into pieces."""
    torch.manual_seed(0)
    given = [torch.randn(3, 5, 96), *(torch.randn(96, 96) / 10 for _ in range(3)), *(torch.randn(96) for _ in range(3))]

    def joined(x: Tensor, *parameters: Tensor) -> Tensor:
        x = products.in_autocast_dtype(x)
        assert products.trains_in_bfloat16_on_a_cpu(x)
        return torch.cat(products.joined_linears(x, *zip(parameters[:3], parameters[3:], strict=True)), -1)

    def expected(x: Tensor, *parameters: Tensor) -> Tensor:
        layers = zip(parameters[:3], parameters[3:], strict=True)
        return torch.cat([F.linear(x, weight, bias) for weight, bias in layers], -1)

    compile_blocks()  # marks what the compiler is to take as constant
    eager = gradients(joined, *given)
    assert_close(eager, gradients(expected, *given))
    assert_close(gradients(torch.compile(joined, backend="aot_eager", fullgraph=True), *given), eager)


@pytest.mark.parametrize(
    ("known", "warns"),
    [
        ({"architecture": "x86_64", "avx2": True, "avx512_bf16": False, "amx_bf16": False}, True),
        ({"architecture": "x86_64", "avx512_bf16": True}, False),
        ({"architecture": "x86_64", "amx_bf16": True}, False),
        ({"architecture": "aarch64"}, False),
        ({}, False),
    ],
)
def test_slow_bfloat16_is_warned_of(
    known: dict[str, object], warns: bool, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """Catches hours of emulated arithmetic without a word, and a warning where bfloat16 is fast or not known."""
    monkeypatch.setattr(products, "cpu_capabilities", lambda: known)
    products.warn_of_slow_bfloat16(torch.device("cpu"), "use float32")
    products.warn_of_slow_bfloat16(torch.device("meta"), "use float32")
    found = [str(warning.message) for warning in recwarn if issubclass(warning.category, ClipVipWarning)]
    assert len(found) == warns
    assert all("7 times slower than float32; use float32" in message for message in found)
