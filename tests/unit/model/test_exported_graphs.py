"""torch.export and ONNX graphs of both encoders, for any batch size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from clipvip.model import AGGREGATORS, ClipVipConfig, ClipVipCore
from clipvip.model.configuration_clipvip import FRAMEWISE
from helpers_golden import golden_config, golden_state


class Method(nn.Module):
    """One method of a model as a module, which is what the exporters take."""

    def __init__(self, model: ClipVipCore, name: str):
        super().__init__()
        self.model, self.name = model, name

    def forward(self, given: Tensor) -> Tensor:
        return getattr(self.model, self.name)(given)


def model_of(aggregator: str) -> ClipVipCore:
    settings = golden_config().to_dict() | {"aggregator": aggregator}
    if aggregator in FRAMEWISE:
        settings["num_proxies"] = 1
    torch.manual_seed(0)
    model = ClipVipCore(ClipVipConfig(**settings)).eval()
    model.load_state_dict(golden_state(), strict=False)
    return model.requires_grad_(False)


def inputs(name: str, batch: int) -> Tensor:
    torch.manual_seed(batch)
    if name == "encode_video":
        return torch.randn(batch, 4, 3, 32, 32)
    ids = torch.randint(0, 98, (batch, 7))
    ids[:, 4:] = 99
    return ids


# the text tower does not depend on the aggregator
@pytest.mark.parametrize(
    ("aggregator", "name"), [*((each, "encode_video") for each in AGGREGATORS), ("vip", "encode_text")]
)
def test_exported_graphs_give_the_models_features(aggregator: str, name: str, tmp_path: Path) -> None:
    """Catches a batch size or a check of values that is baked into the graph, and an operator that ONNX lacks."""
    onnxruntime = pytest.importorskip("onnxruntime")
    model = model_of(aggregator)
    method, shapes = Method(model, name), {"given": {0: torch.export.Dim("batch", min=1, max=64)}}
    program = torch.export.export(method, (inputs(name, 2),), dynamic_shapes=shapes)
    graph = torch.onnx.export(program, dynamo=True, verbose=False)
    assert graph is not None
    graph.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 7):
        given = inputs(name, batch)
        expected = getattr(model, name)(given)
        torch.testing.assert_close(program.module()(given), expected, atol=1e-5, rtol=0)
        (found,) = session.run(None, {session.get_inputs()[0].name: given.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-5, rtol=0)


def test_a_text_without_end_is_nan_in_an_exported_graph() -> None:
    """Catches the embedding of a text's first token, which looks like any other."""
    model = model_of("vip")
    program = torch.export.export(Method(model, "encode_text"), (inputs("encode_text", 2),))
    ids = torch.tensor([[98, 5, 99, 99, 99, 99, 99], [98, 5, 7, 7, 7, 7, 7]])
    assert program.module()(ids).isnan().any(1).tolist() == [False, True]
