"""The losses against the released code's recordings, and against slow loops written from the formulas."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clipvip.losses import VARIANTS, contrastive_loss, omnisource_loss

GOLDEN = {
    key.removeprefix("loss."): value
    for key, value in load_file(Path(__file__).parents[1] / "data" / "io.safetensors").items()
    if key.startswith("loss.")
}
RECORDED = {"vs": "vs", "vs+fc": "a", "vs+vc": "b", "vs+vc+fc": "c", "vsc+fc": "d", "vsc": "vsc"}
INPUTS = ("vis", "img", "text", "cap", "logit_scale")  # in the order of omnisource_loss's arguments


def official_arguments(variant, dtype):
    """Leaves [video, frame, subtitle, caption, logit_scale], None where the variant has no use for one."""
    used = (
        {"vis", "text", "logit_scale"} | ({"img"} if "f" in variant else set()) | ({"cap"} if "c" in variant else set())
    )
    return [GOLDEN[f"input.{name}"].to(dtype, copy=True).requires_grad_() if name in used else None for name in INPUTS]


def test_every_variant_is_recorded():
    """Would catch a variant that no parity test covers."""
    assert set(VARIANTS) == set(RECORDED)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-6)])
@pytest.mark.parametrize("variant", RECORDED)
def test_values_and_gradients_equal_the_released_ones(variant, dtype, tolerance):
    """Would catch a wrong denominator (the other positive kept, one source's negatives lost), weight, pair or scale."""
    arguments = official_arguments(variant, dtype)
    loss = omnisource_loss(*arguments, variant=variant, reduction="sum")
    loss.backward()
    suffix = ".fp64" if dtype == torch.float64 else ""
    recorded = RECORDED[variant]
    torch.testing.assert_close(loss, GOLDEN[f"{recorded}.value{suffix}"], atol=tolerance, rtol=tolerance)
    for name, leaf in zip(INPUTS, arguments, strict=True):
        if leaf is not None:
            expected = GOLDEN[f"{recorded}.grad.{name}{suffix}"]
            torch.testing.assert_close(
                leaf.grad, expected, atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_the_pair_loss_equals_the_released_one():
    """Would catch a second implementation of L_VS drifting from the variant "vs"."""
    video, _, text, _, logit_scale = official_arguments("vs", torch.float64)
    loss = contrastive_loss(video, text, logit_scale, reduction="sum")
    torch.testing.assert_close(loss, GOLDEN["vs.value.fp64"], atol=1e-10, rtol=0)


# The oracle: sums of exponentials, one scalar at a time, rows and columns picked by Python conditions.


def mean_nll(rows):
    """rows: (positive, [denominator scalars]) each; the mean of -log(e^positive / sum of e^denominator), 0 if none."""
    losses = [-torch.log(p.exp() / sum(other.exp() for other in denominator)) for p, denominator in rows]
    return sum(losses) / len(losses) if losses else 0.0


def loop_pair(visual, text, valid, tau):
    """Both directions of a pair loss; masked texts are no rows and no columns, visuals are always columns."""
    n = range(len(visual))
    score = [[visual[i] @ text[j] / tau for j in n] for i in n]
    return [
        mean_nll([(score[i][i], [score[i][j] for j in n if valid[j]]) for i in n if valid[i]]),
        mean_nll([(score[i][i], [score[j][i] for j in n]) for i in n if valid[i]]),
    ]


def loop_joint(video, subtitle, caption, s_valid, c_valid, tau):
    """L_V,SC: each positive against itself and all texts of other clips, then s -> V and c -> V."""
    n = range(len(video))

    def other_texts(i):
        return [video[i] @ subtitle[j] / tau for j in n if j != i and s_valid[j]] + [
            video[i] @ caption[j] / tau for j in n if j != i and c_valid[j]
        ]

    def video_to(text, valid):
        positives = {i: video[i] @ text[i] / tau for i in n if valid[i]}
        return mean_nll([(positive, [positive, *other_texts(i)]) for i, positive in positives.items()])

    return [
        video_to(subtitle, s_valid),
        video_to(caption, c_valid),
        loop_pair(video, subtitle, s_valid, tau)[1],
        loop_pair(video, caption, c_valid, tau)[1],
    ]


def loop_loss(video, frame, subtitle, caption, logit_scale, s_valid, c_valid, variant):
    """The plain sum of a variant's cross-entropies."""
    tau = 1 / logit_scale.exp()
    parts = variant.split("+")
    terms = []
    if "vs" in parts:
        terms += loop_pair(video, subtitle, s_valid, tau)
    if "vc" in parts:
        terms += loop_pair(video, caption, c_valid, tau)
    if "vsc" in parts:
        terms += loop_joint(video, subtitle, caption, s_valid, c_valid, tau)
    if "fc" in parts:
        terms += loop_pair(frame, caption, c_valid, tau)
    return sum(terms)


MASKS = {
    "all": ([1, 1, 1, 1, 1], [1, 1, 1, 1, 1]),
    "some": ([1, 0, 1, 1, 0], [0, 0, 1, 1, 1]),
    "one left": ([0, 0, 0, 1, 0], [1, 0, 0, 0, 0]),
    "no caption": ([1, 1, 0, 1, 1], [0, 0, 0, 0, 0]),
}


@pytest.mark.parametrize("fill", [math.nan, 0.0])
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_masked_losses_and_gradients_equal_slow_loops(variant, masks, fill):
    """Would catch a masked text left in a denominator, a mean over all rows, NaN of a masked row in a gradient."""
    check_against_loops(variant, *MASKS[masks], num_frames=5, fill=fill)


@pytest.mark.parametrize("num_frames", [1, 3, 8])
def test_frames_and_captions_of_an_image_set_may_have_their_own_batch(num_frames):
    """Would catch a frame term tied to the video batch, so that an image-text set could not be mixed in."""
    check_against_loops(
        "vs+fc", [1, 0, 1, 1, 1], [1, 1, 0, 1, 1, 0, 1, 1][:num_frames], num_frames=num_frames, fill=0.0
    )


def check_against_loops(variant, s_valid, c_valid, *, num_frames, fill):
    """Value and every gradient of a seeded batch of 5 clips; masked texts hold `fill`."""
    generator = torch.Generator().manual_seed(sum(map(ord, variant)) + num_frames)
    sizes = {"video": 5, "frame": num_frames, "subtitle": 5, "caption": num_frames}
    features = {
        name: torch.nn.functional.normalize(torch.randn(size, 4, generator=generator, dtype=torch.float64), dim=1)
        for name, size in sizes.items()
    }
    masks = {"subtitle": torch.tensor(s_valid, dtype=torch.bool), "caption": torch.tensor(c_valid, dtype=torch.bool)}
    for name, mask in masks.items():
        features[name][~mask] = fill
    used = {"video", "subtitle"} | ({"frame"} if "f" in variant else set()) | ({"caption"} if "c" in variant else set())

    def leaves():
        arguments = [value.clone().requires_grad_() if name in used else None for name, value in features.items()]
        return [*arguments, torch.tensor(1.7, dtype=torch.float64, requires_grad=True)]

    fast, slow = leaves(), leaves()
    loss = omnisource_loss(
        *fast,
        variant=variant,
        reduction="sum",
        subtitle_mask=masks["subtitle"],
        caption_mask=masks["caption"] if "caption" in used else None,
    )
    expected = loop_loss(*slow, s_valid, c_valid, variant)
    torch.testing.assert_close(loss, expected, atol=1e-12, rtol=1e-12)
    loss.backward()
    expected.backward()
    for ours, theirs in zip(fast, slow, strict=True):
        if ours is not None:
            wanted = torch.zeros_like(ours) if theirs.grad is None else theirs.grad
            torch.testing.assert_close(ours.grad, wanted, atol=1e-12, rtol=1e-12)
