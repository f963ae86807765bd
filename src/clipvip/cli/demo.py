"""`clipvip demo`: the whole story on a small world made on the spot, by the same code that real runs use."""

from __future__ import annotations

import json
import shlex
import shutil
import time
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
    """Of `clipvip demo`."""

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
    """The story, stage by stage; returns (and writes to `out/metrics.json`) the figures of the contract."""

    from clipvip.cli.render.demo_report import write_report
    from clipvip.cli.render.evaluate_table import score_tables
    from clipvip.encode import load
    from clipvip.evaluation import rank_retrieval, report_retrieval
    from clipvip.search import Library  # noqa: F401  # a missing extra shall be known now, not after the training
    from clipvip.versions import versions

    claim_folder(out, seed, preset)
    console = make_console()
    clock = Stopwatch(out / "demo.json")

    def stage(name: str, told: str) -> None:
        console.rule(f"[bold]{told}", align="left")
        clock.start(name)

    done = clock.stop

    stage("world", "1 of 6  world: videos, captions, subtitles")
    world = make_world_with_tokenizer(out / "world", seed, preset)
    done("world")
    stage("warmstart", "2 of 6  warm start: images and alt texts (stands for OpenAI's CLIP)")
    train_stage("warmstart", out, seed, preset)
    done("warmstart")
    stage("pretrain", "3 of 6  post-pre-training: noisy subtitles + a machine's auxiliary captions (vsc+fc)")
    errors = caption_stage(out, seed, preset)
    console.print(
        f"wrong shape in {errors['shape']:.1%} of the captions, wrong colour in {errors['color']:.1%}, wrong scene in "
        f"{errors['scene']:.1%}"
    )
    train_stage("pretrain", out, seed, preset)
    done("pretrain")
    stage("finetune", "4 of 6  fine-tuning: videos and captions")
    train_stage("finetune", out, seed, preset)
    done("finetune")

    stage("evaluate", "5 of 6  evaluation: unseen videos, read once")
    model = out / "model"
    if model.exists():
        shutil.rmtree(model)
    shutil.copytree(out / "runs" / "finetune" / "model", model)
    encoder = load(model)
    found = retrieve_test(encoder, out / "world")
    scores = report_retrieval(found, rank_retrieval(found, rescore=["dsl"]), ties="average")
    console.print(score_tables(scores))
    console.print(
        "In brackets: 95 % intervals over queries; another training seed moves a figure, too.\n"
        f"A model that cannot see the order of frames reaches at best t2v R@1 {world['order_blind_ceiling']:.1f} "
        "and twin accuracy 50."
    )
    done("evaluate")

    stage("index", "6 of 6  index, and three searches")
    searches = index_and_search(out, encoder, console)
    done("index")

    stage("report", "report")
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
    write_report(out, metrics, found, searches)
    done("report")
    metrics["seconds"] = seconds = clock.seconds | {"total": round(sum(clock.seconds.values()), 1)}
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


class Stopwatch:
    """Seconds by stage, kept in a JSON file, so that a restarted demo still knows what its finished stages took."""

    def __init__(self, file: Path):
        self._file = file
        self._note = json.loads(file.read_text(encoding="utf-8"))
        self.seconds: dict[str, float] = self._note.setdefault("seconds", {})
        self._started = 0.0

    def start(self, name: str) -> None:
        """Begin a stage. An interrupted attempt at it is not counted."""
        self._started = time.perf_counter()

    def stop(self, name: str) -> None:
        """End it. A stage found finished from before keeps the time it really took."""
        from clipvip.files import replace_text

        self.seconds[name] = max(round(time.perf_counter() - self._started, 1), self.seconds.get(name, 0.0))
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
    library.set_background(
        [text for clip in train for text in clip.captions]
    )  # what the model was taught, none of it here
    answers = []
    for query in EXAMPLES:
        hits = library.search(query, 3)
        print_hits(query, hits)
        answers.append({"query": query, "results": [asdict(hit) | {"video": str(hit.video)} for hit in hits]})
    return answers


def next_commands(out: Path) -> list[str]:
    """What a newcomer may want to type now."""
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
