"""The small world: deterministic, no leaks, exact twins, an honest ceiling."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from clipvip.data.manifest import read_manifest
from clipvip.data.synthetic import (
    Scenario,
    all_scenarios,
    captioner_errors,
    make_world,
    order_blind_ceiling,
    split_scenarios,
)
from clipvip.data.synthetic.caption_truth import Shown, caption_errors, middle_frame
from clipvip.data.synthetic.clips import NUM_FRAMES, Take, draw_take, render_clip
from clipvip.data.synthetic.texts import VERBS, alt_text, auxiliary_caption, caption, subtitle, training_captions
from clipvip.video import read_frames, uniform_indices
from helpers_world import TINY


def digest(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_universe_is_closed_under_reversal() -> None:
    """Catches an event whose reversal is no event, or is described as another clip than it is."""
    universe = set(all_scenarios())
    assert len(universe) == len(all_scenarios()) == 1728
    for scenario in universe:
        assert scenario.twin in universe
        assert scenario.twin.twin == scenario
        assert (scenario.twin == scenario) == (scenario.event == "still")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_splits_share_no_scenario_and_half_of_a_gallery_are_twins(seed: int) -> None:
    """Catches test scenarios in training, and a gallery whose ceiling is not the stated one."""
    splits = split_scenarios(seed, 300, 500)
    assert (len(splits.val), len(splits.test)) == (300, 500)
    assert len({*splits.train, *splits.val, *splits.test}) == 1728
    for gallery in (splits.val, splits.test):
        half = len(gallery) // 2
        assert all(gallery[i].twin == gallery[i ^ 1] for i in range(half))
        assert not any(s.twin in gallery for s in gallery[half:] if s.event != "still")
        assert order_blind_ceiling(gallery) == 75.0


@pytest.mark.parametrize("event", [*VERBS, "recolor", "reshape", "rescene"])
def test_reversed_frames_show_the_twin(event: str) -> None:
    """Catches an event that, played backwards, is not what its twin's caption says (statistically: mean picture)."""
    scenario = next(s for s in all_scenarios() if s.event == event)
    take = draw_take(np.random.default_rng(0))
    backwards = render_clip(scenario, take, np.random.default_rng(1))[::-1].astype(float)
    mirrored = take.__class__(take.x, take.y, take.radius, 1 - take.cut)
    twin = render_clip(scenario.twin, mirrored, np.random.default_rng(1)).astype(float)
    inner = [i for i in range(NUM_FRAMES) if abs(i / (NUM_FRAMES - 1) - (1 - take.cut)) > 0.05]
    if event == "rescene":  # textures are drawn anew, in the order of the scenes: compare their colours only
        backwards, twin = backwards.mean(axis=(1, 2), keepdims=True), twin.mean(axis=(1, 2), keepdims=True)
    difference = np.abs(backwards - twin)[inner].mean(axis=(1, 2, 3))
    assert difference.max() < 6, difference.round(1)
    assert scenario.event == "still" or caption(scenario, np.random.default_rng(0)) != caption(
        scenario.twin, np.random.default_rng(0)
    )


def test_uniform_frames_of_a_reversed_clip_are_the_same_set() -> None:
    """Catches a frame count for which sampling itself would tell a clip from its reversal."""
    indices = uniform_indices(NUM_FRAMES, 4)
    assert sorted(NUM_FRAMES - 1 - indices) == indices.tolist()


def test_auxiliary_captions_tell_no_motion_and_err_sometimes() -> None:
    """Catches motion words in what is to be an image caption, and captions too perfect for a machine."""
    rng = np.random.default_rng(0)
    verbs = {phrase.split()[-1 if phrase.startswith("does") else 0] for verb in VERBS.values() for phrase in verb}
    verbs |= {"turns", "becomes", "then", "later"}
    wrong = 0
    universe = all_scenarios()
    for _ in range(2000):
        scenario = universe[int(rng.integers(len(universe)))]
        said = auxiliary_caption(scenario, draw_take(rng), rng)
        assert not verbs & set(said.split()), said
        names = ("circle", "disc", "square", "box", "triangle", "wedge", "cross", "plus sign")
        told = next((name for name in names if name in said), None)
        own = {"circle": names[:2], "square": names[2:4], "triangle": names[4:6], "cross": names[6:]}
        wrong += told is not None and scenario.event != "reshape" and told not in own[scenario.shape]
    assert 40 < wrong < 140


