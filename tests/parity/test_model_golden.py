"""Our towers against recorded outputs of the released code, in float64 (the recording is float32)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clipvip.losses import omnisource_loss
from clipvip.model import ClipVipModel
from clipvip.training.step import decayed, lr_factor
from helpers_golden import golden, golden_model, our_name, tensors

TEXT_CASES = ("padeos", "pad0", "nopad", "long70", "full77")


@pytest.fixture(scope="module")
def model() -> ClipVipModel:
    return golden_model()


def assert_recorded(ours: Tensor, name: str) -> None:
    """Within ten times the distance the released code itself has between float32 and float64."""
    tolerance = 10 * golden()["fp32_vs_fp64_max_abs_diff"][name]
    torch.testing.assert_close(ours, tensors()[name].double(), atol=tolerance, rtol=0)


@pytest.mark.parametrize("num_frames", [1, 2, 4, 7])
def test_vision_tower(model: ClipVipModel, num_frames: int) -> None:
    """Catches any slip in token order, positions, interpolation, the attention pattern or pooling, by stage."""
    name = f"vision.T{num_frames}"
    pixels = tensors()[f"{name}.pixel_values"].double()
    vision, first = model.vision_model, []
    hook = vision.encoder.layers[0].register_forward_hook(lambda _, __, output: first.append(output))
    with torch.no_grad():
        assert_recorded(vision.embeddings(pixels), f"{name}.pre_ln_embeddings")
        last = vision.hidden_states(pixels)
        assert_recorded(last, f"{name}.last_hidden_state")
        assert_recorded(first[0], f"{name}.hidden_after_layer1")
        pooled = vision(pixels)
        assert_recorded(pooled, f"{name}.pooler_output")
        assert_recorded(model.encode_video(pixels, normalize=False), f"{name}.raw_features")
        assert_recorded(model.encode_video(pixels), f"{name}.embeds")
    hook.remove()


def test_image_shape_is_one_frame(model: ClipVipModel) -> None:
    """Catches images taken for videos: [B, 3, H, W] must be T = 1."""
    pixels = tensors()["vision.T1.pixel_values"].double()
    with torch.no_grad():
        assert_recorded(model.encode_video(pixels[:, 0]), "vision.T1.embeds")


@pytest.mark.parametrize("case", TEXT_CASES)
@pytest.mark.parametrize("with_mask", [True, False])
def test_text_tower(model: ClipVipModel, case: str, with_mask: bool) -> None:
    """Catches pooling at the wrong token, padding that leaks in, or trimming that cuts a real token."""
    name = f"text.{case}"
    ids, mask = tensors()[f"{name}.input_ids"], tensors()[f"{name}.attention_mask"]
    with torch.no_grad():
        raw = model.encode_text(ids, mask if with_mask else None, normalize=False)
        assert_recorded(raw, f"{name}.raw_features")
        assert_recorded(model.text_model(ids), f"{name}.pooler_output")
        assert_recorded(model.encode_text(ids, mask if with_mask else None), f"{name}.embeds")
        states = model.text_model.hidden_states(ids)
    real = mask.bool()  # the released code also masks padding keys, which only padding positions can notice
    expected = tensors()[f"{name}.last_hidden_state"].double()
    tolerance = 10 * golden()["fp32_vs_fp64_max_abs_diff"][f"{name}.last_hidden_state"]
    torch.testing.assert_close(states[real], expected[real], atol=tolerance, rtol=0)


def test_gradient_of_loss_d_for_every_parameter(model: ClipVipModel) -> None:
    """Catches dead or doubled gradient paths: the last block's pruning, shared towers, the temperature."""
    recorded = tensors()
    video = model.encode_video(recorded["joint.video"].double())
    frame = model.encode_video(recorded["joint.image"].double())
    subtitle = model.encode_text(recorded["joint.text_input_ids"], recorded["joint.text_input_mask"])
    caption = model.encode_text(recorded["joint.caption_ids"][:, 0], recorded["joint.caption_masks"][:, 0])
    loss = omnisource_loss(video, frame, subtitle, caption, model.logit_scale, variant="vsc+fc", reduction="sum")
    assert loss.item() == pytest.approx(golden()["joint_loss_d_fp64"], rel=1e-9)
    model.zero_grad()
    loss.backward()
    ours = {name: parameter.grad for name, parameter in model.named_parameters()}
    expected = {our_name(name.removeprefix("grad.")): grad for name, grad in tensors("joint_grads").items()}
    assert ours.keys() == expected.keys()
    for name, grad in ours.items():
        assert grad is not None, name
        reference = expected[name].double().reshape(grad.shape)
        if name.endswith("k_proj.bias"):  # zero in exact arithmetic: softmax ignores what all keys share
            assert grad.abs().max() < 1e-9, name
            continue
        error = (grad - reference).norm() / reference.norm()
        assert error < 1e-5, f"{name}: relative error {error:.2e}"


def test_learning_rate_schedule() -> None:
    """Catches off-by-one warm-up or cosine. The released code turns the last step's exact 0 into 1e-8."""
    recorded = golden()["lr_sched_cosine"]
    for step, lr in recorded["lr_at_step"].items():
        ours = recorded["base_lr"] * lr_factor(int(step), recorded["num_train_steps"], recorded["warmup_ratio"])
        assert ours == pytest.approx(lr, rel=1e-6, abs=1.0001e-8 if int(step) == recorded["num_train_steps"] else 0)


def test_released_decay_groups(model: ClipVipModel) -> None:
    """Catches a drift of decay="released" from the groups the released optimiser really made."""
    groups = golden()["optimizer_groups"]
    decay = {our_name(name) for name in groups["decay"]}
    ours = {name for name, parameter in model.named_parameters() if decayed(name, parameter, "released")}
    assert ours == decay
