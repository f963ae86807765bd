"""Every field of a recipe does something: two runs that differ in it alone differ.

A new field without a row here fails `test_every_field_of_a_recipe_has_a_row`. Models and processors: see
tests/unit/model/test_model_fields.py.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pydantic import BaseModel
from transformers import CLIPTextConfig, PreTrainedConfig

from clipvip.cli.train import show
from clipvip.data.manifest import write_manifest
from clipvip.errors import ClipVipError, ConfigError
from clipvip.model import ClipVipModel, ClipVipProcessor
from clipvip.model.tokenizer import train_clip_tokenizer
from clipvip.records import Clip
from clipvip.training import Recipe, load_recipe, train
from clipvip.training.build import build_model
from clipvip.training.state import MAY_CHANGE, WorkDir
from helpers_fields import Look, assert_covered, frozen
from helpers_model import write_model
from helpers_video import write_video
from helpers_watch import Seen, watched
from helpers_world import overrides, write_recipe

pytestmark = pytest.mark.filterwarnings("ignore:text .* was cut:clipvip.errors.ClipVipWarning")

BASE = ("train.batch_size=4", "train.steps=3", "train.trackers=[]", "data.val=null")
VALIDATED = ("data.val=WORLD/retrieval.jsonl",)
PRETRAINING = (
    "data.subtitle=subtitle",
    "loss.variant=vsc",
)
MIXED = (
    "data.mix=[{data: WORLD/images.jsonl, share: 0.5}]",
    "train.steps=4",
)
DAMAGED = (
    "data.train=WORLD/damaged.jsonl",
    "train.batch_size=5",
)
STARTED = (
    "model.init=WORLD/model0",
    "model.architecture=null",
    "model.tokenizer=null",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips and images of noise with every kind of text, a second set of files under the same names, and models."""
    folder = tmp_path_factory.mktemp("world")
    clips, images = [], []
    for root in (folder, folder / "other"):
        (root / "media").mkdir(parents=True)
    for i in range(12):
        split = "train" if i < 8 else "val" if i < 11 else "test"
        texts: dict[str, Any] = {
            "captions": (f"clip {i} with a dog &amp; cat", f"the {i}th of all clips"),
            "subtitle": f"they say {i}",
            "caption": f"a picture of {i}",
            "split": split,
        }
        for seed, root in enumerate((folder, folder / "other")):
            write_video(root / "media" / f"{i}.mp4", 6 + 3 * seed + i, grain=4 * seed + 1)
            noise = np.random.default_rng([seed, i]).integers(0, 255, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / "media" / f"{i}.png")
        clips.append(Clip(f"clip{i}", video=folder / "media" / f"{i}.mp4", **texts))
        images.append(
            Clip(f"image{i}", image=folder / "media" / f"{i}.png", **{**texts, "split": "train" if i < 8 else "val"})
        )
    broken = folder / "broken.mp4"
    broken.write_text("not a video")
    write_manifest(folder / "retrieval.jsonl", clips)
    write_manifest(folder / "few.jsonl", clips[:4])
    write_manifest(folder / "one.jsonl", clips[8:9])
    write_manifest(folder / "images.jsonl", images)
    write_manifest(folder / "few_images.jsonl", images[:4])
    write_manifest(folder / "damaged.jsonl", [*clips[:4], Clip("bad", video=broken, captions=("x",), split="train")])
    texts_of_all = [text for clip in clips for text in (*clip.captions, clip.subtitle or "", clip.caption or "")]
    train_clip_tokenizer(texts_of_all).save_pretrained(folder / "tokenizer")
    train_clip_tokenizer(["something else entirely"]).save_pretrained(folder / "tokenizer1")
    for seed in (0, 1):
        write_model(folder / f"model{seed}", seed)
    write_recipe(folder / "tiny.yaml")
    return folder


Run = Callable[..., Seen]


