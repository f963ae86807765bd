"""The small synthetic world: real video files and manifests on which the whole method trains in minutes.

`make_world` writes

    images/, images.jsonl                     still images with alt texts (for the image-text warm start)
    pretrain/, pretrain.jsonl                 videos with noisy subtitles and auxiliary captions (post-pre-training)
    train/, val/, test/, retrieval.jsonl      videos with captions; `twin` names a clip's reversal in the same split
    world.json                                seed, sizes, order-blind ceiling; written last, it means complete
"""

from clipvip.data.synthetic.make import SMOKE, WorldSize, captioner_errors, make_world
from clipvip.data.synthetic.render import FPS, NUM_FRAMES, draw_take, render_clip, render_place, write_video
from clipvip.data.synthetic.texts import caption
from clipvip.data.synthetic.world import (
    COLORS,
    SCENES,
    SHAPES,
    Scenario,
    all_scenarios,
    order_blind_ceiling,
    split_scenarios,
)

__all__ = [
    "COLORS",
    "FPS",
    "NUM_FRAMES",
    "SCENES",
    "SHAPES",
    "SMOKE",
    "Scenario",
    "WorldSize",
    "all_scenarios",
    "caption",
    "captioner_errors",
    "draw_take",
    "make_world",
    "order_blind_ceiling",
    "render_clip",
    "render_place",
    "split_scenarios",
    "write_video",
]
