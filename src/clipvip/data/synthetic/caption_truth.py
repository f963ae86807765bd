"""What the middle frame of a clip shows, and how often captions of it are wrong."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from clipvip.data.synthetic.clips import Take
from clipvip.data.synthetic.world import Scenario


class Shown(NamedTuple):
    """Of one frame. shape, color: "" where there is no object."""

    shape: str
    color: str
    scene: str


def middle_frame(scenario: Scenario, take: Take) -> Shown:
    """What the frame at half the clip's length shows."""
    shown = Shown(scenario.shape, scenario.color, scenario.scene)
    is_after = take.cut <= 0.5
    match scenario.event:
        case "appear" if not is_after:
            return shown._replace(shape="", color="")
        case "disappear" if is_after:
            return shown._replace(shape="", color="")
        case "recolor" if is_after:
            return shown._replace(color=scenario.target)
        case "reshape" if is_after:
            return shown._replace(shape=scenario.target)
        case "rescene" if is_after:
            return shown._replace(scene=scenario.target)
    return shown


def caption_errors(
    captions: Iterable[tuple[str, Shown]], words: Mapping[str, Mapping[str, Collection[str]]]
) -> dict[str, float]:
    """Shares of captions, each with what the frame shows, that have the wrong "shape", "color" or "scene".

    Wrong is another word as well as none or two. words: for each of the three, the phrases of each value. Frames
    without an object count for the scene only; "invented" is the share of them whose caption names a shape.
    """
    wrong = dict.fromkeys(words, 0)
    num, num_empty, invented = 0, 0, 0
    for caption, shown in captions:
        text = f" {caption.lower()} "
        said = {
            name: {value for value, phrases in of.items() if any(f" {phrase} " in text for phrase in phrases)}
            for name, of in words.items()
        }
        num += 1
        wrong["scene"] += said["scene"] != {shown.scene}
        if shown.shape:
            wrong["shape"] += said["shape"] != {shown.shape}
            wrong["color"] += said["color"] != {shown.color}
        else:
            num_empty += 1
            invented += bool(said["shape"])
    with_object = max(1, num - num_empty)
    return {
        "shape": wrong["shape"] / with_object,
        "color": wrong["color"] / with_object,
        "scene": wrong["scene"] / max(1, num),
        "invented": invented / max(1, num_empty),
    }
