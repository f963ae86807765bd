"""What the model costs: floating-point operations as pure functions of its configuration.

Matrix products alone are counted, two operations a multiply-add, and of them only those that this model needs: patches
see their own frame and the proxies, the last block has outputs for one token alone. Recomputation (activation
checkpointing, gradient caching) is not counted, so that operations per second over a machine's rate is the usual MFU.

Shapes: T frames, L patches a frame, M proxies, S tokens of a text, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from clipvip.model.configuration_clipvip import FRAMEWISE, ClipVipConfig, TowerConfig


@dataclass(frozen=True, slots=True)
class Products:
    """`count` linear layers of one shape: [rows, inputs] -> [rows, outputs]."""

    rows: int
    inputs: int
    outputs: int
    count: int = 1

    @property
    def flops(self) -> float:
        """Floating-point operations of all of them, forward."""
        return 2.0 * self.rows * self.inputs * self.outputs * self.count


def vision_layers(config: ClipVipConfig, num_frames: int, batch: int = 1) -> list[Products]:
    """The linear layers of the vision tower, patch embedding first; projection and attention are not among them."""
    vision = config.vision
    sequences, frames, num_patches, num_tokens = _vision_shape(config, num_frames, batch)
    return [
        Products(sequences * frames * num_patches, vision.num_channels * vision.patch_size**2, vision.hidden_size),
        *_blocks(vision, sequences, num_tokens, pruned=True),
    ]


def video_flops(config: ClipVipConfig, num_frames: int, *, training: bool = False) -> float:
    """Operations for the embedding of one clip of `num_frames` frames, T = 1 being an image; projection included.

    training: forward and backward. A product's backward pass is two of its size, save that pixels want no gradient.
    """
    patches, *blocks = vision_layers(config, num_frames)
    sequences, frames, num_patches, num_tokens = _vision_shape(config, num_frames, batch=1)
    num_proxies = 1 + config.num_added_proxies
    pairs = num_tokens**2
    if config.aggregator == "vip":
        pairs = num_proxies * num_tokens + frames * num_patches * (num_proxies + num_patches)
    forward = patches.flops + sum(layers.flops for layers in blocks)
    forward += sequences * _attention(config.vision, (config.vision.num_hidden_layers - 1) * pairs + num_tokens)
    forward += Products(sequences, config.vision.hidden_size, config.projection_dim).flops
    if config.aggregator == "transformer":
        temporal = config.temporal
        forward += sum(layers.flops for layers in _blocks(temporal, 1, num_frames, pruned=False))
        forward += _attention(temporal, temporal.num_hidden_layers * num_frames**2)
    return 3 * forward - patches.flops if training else forward


def text_flops(config: ClipVipConfig, num_tokens: int, *, training: bool = False) -> float:
    """Operations for the embedding of one text of a batch that is `num_tokens` long, padding included.

    Causal attention counts all S x S pairs, as torch's own counter does, although nearly half are masked.
    """
    text = config.text
    forward = sum(layers.flops for layers in _blocks(text, 1, num_tokens, pruned=True))
    forward += _attention(text, (text.num_hidden_layers - 1) * num_tokens**2 + num_tokens)
    forward += Products(1, text.hidden_size, config.projection_dim).flops
    return 3 * forward if training else forward


def training_flops(
    config: ClipVipConfig, num_frames: int, num_tokens: int, *, frame: bool = False, caption: bool = False
) -> float:
    """Operations of a training step, forward and backward, for one clip of its batch; the loss is not counted.

    num_tokens: S of the step's texts. frame, caption: whether the loss variant has F, the middle frame, and C, a
    second text, which is padded to the same length.
    """
    video = video_flops(config, num_frames, training=True)
    middle = video_flops(config, 1, training=True) if frame else 0.0
    return video + middle + (2 if caption else 1) * text_flops(config, num_tokens, training=True)


def _vision_shape(config: ClipVipConfig, num_frames: int, batch: int) -> tuple[int, int, int, int]:
    """How the vision tower sees a batch: (sequences, frames in each, L, tokens in each)."""
    if config.aggregator in FRAMEWISE:
        batch, num_frames = batch * num_frames, 1
    num_patches = (config.vision.image_size // config.vision.patch_size) ** 2
    return batch, num_frames, num_patches, 1 + config.num_added_proxies + num_frames * num_patches


def _blocks(tower: TowerConfig, sequences: int, num_tokens: int, *, pruned: bool) -> list[Products]:
    """The linear layers of a stack of blocks. pruned: the last block has outputs for one token of each sequence."""
    width, hidden, rows = tower.hidden_size, tower.intermediate_size, sequences * num_tokens
    full = tower.num_hidden_layers - pruned
    layers = [
        Products(rows, width, width, 4 * full + (2 if pruned else 0)),  # query, key, value, out; the last key and value
        Products(rows, width, hidden, full),
        Products(rows, hidden, width, full),
    ]
    if pruned:
        layers += [
            Products(sequences, width, width, 2),
            Products(sequences, width, hidden),
            Products(sequences, hidden, width),
        ]
    return layers


def _attention(tower: TowerConfig, pairs: int) -> float:
    """Operations for `pairs` of a query and a key that see each other: a score and a weighted value, D wide."""
    return 4.0 * tower.hidden_size * pairs
