"""`clipvip demo`: the whole story on a small world made on the spot, by the same code that real runs use."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipvip.cli.options import opt, takes
from clipvip.cli.output import make_console
from clipvip.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from clipvip.encode import Encoder
    from clipvip.evaluation import Retrieval

NAME = "demo"
CAPTIONED = "captioned.jsonl"
EXAMPLES = (
    "a red circle grows on the grass",
    "the blue square turns into a cross at night",
    "a yellow triangle jumps and then goes dark in the desert",
)
CAPTIONER_STEPS, CAPTIONER_BATCH = 600, 64
SMOKE_STEPS = {"warmstart": 30, "captioner": 40, "pretrain": 20, "finetune": 30}
"""`--preset smoke` trains this little: it proves that everything runs, not that anything is learnt."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    out: Path = opt(Path("runs/demo"), "Folder for everything the demo makes.")
    seed: int = opt(0, "Of the world and of training.", min=0)
    preset: str = opt("full", "full (minutes), or smoke (proves that all parts run).")
    then_serve: bool = opt(False, "Then open the page on its index (at once if the demo is there already).", "--serve")

    def __post_init__(self) -> None:
        if self.preset not in ("full", "smoke"):
            raise UsageError(f"--preset {self.preset}: choose full or smoke")


@takes(DemoOptions)
def command(options: DemoOptions) -> None:
    """Make a small world of videos, train CLIP-ViP on it, evaluate, index, search and report.

    The same command again resumes an interrupted demo.

    Example: clipvip demo --out runs/demo
    """
    if not (options.then_serve and is_done(options.out, options.seed, options.preset)):
        run_demo(options.out, options.seed, options.preset)
    if options.then_serve:
        from clipvip.cli.serve import serve
        from clipvip.serve.config import ServeConfig, cache_folder

        index = str(options.out / "index")
        serve(index, ServeConfig(port=0, cache=cache_folder(index), examples=EXAMPLES), open_browser=True)


def is_done(out: Path, seed: int, preset: str) -> bool:
    """Whether `out` holds this demo, from its first stage to its last."""
    if not (out / "metrics.json").exists():
        return False
    claim_folder(out, seed, preset)
    return True


def run_demo(out: Path, seed: int = 0, preset: str = "full") -> dict[str, Any]:
    """Run all stages; returns (and writes to `out/metrics.json`) the figures of the contract."""
    from clipvip.cli.render.demo_report import write_report
    from clipvip.encode import load
    from clipvip.search import Library  # noqa: F401  # a missing extra is found now, not after the training
    from clipvip.versions import versions

    claim_folder(out, seed, preset)
    console = make_console()
    stages = Stages(out / "demo.json", console)
    with stages.run("world", "1 of 6  world: videos, captions, subtitles"):
        world = make_world_with_tokenizer(out / "world", seed, preset)
    with stages.run("warmstart", "2 of 6  warm start: images and alt texts (in the place of OpenAI's CLIP)"):
        train_stage("warmstart", out, seed, preset)
    with stages.run("pretrain", "3 of 6  post-pre-training: noisy subtitles + generated auxiliary captions (vsc+fc)"):
        errors = caption_stage(out, seed, preset)
        console.print(
            f"wrong shape in {errors['shape']:.1%} of the captions, wrong colour in {errors['color']:.1%}, wrong scene "
            f"in {errors['scene']:.1%}"
        )
        train_stage("pretrain", out, seed, preset)
    with stages.run("finetune", "4 of 6  fine-tuning: videos and captions"):
        train_stage("finetune", out, seed, preset)
    with stages.run("evaluate", "5 of 6  evaluation: unseen videos, read once"):
        model = out / "model"
        if model.exists():
            shutil.rmtree(model)
        shutil.copytree(out / "runs" / "finetune" / "model", model)
        encoder = load(model)
        found = retrieve_test(encoder, out / "world")
        scores = score(found, world["order_blind_ceiling"], console)
    with stages.run("index", "6 of 6  index, and three searches"):
        searches = index_and_search(out, encoder, console)
    metrics: dict[str, Any] = {
        "test": {name: scores[name] for name in ("plain", "dsl", "twin_accuracy")},
        "intervals": scores["intervals"],
        "chance": scores["chance"],
        "order_blind_ceiling": world["order_blind_ceiling"],
        "caption_errors": errors,
        "preset": preset,
        "seed": seed,
        "versions": versions("clipvip", "torch", "numpy", "transformers", "av"),
    }
    with stages.run("report", "report"):
        write_report(out, metrics, found, searches)
    metrics["seconds"] = seconds = stages.seconds | {"total": round(sum(stages.seconds.values()), 1)}
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2), encoding="utf-8")
    console.print(f"Done in {seconds['total']:.0f} s. Report: {out / 'report.html'}\n\nTry next:", markup=False)
    for line in next_commands(out):
        console.print(f"  {line}", style="cyan", soft_wrap=True, highlight=False, markup=False)
    return metrics