def test_same_seed_same_files_other_seed_other_files(tmp_path: Path) -> None:
    """Catches worlds that depend on scheduling, and a marker that keeps a world of another seed."""
    first = make_world(tmp_path / "a", seed=3, size=TINY)
    make_world(tmp_path / "b", seed=3, size=TINY)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    stamp = (tmp_path / "a" / "retrieval.jsonl").stat().st_mtime_ns
    assert make_world(tmp_path / "a", seed=3, size=TINY) == first
    assert (tmp_path / "a" / "retrieval.jsonl").stat().st_mtime_ns == stamp, "a complete world was made again"
    make_world(tmp_path / "a", seed=4, size=TINY)
    assert digest(tmp_path / "a") != digest(tmp_path / "b")
    assert json.loads((tmp_path / "a" / "world.json").read_text())["seed"] == 4

    clips = read_manifest(tmp_path / "b" / "retrieval.jsonl", split="test")
    pairs = [clip for clip in clips if "twin" in clip.extra]
    assert len(pairs) == 6
    by_id = {clip.clip_id: clip for clip in clips}
    for clip in pairs:
        twin = by_id[clip.extra["twin"]]
        assert twin.extra["twin"] == clip.clip_id
        forwards = read_frames(clip.path, range(NUM_FRAMES)).astype(float)
        backwards = read_frames(twin.path, range(NUM_FRAMES))[::-1].astype(float)
        assert np.abs(forwards - backwards).mean() < 5, "beyond what H.264 loses"


@pytest.mark.parametrize(
    ("event", "target", "before", "after"),
    [
        ("still", "", ("cross", "red"), ("cross", "red")),
        ("appear", "", ("", ""), ("cross", "red")),
        ("disappear", "", ("cross", "red"), ("", "")),
        ("recolor", "blue", ("cross", "red"), ("cross", "blue")),
        ("reshape", "circle", ("cross", "red"), ("circle", "red")),
    ],
)
def test_the_middle_frame_is_before_or_after_the_change(
    event: str, target: str, before: tuple[str, str], after: tuple[str, str]
) -> None:
    """Catches a captioner's error counted, or not counted, because the truth is that of another moment."""
    scenario = Scenario("cross", "red", "night", event, target)
    assert middle_frame(scenario, Take(24, 24, 10, 0.55))[:2] == before
    assert middle_frame(scenario, Take(24, 24, 10, 0.45))[:2] == after


def test_errors_of_captions_are_counted_by_kind() -> None:
    """Catches a wrong word taken for a right one, and right ones for wrong (synonyms, "box" in "boxer")."""
    words = {
        "shape": {"square": ("square", "box"), "circle": ("circle",)},
        "color": {"red": ("red",), "blue": ("blue",)},
        "scene": {"night": ("at night", "in the dark"), "street": ("on the street",)},
    }
    square, nothing = Shown("square", "red", "night"), Shown("", "", "street")
    captions = [
        ("A red box at night", square),
        ("a red circle in the dark", square),
        ("a blue boxer on the street", square),
        ("a red square and a circle at night", square),
        ("an empty place on the street", nothing),
        ("a circle on the street", nothing),
    ]
    assert caption_errors(captions, words) == {"shape": 3 / 4, "color": 1 / 4, "scene": 1 / 6, "invented": 1 / 2}


def test_the_worlds_own_captions_err_on_shapes_alone(tmp_path: Path) -> None:
    """Catches truths of other clips than the manifest's: colours and scenes would be wrong as well."""
    make_world(tmp_path / "world", seed=3, size=TINY)
    errors = captioner_errors(tmp_path / "world", tmp_path / "world" / "pretrain.jsonl")
    assert errors == {"shape": pytest.approx(0.05, abs=0.15), "color": 0, "scene": 0, "invented": 0}


def test_frames_and_texts_of_a_seed_stay_the_same() -> None:
    """Catches a change of the world that makes stored models and figures of the demo those of another world.

    Frames before they are encoded: files depend on the build of FFmpeg.
    """
    frames, words, universe = hashlib.sha256(), hashlib.sha256(), all_scenarios()
    for number, scenario in enumerate(universe[::29]):
        rng = np.random.default_rng([0, number])
        take = draw_take(rng)
        frames.update(render_clip(scenario, take, rng).tobytes())
        said = [caption(scenario, rng), *training_captions(scenario, rng), auxiliary_caption(scenario, take, rng)]
        said += [alt_text(scenario, take, rng), subtitle(scenario, universe, rng)]
        words.update("".join(said).encode())
    assert {scenario.event for scenario in universe[::29]} == {scenario.event for scenario in universe}
    assert (frames.hexdigest()[:16], words.hexdigest()[:16]) == ("2281f21c6f841033", "863ff27c89bcde9a")
