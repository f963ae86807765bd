"""What the losses promise beyond their values: several ranks, precision, errors, no wait of the host."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
import torch.nn.functional as F

from clipvip.errors import InputError, UsageError
from clipvip.losses import VARIANTS, contrastive_loss, inputs_of, omnisource_loss


def make_batch(variant, num_clips=6, dtype=torch.float64, seed=0):
    """Keyword arguments of `omnisource_loss` for a variant, masks included."""
    generator = torch.Generator().manual_seed(seed)

    def features():
        return F.normalize(torch.randn(num_clips, 8, generator=generator, dtype=torch.float64), dim=1).to(dtype)

    with_frame, with_caption = "f" in variant, "c" in variant
    return {
        "video": features(),
        "frame": features() if with_frame else None,
        "subtitle": features(),
        "caption": features() if with_caption else None,
        "logit_scale": torch.tensor(2.3, dtype=torch.float64),
        "variant": variant,
        "subtitle_mask": torch.arange(num_clips) % 3 != 1,
        "caption_mask": torch.arange(num_clips) % 4 != 2 if with_caption else None,
    }


def leaves_of(batch):
    """The batch with its floating-point tensors as leaves that want a gradient, and these leaves by name."""
    leaves = {
        key: value.clone().requires_grad_()
        for key, value in batch.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    return batch | leaves, leaves


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("sizes", [(3, 3), (1, 5)])
def test_two_ranks_give_the_gradients_of_one_process(variant, sizes):
    """Would catch positives misplaced on rank 1, a mean over local rows, masks that are not gathered, a wrong factor.

    Each rank is a thread; `gather` meets the other one and joins both tensors with their graphs, so backward of the
    sum of both losses is what a gather does whose backward sums over ranks. DDP then divides by their number.
    """
    whole = make_batch(variant)
    batch, expected = leaves_of(whole)
    loss = omnisource_loss(**batch)
    loss.backward()

    barrier, slots = Barrier(2, timeout=30), [None, None]
    parts = zip(*(v.split(sizes) if torch.is_tensor(v) and v.ndim else (v, v) for v in whole.values()), strict=True)
    ranks = [leaves_of(dict(zip(whole, part, strict=True))) for part in parts]

    def run(rank):
        def gather(tensor):
            slots[rank] = tensor
            barrier.wait()
            joined = torch.cat(slots)
            barrier.wait()  # nobody puts the next tensor in before both have read
            return joined

        return omnisource_loss(**ranks[rank][0], gather=gather)

    with ThreadPoolExecutor(2) as pool:
        losses = list(pool.map(run, range(2)))
    torch.testing.assert_close(losses[0], losses[1], atol=0, rtol=0)
    torch.testing.assert_close(losses[0], loss, atol=1e-12, rtol=0)
    sum(losses).backward()
    for name, leaf in expected.items():
        both = [leaves[name].grad for _, leaves in ranks]
        # Features: DDP's division. The parameter: DDP's average of the ranks' equal gradients.
        synced = torch.cat(both) / 2 if leaf.ndim else sum(both) / 2
        torch.testing.assert_close(synced, leaf.grad, atol=1e-12, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_loss_never_waits_for_the_device(variant):
    """Would catch `.item()`, an `if` on a value or boolean indexing: vmap refuses what needs values on the host."""
    batches = [make_batch(variant, seed=seed) for seed in range(3)]
    keys = [key for key, value in batches[0].items() if torch.is_tensor(value)]
    fixed = {key: value for key, value in batches[0].items() if key not in keys}
    stacked = [torch.stack([batch[key] for batch in batches]) for key in keys]
    losses = torch.vmap(lambda *values: omnisource_loss(**fixed, **dict(zip(keys, values, strict=True))))(*stacked)
    torch.testing.assert_close(losses, torch.stack([omnisource_loss(**batch) for batch in batches]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_order_of_clips_does_not_matter(variant):
    """Would catch a mask or positive that is taken at the wrong index."""
    batch = make_batch(variant)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    shuffled = {key: value[order] if torch.is_tensor(value) and value.ndim else value for key, value in batch.items()}
    torch.testing.assert_close(omnisource_loss(**batch), omnisource_loss(**shuffled))


@pytest.mark.parametrize("variant", VARIANTS)
def test_mean_is_half_of_sum(variant):
    """Would catch a mean over the terms, which would weigh variants differently from the released code."""
    batch = make_batch(variant)
    torch.testing.assert_close(
        2 * omnisource_loss(**batch, reduction="mean"), omnisource_loss(**batch, reduction="sum")
    )


def test_the_pair_loss_is_variant_vs():
    """Would catch masks, reductions or defaults that differ between the two entry points."""
    batch = make_batch("vs")
    pair = contrastive_loss(batch["video"], batch["subtitle"], batch["logit_scale"], mask=batch["subtitle_mask"])
    torch.testing.assert_close(pair, omnisource_loss(**batch), atol=0, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_any_text_the_loss_is_zero_with_a_graph(variant):
    """Would catch 0 / 0, a NaN on the way that trips anomaly mode, a constant without backward (DDP waits for it)."""
    batch, leaves = leaves_of(make_batch(variant))
    for name in ("subtitle", "caption"):
        if batch[name] is not None:
            batch[f"{name}_mask"] = torch.zeros(6, dtype=torch.bool)
    with torch.autograd.set_detect_anomaly(True):
        loss = omnisource_loss(**batch)
        loss.backward()
    assert loss == 0
    assert all((leaf.grad == 0).all() for leaf in leaves.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_compared_in_float32_under_autocast_too(dtype):
    """Would catch logits in bfloat16: at a scale of 100 they are rounded to steps of 0.5."""
    batch = make_batch("vsc+fc", dtype=dtype) | {"logit_scale": torch.tensor(math.log(100.0))}
    wide = {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in batch.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = omnisource_loss(**batch)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), omnisource_loss(**wide), atol=0, rtol=1e-5)


def test_the_largest_scale_does_not_overflow():
    """Would catch an exponential without its maximum taken off: exp(200) is infinite in float32."""
    features = torch.eye(4)
    logit_scale = torch.tensor(math.log(200.0), requires_grad=True)
    right = omnisource_loss(features, features, features, features, logit_scale)
    wrong = omnisource_loss(features, features.flip(0), features.flip(0), features, logit_scale)
    (right + wrong).backward()
    assert right < 1e-6
    assert 100 < wrong < math.inf
    assert logit_scale.grad.isfinite()


def test_an_unknown_variant_names_the_nearest_first():
    """Would catch a silent fallback for a misspelled variant."""
    with pytest.raises(UsageError, match=r"variant='vsc-fc': unknown; choose one of vsc\+fc, "):
        omnisource_loss(**make_batch("vs") | {"variant": "vsc-fc"})
    with pytest.raises(UsageError, match="reduction='average': unknown"):
        omnisource_loss(**make_batch("vs"), reduction="average")


@pytest.mark.parametrize(
    ("variant", "change", "message"),
    [
        ("vs+fc", {"frame": None}, "frame: missing; this loss compares caption, frame, subtitle, video"),
        ("vsc", {"caption": None, "caption_mask": None}, "caption: missing"),
        ("vs", {"caption": torch.ones(6, 8)}, "caption: given, but this loss compares only subtitle, video"),
        ("vs", {"caption_mask": torch.ones(6, dtype=torch.bool)}, "caption: given, but"),
        (
            "vs",
            {"subtitle": torch.ones(5, 8), "subtitle_mask": None},
            r"subtitle: float32 \[5, 8\], expected \[6, 8\] like",
        ),
        ("vsc+fc", {"frame": torch.ones(4, 8)}, r"caption: float64 \[6, 8\], expected \[4, 8\] like frame"),
        ("vs+vc", {"caption": torch.ones(6, 7)}, r"caption: float32 \[6, 7\], expected \[6, 8\] like video"),
        ("vs", {"video": torch.ones(6)}, r"video: float32 \[6\], expected floating-point features \[B, E\]"),
        ("vs", {"video": torch.ones(6, 8, dtype=torch.int64)}, r"video: int64 \[6, 8\]"),
        ("vs", {"subtitle_mask": torch.ones(6)}, r"mask of subtitle: float32 \[6\], expected bool \[6\]"),
        (
            "vs",
            {"subtitle_mask": torch.ones(4, dtype=torch.bool)},
            r"mask of subtitle: bool \[4\], expected bool \[6\]",
        ),
        ("vs", {"logit_scale": torch.ones(1)}, r"logit_scale: float32 \[1\], expected a floating-point scalar"),
    ],
)
def test_inputs_that_do_not_fit_are_named(variant, change, message):
    """Would catch broadcasting of a wrong shape, and a feature that is computed, passed and ignored."""
    with pytest.raises(InputError, match=message):
        omnisource_loss(**make_batch(variant) | change)


def test_the_inputs_of_a_variant_are_those_of_its_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches inputs that are read off the letters of a variant's name: "focal" has an f and a c, and needs neither."""
    expected = {
        "vs": {"video", "subtitle"},
        "vs+fc": {"video", "subtitle", "frame", "caption"},
        "vs+vc": {"video", "subtitle", "caption"},
        "vs+vc+fc": {"video", "subtitle", "frame", "caption"},
        "vsc+fc": {"video", "subtitle", "frame", "caption"},
        "vsc": {"video", "subtitle", "caption"},
    }
    assert {name: inputs_of(name) for name in VARIANTS} == expected
    monkeypatch.setitem(VARIANTS, "focal", VARIANTS["vs"])  # type: ignore[arg-type]
    assert inputs_of("focal") == {"video", "subtitle"}
