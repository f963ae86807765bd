"""The study's world: what is said to be invisible is, to the pixel and through the codec; ceilings are true."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipvip.data.synthetic import write_video
from clipvip.evaluation import retrieval_ranks
from clipvip.training import load_recipe
from clipvip.video import read_frames, uniform_indices
from study import texts
from study.ceilings import OBSERVERS, ceilings
from study.families import FAMILIES
from study.stages import RECIPES, recipe_of
from study.views import FPS, INTRA, View, World, WorldSize, make_world, view_clips, world_files
from study.world import M_TWIN, O_TWIN, all_scenarios, draw_take, galleries, phase, render_clip, take_groups

TINY = WorldSize(images=8, pretrain=12, train=10, val=1, test=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Path]:
    """A complete world with few clips to train on."""
    world, folder = World("A", 3, size=TINY), tmp_path_factory.mktemp("world")
    make_world(world, folder)
    return world, folder


@pytest.mark.parametrize("name", FAMILIES)
def test_twins_are_the_same_frames_in_another_order(name: str) -> None:
    """Catches anything in a frame that tells of its neighbours: then one frame would show motion or order."""
    family = FAMILIES[name]
    rng = np.random.default_rng(0)
    for scenario in rng.permutation(np.array(all_scenarios(family, None), object))[:24]:
        take = draw_take(scenario, family, rng)
        frames = render_clip(scenario, take, family)
        assert np.array_equal(render_clip(scenario.twin("M", family), take, family), frames[list(M_TWIN)])
        assert np.array_equal(render_clip(scenario.twin("O", family), take, family), frames[list(O_TWIN)])
        assert len({frame.tobytes() for frame in frames}) == 4


def test_objects_that_all_turn_round_are_the_same_frames_too() -> None:
    """Catches a start of several objects for which a bag of frames shows the common motion."""
    family = FAMILIES["A"]
    for scenario in all_scenarios(family, 2):
        take = draw_take(scenario, family, np.random.default_rng(1))
        turned = render_clip(scenario.twin("M", family), take, family)
        assert np.array_equal(turned, render_clip(scenario, take, family)[list(M_TWIN)])


def test_the_codec_gives_nothing_away(tmp_path: Path) -> None:
    """Catches prediction between frames: the same picture must be decoded to the same pixels wherever it stands."""
    family = FAMILIES["A"]
    scenario = all_scenarios(family, None)[5]
    frames = render_clip(scenario, draw_take(scenario, family, np.random.default_rng(2)), family)
    write_video(tmp_path / "a.mp4", frames, FPS, INTRA)
    write_video(tmp_path / "b.mp4", frames[list(O_TWIN)], FPS, INTRA)
    there, other = read_frames(tmp_path / "a.mp4", range(4)), read_frames(tmp_path / "b.mp4", range(4))
    assert np.array_equal(there[list(O_TWIN)], other)
    assert np.abs(there.astype(int) - frames).mean() < 6


def test_every_stage_samples_the_four_frames_that_are_there() -> None:
    """Catches a recipe of the study with jitter or another number of frames: it would break the construction."""
    assert uniform_indices(4, 4).tolist() == [0, 1, 2, 3]
    assert len(RECIPES) == 6
    for name in RECIPES:
        extra = ["data.mix.0.data=y"] if "mixed" in name else []
        file, overrides = recipe_of(name)
        recipe = load_recipe(file, [*overrides, "data.train=x", *extra])
        assert (recipe.data.jitter, recipe.model.num_frames, recipe.data.val, recipe.train.select) == (
            False, 4, None, "last",
        )  # fmt: skip


def test_ceilings_of_a_bag_and_of_all_frames_are_what_counting_says() -> None:
    """Catches an error in the ceilings: 2 motions x 2 orders share a bag, 6 orders and 2 motions an object."""
    found = {asked: ceilings(FAMILIES["A"], asked) for asked in ("A", "M", "AO", "AMO")}
    for asked, of in found.items():
        assert list(of) == list(OBSERVERS)
        assert of["all frames"]["R@1"] == pytest.approx(100)
        hidden = 2.0 ** len(set(asked) & {"M", "O"})
        assert of["bag of frames"]["R@1"] == pytest.approx(100 / hidden)
        assert of["one frame"]["R@1"] <= of["bag of frames"]["R@1"] + 1e-9
        for observer in ("one frame", "bag of frames"):
            assert all(of[observer][twin] == pytest.approx(50) for twin in set(asked) & {"M", "O"})
        assert "A" not in asked or of["one frame"]["A"] == pytest.approx(100)


@pytest.mark.parametrize("observer", ["bag of frames", "all frames"])
def test_an_observer_of_the_latent_variables_reaches_the_ceiling(observer: str) -> None:
    """Catches ceilings that the drawn galleries do not have: an observer that is written apart must reach them."""
    family, rng = FAMILIES["B"], np.random.default_rng(7)
    universe = all_scenarios(family, None)
    groups = take_groups(family, universe)
    recalls = []
    for _ in range(8):
        takes = [draw_take(universe[0], family, np.random.default_rng([int(rng.integers(2**31)), 0])) for _ in universe]
        sights = []
        for scenario, group in zip(universe, groups, strict=True):
            phases = [phase(takes[group], scenario, 0, frame) for frame in range(4)]
            thing = scenario.things[0]
            if observer == "all frames":
                turns = np.exp(2j * np.pi * np.diff(phases))
                sights.append((thing.color, thing.shape, scenario.states, int(np.sign(turns.imag.sum()))))
            else:
                sights.append((thing.color, thing.shape, frozenset(scenario.states), None))
        score = np.array([
            [_agrees(scenario, sight, observer) + 1e-6 * rng.random() for sight in sights] for scenario in universe
        ])  # fmt: skip
        recalls.append(np.mean(retrieval_ranks(score)["t2v"] <= 1) * 100)
    expected = ceilings(family, "AMO")[observer]["R@1"]
    assert np.mean(recalls) == pytest.approx(expected, abs=2.5)


def _agrees(scenario, sight, observer: str) -> bool:
    color, shape, states, drift = sight
    thing = scenario.things[0]
    if observer == "bag of frames":
        return (thing.color, thing.shape, frozenset(scenario.states)) == (color, shape, states)
    return (thing.color, thing.shape, scenario.states, thing.drift) == (color, shape, states, drift)


def test_a_gallery_has_each_caption_once(world: tuple[World, Path]) -> None:
    """Catches two clips of a gallery with one caption, of which a perfect model would lose one."""
    universe = all_scenarios(FAMILIES["A"], None)
    assert len(universe) == len(set(universe)) == 192
    for asked, sizes in {"A": 16, "M": 2, "MO": 12, "AO": 96, "AMO": 192}.items():
        parts = galleries(universe, asked)
        assert {len(part) for part in parts} == {sizes}
        assert sorted(index for part in parts for index in part) == list(range(192))
    one_wording = {texts.sentence(scenario, "AMO", FAMILIES["A"], np.random.default_rng(5)) for scenario in universe}
    assert len(one_wording) == 192


def test_worlds_and_views_are_functions_of_their_seeds(world: tuple[World, Path], tmp_path: Path) -> None:
    """Catches files or texts that depend on scheduling, and seeds that do not reach them."""
    asked, folder = world
    make_world(asked, tmp_path / "again", workers=2)

    def digest(root: Path) -> str:
        total = hashlib.sha256()
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            total.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
        return total.hexdigest()

    assert digest(folder) == digest(tmp_path / "again")
    view = View("downstream")
    captions = [clip.captions for clip in view_clips(asked, view, folder)]
    assert captions == [clip.captions for clip in view_clips(asked, view, folder)]
    other = replace(asked, seed=4)
    drawn, drawn_too = ([file.scenario for file in world_files(of)["train"]] for of in (asked, other))
    assert drawn != drawn_too


def test_a_world_whose_end_was_interrupted_is_made_again(world: tuple[World, Path], tmp_path: Path) -> None:
    """Catches a folder that no further run can complete, because some parts are where they belong already."""
    one, folder = world
    shutil.copytree(folder / "val", tmp_path / "val")
    (tmp_path / "world.unfinished").touch()
    make_world(one, tmp_path)
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    assert made == {path.relative_to(folder) for path in folder.rglob("*")}


def test_a_smaller_share_is_part_of_a_larger_one_and_leaves_the_galleries_whole(world: tuple[World, Path]) -> None:
    """Catches shares that draw clips anew (amounts of data would not be comparable), or that shrink a gallery."""
    asked, folder = world
    few, all_ = (view_clips(asked, View("downstream", share=share), folder) for share in (0.3, 1.0))
    assert [clip.clip_id for clip in few if clip.split == "train"] == ["train00000", "train00001", "train00002"]
    assert [clip for clip in few if clip.split != "train"] == [clip for clip in all_ if clip.split != "train"]
    assert sum(clip.split == "test" for clip in few) == 192


def test_texts_tell_what_they_may_and_no_more() -> None:
    """Catches motion or order in auxiliary captions, an attribute in captions that do not ask for it, and a relevance
    of subtitles that is not the stated one.
    """
    for family in FAMILIES.values():
        rng = np.random.default_rng(0)
        universe = all_scenarios(family, None)
        moving = {drift.split()[-1] for words in family.drifts for drift in words}
        for scenario in universe[::7]:
            assert not moving & set(texts.auxiliary_caption(scenario, family, rng).split())
            for asked in ("A", "M", "O"):
                said = texts.sentence(scenario, asked, family, rng)
                assert (scenario.things[0].color in said) == (asked == "A")
                assert bool(moving & set(said.replace(",", " ").split())) == (asked == "M")
                first = any(words in said for words in family.states[scenario.states[0]])
                assert first == (asked == "O")
        scenario = universe[0]
        for relevance, least, most in ((0.0, 0, 60), (1.0, 480, 500)):
            heard = [texts.subtitle(scenario, universe[1:], relevance, family, rng) for _ in range(500)]
            states = {words.split()[-1] for state in scenario.states for words in family.states[state]}
            tells = {scenario.things[0].color, *states, *moving}
            assert least <= sum(bool(tells & set(said.split())) for said in heard) * (1 if relevance else 0) <= most


@pytest.mark.parametrize(
    ("world", "frames", "words"),
    [
        (World("A", 5, size=WorldSize(8, 8, 8, 0, 1)), "ecaf42c2b222e08c", "2b15c0c4d0bbf96b"),
        (World("B", 5, 4, WorldSize(8, 8, 8, 0, 1)), "d10d189bc4d97344", "074cca1811658bab"),
    ],
)
def test_frames_and_texts_of_a_seed_stay_the_same(world: World, frames: str, words: str) -> None:
    """Catches a change of what draws or describes the worlds: the keys of stored cells would not show it."""
    family, shown, said = FAMILIES[world.family], hashlib.sha256(), hashlib.sha256()
    for files in world_files(world).values():
        for file in files:
            numbers = [file.frame] if file.part == "images" else range(4)
            shown.update(render_clip(file.scenario, file.take, family, numbers).tobytes())
    for view in (View("images"), View("pretrain"), View("downstream", "AMO"), View("downstream", paragraphs=True)):
        for clip in view_clips(world, view, Path()):
            said.update("".join([*clip.captions, clip.subtitle or "", clip.caption or ""]).encode())
    assert (shown.hexdigest()[:16], said.hexdigest()[:16]) == (frames, words)
