"""The synthetic world: real video files and manifests on which the whole method trains in minutes.

`make_world` writes

    images/, images.jsonl                     still images with alt texts (for the image-text warm start)
    pretrain/, pretrain.jsonl                 videos with noisy subtitles and auxiliary captions (post-pre-training)
    train/, val/, test/, retrieval.jsonl      videos with captions; `twin` names a clip's reversal in the same split
    world.json                                seed, sizes, order-blind ceiling; written last, it means complete

`render` and `write_world` take descriptions: other worlds, such as that of the study in `research/`, are made of them.
"""

from clipvip.data.synthetic.clips import FPS, NUM_FRAMES, draw_take, paint_scene, render_clip
from clipvip.data.synthetic.make import SMOKE, WorldSize, captioner_errors, make_world, write_world
from clipvip.data.synthetic.render import (
    SIZE,
    Sprite,
    paint_background,
    paint_stripes,
    render_frames,
    shape_depth,
    write_image,
    write_video,
)
from clipvip.data.synthetic.texts import caption, misname, pick, speak
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
    "COLORS", "FPS", "NUM_FRAMES", "SCENES", "SHAPES", "SIZE", "SMOKE", "Scenario", "Sprite", "WorldSize",
    "all_scenarios", "caption", "captioner_errors", "draw_take", "make_world", "misname", "order_blind_ceiling",
    "paint_background", "paint_scene", "paint_stripes", "pick", "render_clip", "render_frames", "shape_depth", "speak",
    "split_scenarios", "write_image", "write_video", "write_world",
]  # fmt: skip