def claim_folder(out: Path, seed: int, preset: str) -> None:
    """Note in `out/demo.json` what is made there. Raises: UsageError if it holds a demo of another kind."""
    from clipvip.files import parse_json, replace_text

    note, wanted = out / "demo.json", {"seed": seed, "preset": preset}
    if not note.exists() and out.exists() and any(out.iterdir()):
        raise UsageError(f"{out}: not empty, and no demo of ours; choose another --out")
    if note.exists():
        try:
            held = dict(parse_json(note.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise UsageError(f"{note}: damaged ({error}); choose another --out, or delete that folder") from None
        if any(held.get(key) != value for key, value in wanted.items()):
            raise UsageError(
                f"{out}: holds a demo with --seed {held.get('seed')} --preset {held.get('preset')}; "
                "choose another --out, or delete that folder"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    replace_text(note, json.dumps(wanted))


class Stages:
    """Headings and seconds of the stages; a JSON file keeps what the finished ones took, for a restarted demo."""

    def __init__(self, file: Path, console: Console):
        self._file, self._console = file, console
        self._note = json.loads(file.read_text(encoding="utf-8"))
        self.seconds: dict[str, float] = self._note.setdefault("seconds", {})

    @contextmanager
    def run(self, name: str, title: str) -> Iterator[None]:
        """A stage. One that is interrupted is not counted; one that was finished before keeps its longer time."""
        from clipvip.files import replace_text

        self._console.rule(f"[bold]{title}", align="left")
        started = time.perf_counter()
        yield
        self.seconds[name] = max(round(time.perf_counter() - started, 1), self.seconds.get(name, 0.0))
        replace_text(self._file, json.dumps(self._note))


def make_world_with_tokenizer(world: Path, seed: int, preset: str) -> dict[str, Any]:
    """Videos, manifests, and a tokeniser trained on the training texts; returns the contents of world.json."""
    from clipvip.data import read_manifest
    from clipvip.data.synthetic import SMOKE, WorldSize, make_world
    from clipvip.model.tokenizer import train_clip_tokenizer
    from clipvip.progress import progress_line

    with progress_line(transient=True) as bar:
        task = bar.add_task("making files", total=None)
        facts = make_world(
            world,
            seed,
            SMOKE if preset == "smoke" else WorldSize(),
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    texts: list[str] = []
    for name in ("images", "pretrain", "retrieval"):
        for clip in read_manifest(world / f"{name}.jsonl", split="train"):
            texts += [*clip.captions, *(text for text in (clip.subtitle, clip.caption) if text)]
    train_clip_tokenizer(texts).save_pretrained(world / "tokenizer")
    return facts


def caption_stage(out: Path, seed: int, preset: str) -> dict[str, float]:
    """A captioner of the world's images, and the post-pre-training manifest with its captions. Returns: its errors."""
    from clipvip.captioning import caption_manifest, find_model
    from clipvip.captioning.learn import learn_captioner
    from clipvip.cli.progress import progress_bar
    from clipvip.data import read_manifest
    from clipvip.data.synthetic import captioner_errors

    world, captioner = out / "world", out / "captioner"
    if not captioner.exists():
        with progress_bar("learning") as progress:
            learn_captioner(
                read_manifest(world / "images.jsonl", split="train"),
                out / "runs" / "warmstart" / "model",
                captioner,
                steps=SMOKE_STEPS["captioner"] if preset == "smoke" else CAPTIONER_STEPS,
                batch_size=CAPTIONER_BATCH,
                seed=seed,
                progress=progress,
            )
    captioned = out / CAPTIONED
    with progress_bar("captioning") as progress:
        caption_manifest(
            world / "pretrain.jsonl",
            captioned,
            find_model(captioner, batch_size=CAPTIONER_BATCH),
            overwrite=True,  # the world's own captions are nearly all true
            progress=progress,
        )
    return captioner_errors(world, captioned)


def train_stage(name: str, out: Path, seed: int, preset: str) -> dict[str, Any]:
    """One training run, exactly as `clipvip train demo/NAME ... --workdir OUT/runs/NAME` would do it."""
    from clipvip.training import load_recipe, train

    world, runs = out / "world", out / "runs"
    model = {"pretrain": runs / "warmstart" / "model", "finetune": runs / "pretrain" / "model"}
    data = {"warmstart": world / "images.jsonl", "pretrain": out / CAPTIONED, "finetune": world / "retrieval.jsonl"}
    paths = {
        "data.train": data[name],
        "data.val": world / ("images.jsonl" if name == "warmstart" else "retrieval.jsonl"),
        **({"model.tokenizer": world / "tokenizer"} if name == "warmstart" else {"model.init": model[name]}),
    }
    overrides = [f"train.seed={seed}", *(f"{key}={path}" for key, path in paths.items())]
    if preset == "smoke":
        overrides.append(f"train.steps={SMOKE_STEPS[name]}")
    return train(load_recipe(f"demo/{name}", overrides), runs / name)


def retrieve_test(encoder: Encoder, world: Path) -> Retrieval:
    """Encode the test split of the world and its captions."""
    from clipvip.data import read_manifest
    from clipvip.evaluation import run_retrieval

    return run_retrieval(encoder, read_manifest(world / "retrieval.jsonl", split="test"), progress=True)


def score(found: Retrieval, ceiling: float, console: Console) -> dict[str, Any]:
    """Print the scores of a retrieval. Returns: them."""
    from clipvip.cli.render.evaluate_table import score_tables
    from clipvip.evaluation import rank_retrieval, report_retrieval

    scores = report_retrieval(found, rank_retrieval(found, rescore=["dsl"]), ties="average")
    console.print(score_tables(scores))
    console.print(
        "In brackets: 95 % intervals over queries; another training seed changes a figure, too.\n"
        f"A model that cannot see the order of frames reaches at best t2v R@1 {ceiling:.1f} and twin accuracy 50."
    )
    return scores


def index_and_search(out: Path, encoder: Encoder, console: Console) -> list[dict[str, Any]]:
    """Index the test videos and ask three things; each answer as `clipvip search --json` prints it."""
    from dataclasses import asdict

    from clipvip.cli.render.hits_table import print_hits
    from clipvip.data import read_manifest
    from clipvip.search import Library

    index = out / "index"
    if index.exists():
        shutil.rmtree(index)
    library = Library(index, encoder)
    summary = library.add(out / "world" / "test")
    console.print(f"{summary.videos} videos indexed")
    train = read_manifest(out / "world" / "retrieval.jsonl", split="train")
    library.set_background([text for clip in train for text in clip.captions])  # of its training, none of it is here
    answers = []
    for query in EXAMPLES:
        hits = library.search(query, 3)
        print_hits(query, hits)
        answers.append({"query": query, "results": [asdict(hit) | {"video": str(hit.video)} for hit in hits]})
    return answers


def next_commands(out: Path) -> list[str]:
    """Commands to try on the demo."""
    index, model = shlex.quote(str(out / "index")), shlex.quote(str(out / "model"))
    manifest = shlex.quote(str(out / "world" / "retrieval.jsonl"))
    activate = [] if shutil.which("clipvip") else [". .venv/bin/activate"]
    return [
        *activate,
        f'clipvip search "a green cross appears on the street" --index {index}',
        f"clipvip serve --index {index} --open",
        f"clipvip evaluate --model {model} --data {manifest} --split test --rescore dsl",
        f"clipvip index YOUR_FOLDER --model {model} --index my-index   # or any CLIP folder as --model",
        "clipvip train --list",
    ]