@pytest.fixture(scope="module")
def run(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trains the tiny recipe with these changes, once each; an error is noted, not raised."""

    @cache
    def run(*changes: str) -> Seen:
        seen, workdir = Seen(), tmp_path_factory.mktemp("runs") / "run"
        settings = [*overrides(world), *BASE, *(change.replace("WORLD", str(world)) for change in changes)]
        with watched(seen):
            try:
                seen.summary = train(load_recipe(str(world / "tiny.yaml"), settings), workdir, progress=False)
            except ClipVipError as error:
                seen.error = str(error)
        seen.rows = WorkDir(workdir).read_log()
        seen.files = {path.relative_to(workdir).as_posix() for path in workdir.rglob("*")}
        if not seen.error:
            seen.model = frozen(ClipVipModel.from_pretrained(workdir / "model"))
        return seen

    return run


@dataclass(frozen=True)
class Row:
    """Another value of a field, what it changes and what it leaves, beside a run that differs in that field alone.

    given: what both have. to: what the first of `changes` then is.
    """

    field: str
    value: str
    changes: tuple[Look, ...]
    keeps: tuple[Look, ...] = ()
    given: tuple[str, ...] = ()
    to: Any = None


def weights(step: int, which: str = "") -> Look:
    """Those of the names that match, after so many steps."""

    def look(seen: Seen) -> dict[str, bytes]:
        found = {name: value for name, value in seen.weights[step].items() if re.search(which, name)}
        assert found, which
        return found

    return f"weights after step {step} ({which or 'all'})", look


def shape(name: str) -> Look:
    return f"shape of {name}", lambda seen: next(value for key, value in seen.shapes.items() if key.endswith(name))


def logged(key: str) -> Look:
    return f"{key} in the log", lambda seen: [round(row[key], 9) for row in seen.rows if key in row]


def written(pattern: str) -> Look:
    return f"files {pattern}", lambda seen: sorted(file for file in seen.files if re.fullmatch(pattern, file))


def of_run(name: str) -> Look:
    return name, lambda seen: getattr(seen, name)


NEW = "proxy_tokens|temporal_embedding"
MATRICES = r"(_proj|fc\d|_projection|patch_embedding)\.weight$"
OTHERS = rf"^(?!.*{MATRICES})"
START, FIRST, LAST = weights(0), weights(1), weights(-1)
CLIPS = ("clips drawn", lambda seen: [clip for clip, *_ in seen.samples])
BATCHES = of_run("encoded")
TEXTS = of_run("samples")
FRAMES = of_run("frames")
PIXELS = of_run("pixels")
TOKENS = of_run("tokens")
RESULT = of_run("model")
ERROR = of_run("error")
LOSSES = logged("loss")
NEARLY = ("losses to five digits", lambda seen: [float(f"{row['loss']:.5g}") for row in seen.rows if "loss" in row])
STEPS = ("steps with a log line", lambda seen: [row["step"] for row in seen.rows if "loss" in row])
VALIDATIONS = ("steps with a validation", lambda seen: [row["step"] for row in seen.rows if "val_R@1" in row])
QUERIES = ("queries of the validation", lambda seen: [list(found.texts) for found in seen.retrievals])
GALLERY = ("videos validated on", lambda seen: [[clip.path for clip in found.clips] for found in seen.retrievals])
IMAGES = ("steps with images", lambda seen: [clips[0].startswith("image") for clips in seen.encoded])
OF_IMAGES = ("texts of images", lambda seen: [texts for texts in seen.samples if texts[0].startswith("image")])
SKIPPED = ("clips left out", lambda seen: list(seen.summary.get("skipped", {})))
AT_ONCE = ("clips at once", lambda seen: {len(clips) for clips in seen.encoded})
NUM_CLIPS = ("clips of the run", lambda seen: seen.summary["clips"])

ROWS = [
    Row("profile", "released", (("losses", lambda seen: seen.rows[0]["loss"]),), (CLIPS,)),
    Row("model.init", "WORLD/model1", (START,), (CLIPS, FRAMES), STARTED),
    Row(
        "model.architecture", "{projection_dim: 8, text_config: {max_position_embeddings: 40}}",
        (shape("text_projection.weight"),), (CLIPS, FRAMES), to=(8, 32),
    ),
    Row("model.tokenizer", "WORLD/tokenizer1", (TOKENS, shape("token_embedding.weight")), (TEXTS,)),
    Row("model.aggregator", "full", (FIRST,), (START, TEXTS, FRAMES)),
    Row(
        "model.num_temporal_layers", "2",
        (("layers", lambda seen: len({name[:38] for name in seen.shapes if "temporal_transformer.encoder" in name})),),
        (CLIPS, FRAMES), ("model.aggregator=transformer",), to=2,
    ),
    Row("model.num_frames", "2", (PIXELS, shape("temporal_embedding")), (TEXTS,), to={(4, 2, 3, 48, 48)}),
    Row("model.num_proxies", "2", (shape("proxy_tokens"),), (TEXTS, FRAMES), to=(1, 32)),
    Row("model.proxy_init", "normal", (weights(0, "proxy_tokens"),), (weights(0, "^(?!.*proxy_tokens)"),)),
    Row(
        "model.logit_scale", "1.5",
        (("temperature at the start", lambda seen: decoded(seen.weights[0], "logit_scale").tolist()),),
        (weights(0, "^(?!logit_scale)"),), to=[1.5],
    ),
    Row("model.resize", "crop", (FIRST,), (START, TEXTS, FRAMES)),
    Row("model.resize_in", "decoder", (FRAMES, FIRST), (START, TEXTS)),
    Row(
        "model.max_text_tokens", "5", (("most tokens", lambda seen: max(map(len, seen.tokens))),), (TEXTS, FRAMES),
        to=5,
    ),
    Row("model.text_cleaning", "openai", (TOKENS,), (TEXTS, FRAMES)),
    Row("data.train", "WORLD/few.jsonl", (CLIPS, NUM_CLIPS), (START,)),
    Row("data.mix", "[{data: WORLD/images.jsonl, share: 0.9}]", (IMAGES, NUM_CLIPS), (START,)),
    Row("data.mix.0.data", "WORLD/few_images.jsonl", (OF_IMAGES, NUM_CLIPS), (IMAGES,), MIXED),
    Row("data.mix.0.share", "0.99", (IMAGES,), (NUM_CLIPS,), MIXED, to=[True] * 4),
    Row("data.mix.0.videos", "WORLD/other", (FRAMES,), (TEXTS,), MIXED),
    Row("data.mix.0.split", "val", (OF_IMAGES, NUM_CLIPS), (IMAGES,), MIXED),
    Row("data.mix.0.subtitle", "subtitle", (OF_IMAGES, TOKENS), (IMAGES, CLIPS, FRAMES), MIXED),
    Row("data.mix.0.caption", "caption", (OF_IMAGES, LAST), (IMAGES, CLIPS, FRAMES), (*MIXED, *PRETRAINING)),
    Row("data.mix.0.join_captions", "true", (OF_IMAGES, TOKENS), (IMAGES, CLIPS, FRAMES), MIXED),
    Row("data.val", "WORLD/retrieval.jsonl", (VALIDATIONS, written("best/.*")), (LAST, CLIPS), to=[3]),
    Row("data.videos", "WORLD/other", (FRAMES, GALLERY), (TEXTS, QUERIES), VALIDATED),
    Row("data.train_split", "null", (NUM_CLIPS, CLIPS), (START,), to=12),
    Row("data.val_split", "test", (QUERIES, GALLERY), (LAST,), VALIDATED),
    Row("data.subtitle", "subtitle", (TEXTS, TOKENS), (CLIPS, FRAMES), ("data.jitter=false",)),
    Row("data.join_captions", "true", (TEXTS, QUERIES), (CLIPS, GALLERY), VALIDATED),
    Row("data.last_batch", "keep", (("clips of a pass", lambda seen: seen.summary["steps"]),), (START,),
        ("train.steps=null", "train.epochs=2", "train.batch_size=5"), to=4),
    Row("data.jitter", "false", (FRAMES,), (TEXTS,)),
    Row("data.num_workers", "1", (of_run("workers"),), (BATCHES, TOKENS, LAST), to={1}),
    Row("data.cache", "true", (of_run("files_opened"),), (TEXTS, FRAMES, LAST), ("data.train=WORLD/few.jsonl",), to=4),
    Row("data.on_decode_error", "skip", (ERROR, SKIPPED), (START,), (*DAMAGED, "data.max_bad_share=0.2"), to=""),
    Row(
        "data.max_bad_share", "0.19", (ERROR,), (START,),
        (*DAMAGED, "data.on_decode_error=skip", "data.max_bad_share=0.2"),
    ),
    Row("loss.variant", "vsc+fc", (LOSSES, FIRST), (START, TEXTS), PRETRAINING),
    Row("loss.reduction", "sum", (("first loss", lambda seen: seen.rows[0]["loss"]),), (START, TEXTS, FRAMES)),
    Row("optim.rule", "released", (FIRST,), (START, CLIPS), ("optim.eps=1e-2",)),
    Row("optim.lr", "2e-3", (logged("lr"), FIRST), (START, CLIPS)),
    Row("optim.new_lr_factor", "5", (weights(1, NEW),), (weights(1, f"^(?!.*({NEW}))"), logged("lr"))),
    Row(
        "optim.logit_scale_lr_factor", "5", (weights(1, "logit_scale"),),
        (weights(1, "^(?!logit_scale)"), logged("lr")),
    ),
    Row("optim.weight_decay", "0.5", (weights(1, MATRICES),), (weights(1, OTHERS),)),
    Row(
        "optim.decay", "released", (weights(1, "norm.*weight"), weights(1, "_embedding"), weights(1, "proxy")),
        (weights(1, MATRICES), weights(1, r"bias$|logit_scale")),
    ),
    Row("optim.beta1", "0.5", (weights(2),), (START, CLIPS)),
    Row("optim.beta2", "0.5", (weights(2),), (START, CLIPS)),
    Row("optim.eps", "1e-2", (FIRST,), (START, CLIPS)),
    Row("optim.warmup_ratio", "0.7", (logged("lr"), FIRST), (START,), to=[0.0005, 0.001, 0.0]),
    Row("optim.freeze_text", "tower", (weights(1, "text_model"),), (START, CLIPS)),
    Row("optim.clip_norm", "1e-3", (FIRST,), (START, ("first norm", lambda seen: seen.rows[0]["grad_norm"]))),
    Row("train.batch_size", "8", (AT_ONCE,), (START,), to={8}),
    Row("train.epochs", "2", (STEPS,), (START,), ("train.steps=null", "train.epochs=1"), to=[1, 2, 3, 4]),
    Row("train.steps", "2", (STEPS,), (START,), to=[1, 2]),
    Row("train.micro_batch", "2", (AT_ONCE,), (CLIPS, NEARLY), to={2}),
    Row("train.precision", "bfloat16", (of_run("activations"), FIRST), (START, of_run("dtypes")), to={torch.bfloat16}),
    Row("train.float32_matmul", "high", (of_run("matmul"),), (START, CLIPS), to={"high"}),
    Row("train.kernels", "plain", (of_run("layers"),), (START, CLIPS, NEARLY), to={"Attention"}),
    Row("train.compile", "true", (("whether blocks are compiled", lambda seen: seen.graphs > 0),), (NEARLY,), to=True),
    Row("train.activation_checkpointing", "true", (of_run("block_passes"),), (NEARLY,)),
    Row("train.seed", "1", (START, CLIPS, FRAMES)),
    Row("train.log_every", "2", (STEPS,), (LAST,), to=[2, 3]),
    Row("train.eval_every", "2", (VALIDATIONS,), (LAST,), VALIDATED, to=[2, 3]),
    Row("train.save_every", "2", (of_run("saved"),), (LAST,), to=[2, 3]),
    Row(
        "train.snapshot_every", "2", (written(r"snapshots/[^/]*"),), (LAST,),
        to=["snapshots/step-000002", "snapshots/step-000003"],
    ),
    # in a gallery of one R@1 is 100 at every step: the first is the best
    Row("train.select", "last", (RESULT,), (LAST,), ("data.val=WORLD/one.jsonl", "train.eval_every=1")),
    Row("train.trackers", "[tensorboard]", (written(r"tensorboard/.*events.*"),), (LAST,)),
]  # fmt: skip


def decoded(values: dict[str, bytes], name: str) -> np.ndarray:
    return np.frombuffer(values[name], np.float32)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.field)
def test_a_field_of_a_recipe_changes_what_it_says(row: Row, run: Run) -> None:
    """Catches a field that is read from the recipe and never heard, and one that changes more than it says."""
    base, other = run(*row.given), run(*row.given, f"{row.field}={row.value}")
    failures = {seen.error for seen in (base, other)} - {""}
    assert not failures or ERROR in row.changes, failures
    for what, look in row.changes:
        assert look(base) != look(other), f"{row.field}={row.value}: {what} as before"
    for what, look in row.keeps:
        assert look(base) == look(other), f"{row.field}={row.value}: {what} changed"
    if row.to is not None:
        assert row.changes[0][1](other) == row.to
    if row.field in MAY_CHANGE and not failures:
        for name in base.model:
            ours, expected = decoded(other.model, name), decoded(base.model, name)
            np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4, err_msg=f"{row.field}: {name}")


def test_runs_of_one_recipe_are_alike(run: Run) -> None:
    """Catches runs that differ by chance: every comparison above would then show a change for a field without any."""
    for given in {row.given for row in ROWS}:
        first, again = run(*given), run(*given, "train.seed=0")
        looks = {look for row in ROWS if row.given == given for look in (*row.changes, *row.keeps)}
        for what, look in looks:
            assert look(first) == look(again), (given, what)


def test_figures_that_a_field_promises(run: Run) -> None:
    """Catches a field that changes something, but not by what it says."""
    mean, both = run().rows[0]["loss"], run("loss.reduction=sum").rows[0]["loss"]
    assert both == pytest.approx(2 * mean, rel=1e-6)
    spelt_out = run(
        "model.proxy_init=normal",
        "loss.reduction=sum",
        "optim.decay=released",
        "optim.rule=released",
        "data.last_batch=keep",
    )
    assert run("profile=released").model == spelt_out.model  # the rest of the profile is in the tiny recipe
    plain, again = run().block_passes, run("train.activation_checkpointing=true").block_passes
    assert again == 2 * plain
    damaged = (*DAMAGED, "data.on_decode_error=skip", "data.max_bad_share=0.2")
    assert list(run(*damaged).summary["skipped"]) == ["bad"]
    assert "bad_clips.jsonl" in run(*damaged).files
    assert "more than data.max_bad_share=0.19" in run(*damaged, "data.max_bad_share=0.19").error
    start, once, five = (
        decoded(run(*changes).weights[step], "vision_model.embeddings.temporal_embedding")
        for changes, step in (((), 0), ((), 1), (("optim.new_lr_factor=5",), 1))
    )
    np.testing.assert_allclose(once - start, 2 * (five - start), rtol=1e-3, atol=1e-7)  # the recipe's own factor is 10


LISTED = {
    "about": "another line",
    "hardware": "three abaci",
    "paper": "R@1 12.3",
    "ours": "R@1 45.6",
    "inputs": "{model.init: weights of your choice}",
    "profile": "released",
}


@pytest.mark.parametrize("name", LISTED)
def test_a_line_about_a_recipe_is_shown(name: str, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a note that no one is told, in words or in JSON."""
    for as_json in (False, True):
        told = []
        for changes in ([], [f"{name}={LISTED[name]}"]):
            show(str(world / "tiny.yaml"), [*overrides(world), *changes], as_json)
            told.append(capsys.readouterr().out)
        value = yaml.safe_load(LISTED[name])
        for part in value.values() if isinstance(value, dict) else [value]:
            assert part in told[1]
            assert part not in told[0] or name == "profile"
        assert told[0] != told[1]


def fields_of(model: type[BaseModel], where: str = "") -> Iterator[str]:
    """Every field, sections by their fields, lists of sections also by those of their first entry."""
    for name, info in model.model_fields.items():
        kind: Any = info.annotation
        is_list = get_origin(kind) is tuple
        inner = get_args(kind)[0] if is_list else kind
        has_fields = isinstance(inner, type) and issubclass(inner, BaseModel)
        if not has_fields or is_list:
            yield where + name
        if has_fields:
            yield from fields_of(inner, f"{where}{name}.{'0.' if is_list else ''}")


def test_every_field_of_a_recipe_has_a_row() -> None:
    """Catches a new field that nothing shows the effect of, and a row of a field that is gone."""
    existing = set(fields_of(Recipe))
    assert_covered({row.field for row in ROWS} | set(LISTED), existing)
    assert set(MAY_CHANGE) <= existing


TOKENISERS = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")


@pytest.mark.parametrize("key", [*TOKENISERS, *sorted(each.name for each in fields(PreTrainedConfig))])
def test_what_an_architecture_cannot_set_is_refused(key: str, world: Path) -> None:
    """Catches a key of a tower that is taken in silence: the model is another than the recipe says."""
    section = load_recipe(str(world / "tiny.yaml"), overrides(world)).model
    assert section.architecture is not None
    text = {**section.architecture["text_config"], key: getattr(CLIPTextConfig(), key)}
    with pytest.raises(ConfigError, match=key):
        build_model(section.model_copy(update={"architecture": {**section.architecture, "text_config": text}}))


def test_a_start_keeps_the_colours_and_the_texts_it_was_trained_with(world: Path, tmp_path: Path) -> None:
    """Catches pixels or texts prepared otherwise than the start's own processor does."""
    shutil.copytree(world / "model0", tmp_path / "model")
    processor = ClipVipProcessor.from_pretrained(world / "model0")
    processor.image_mean = processor.image_std = [0.5, 0.5, 0.5]
    processor.text_cleaning = "openai"
    processor.save_pretrained(tmp_path / "model")
    settings = [*overrides(world), *STARTED, f"model.init={tmp_path / 'model'}"]
    _, ours = build_model(load_recipe(str(world / "tiny.yaml"), settings).model)
    assert (ours.image_mean, ours.image_std) == ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
    assert ours.text_cleaning == "openai"
    _, other = build_model(load_recipe(str(world / "tiny.yaml"), [*settings, "model.text_cleaning=none"]).model)
    assert other.text_cleaning == "none"
