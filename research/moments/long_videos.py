"""Long videos of the synthetic world, to find moments in: events of 1 to 30 s among others, empty places between them.

`write_long_videos` writes videos/00.mp4 and so on, and events.jsonl: one clip per event, split "asked" or "other".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipvip.data import write_manifest
from clipvip.data.synthetic import (
    FPS,
    SCENES,
    Scenario,
    caption,
    draw_take,
    paint_scene,
    render_clip,
    render_frames,
    split_scenarios,
    write_video,
)
from clipvip.records import Clip

VIDEO_FRAMES = 600 * FPS
LENGTHS = (7, 16, 31, 61, 121, 241)
"""Frames of the events asked for, 0.9 to 30 s. Of F frames with F - 1 a multiple of 3, 4 uniform ones are the same set
when the event is played backwards: only their order shows which of two twins it is."""
SHARE_OF_EVENTS = 0.7
"""Of a video's time; in the rest nothing happens."""
SHORTEST_GAP = 4
_PLAN, _NOISE, _WORDS, _TAKES = range(20, 24)  # streams of random numbers that no other part of the world draws from


@dataclass(frozen=True, slots=True)
class Event:
    """A scenario that takes `length` frames. take: events of one number share their take and noise.

    backwards: shown as the reversal's frames from last to first. asked: a caption of it is a query.
    """

    name: str
    scenario: Scenario
    length: int
    take: int
    backwards: bool = False
    asked: bool = True
    twin: str | None = None


@dataclass(frozen=True, slots=True)
class LongVideo:
    """gaps: frames before each event and after the last; places: what is seen then."""

    events: tuple[Event, ...]
    gaps: tuple[int, ...]
    places: tuple[str, ...]

    def starts(self) -> list[int]:
        """The first frame of each event."""
        starts, now = [], 0
        for event, gap in zip(self.events, self.gaps, strict=False):
            starts.append(now + gap)
            now += gap + event.length
        return starts


def write_long_videos(world: Path, out: Path, seed: int = 0) -> list[Clip]:
    """Write videos of the world's test scenarios, with half as many scenarios of its training split in between.

    Every asked scenario occurs once in all videos; twins (see `Scenario.twin`) are in the same video, one the other's
    frames backwards. "still" is not asked for: parts of other events answer it too. Returns: what is in events.jsonl.
    """
    facts = json.loads((world / "world.json").read_text())
    splits = split_scenarios(facts["seed"], facts["size"]["val"], facts["size"]["test"])
    clips: list[Clip] = []
    (out / "videos").mkdir(parents=True, exist_ok=True)
    for number, video in enumerate(plan_long_videos(splits.test, splits.train, seed)):
        path = out / "videos" / f"{number:02d}.mp4"
        write_video(path, render_long_video(video, seed, number))
        for event, start in zip(video.events, video.starts(), strict=True):
            words = np.random.default_rng([seed, _WORDS, int(event.name[1:])])
            clips.append(
                Clip(
                    event.name,
                    video=path.absolute(),
                    captions=(caption(event.scenario, words),),
                    start_s=start / FPS,
                    end_s=(start + event.length) / FPS,
                    split="asked" if event.asked else "other",
                    extra={"event": event.scenario.event} | ({"twin": event.twin} if event.twin else {}),
                )
            )
    write_manifest(out / "events.jsonl", clips)
    return clips


def plan_long_videos(asked: Sequence[Scenario], others: Sequence[Scenario], seed: int) -> list[LongVideo]:
    """Which event is in which video, for how long, and when."""
    rng = np.random.default_rng([seed, _PLAN])
    units = _asked_units([scenario for scenario in asked if scenario.event != "still"], rng)
    count = sum(len(unit) for unit in units)
    for number in range(count, count + count // 2):
        length = round(float(np.exp(rng.uniform(np.log(LENGTHS[0]), np.log(LENGTHS[-1])))))
        units.append((Event(f"m{number:04d}", others[(number - count) % len(others)], length, number, asked=False),))

    spent = {unit: sum(event.length for event in unit) for unit in units}
    videos: list[list[Event]] = [[] for _ in range(-int(-sum(spent.values()) // (SHARE_OF_EVENTS * VIDEO_FRAMES)))]
    for unit in sorted(units, key=spent.__getitem__, reverse=True):  # the longest first, into the emptiest video
        min(videos, key=lambda events: sum(event.length for event in events)).extend(unit)
    return [_lay_out([events[i] for i in rng.permutation(len(events))], rng) for events in videos]


def _asked_units(asked: Sequence[Scenario], rng: np.random.Generator) -> list[tuple[Event, ...]]:
    """Twins together, the others alone; all lengths as often as each other."""
    pairs = {frozenset((scenario, scenario.twin)): scenario for scenario in asked}
    present, number = set(asked), 0
    units: list[tuple[Event, ...]] = []
    order = list(pairs.values())
    for place, i in enumerate(rng.permutation(len(order))):
        scenario, length = order[i], LENGTHS[place % len(LENGTHS)]
        names = f"m{number:04d}", f"m{number + 1:04d}"
        if scenario.twin in present:
            first = Event(names[0], scenario, length, number, twin=names[1])
            units.append((first, Event(names[1], scenario.twin, length, number, backwards=True, twin=names[0])))
        else:
            units.append((Event(names[0], scenario, length, number),))
        number += len(units[-1])
    return units


def _lay_out(events: Sequence[Event], rng: np.random.Generator) -> LongVideo:
    """Random gaps around the events; no place is that of a neighbour, or an object would seem to appear there."""
    free = VIDEO_FRAMES - sum(event.length for event in events) - SHORTEST_GAP * (len(events) + 1)
    cuts = np.sort(rng.integers(free + 1, size=len(events)))
    gaps = np.diff([0, *cuts, free]) + SHORTEST_GAP
    scenes = [_first_and_last_scene(event.scenario) for event in events]
    places = []
    for before, after in zip([None, *scenes], [*scenes, None], strict=True):
        near = {before[1] if before else "", after[0] if after else ""}
        choice = [scene for scene in SCENES if scene not in near]
        places.append(choice[int(rng.integers(len(choice)))])
    return LongVideo(tuple(events), tuple(gaps.tolist()), tuple(places))


def _first_and_last_scene(scenario: Scenario) -> tuple[str, str]:
    return scenario.scene, scenario.target if scenario.event == "rescene" else scenario.scene


def render_long_video(video: LongVideo, seed: int, number: int) -> np.ndarray:
    """All frames, uint8 [VIDEO_FRAMES, S, S, 3]. number: of the video; events look alike wherever they are."""
    rng = np.random.default_rng([seed, _NOISE, number])
    parts: list[np.ndarray] = []
    for event, gap, place in zip(video.events, video.gaps, video.places, strict=False):
        own = np.random.default_rng([seed, _TAKES, event.take])
        shown = event.scenario.twin if event.backwards else event.scenario
        # the same event in another time: its moments lie closer together or further apart, none is repeated
        frames = render_clip(shown, draw_take(own), own, np.linspace(0, 1, event.length).tolist())
        parts += [_empty_place(place, rng, gap), frames[::-1] if event.backwards else frames]
    return np.concatenate([*parts, _empty_place(video.places[-1], rng, video.gaps[-1])])


def _empty_place(scene: str, rng: np.random.Generator, num_frames: int) -> np.ndarray:
    """A place where nothing is and nothing happens, uint8 [num_frames, S, S, 3]: one frame, repeated."""
    return np.repeat(render_frames(paint_scene(scene, rng), [], rng), num_frames, axis=0)
