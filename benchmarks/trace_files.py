"""Which files of clipvip a run executes: how much of the code somebody has to read who follows it.

A file counts if one of its functions is called, in any process of the run; importing it does not count.

* index: `Library.add` of one video into a new index, the model being loaded
* search: `Library.search` with one text, the model being loaded
* train: one training step, from decoded clips to the log: of `clipvip train` with `data.cache`, the files that are
  called more often with two passes over the clips than with one (decoding is the same as in index)
* evaluate: from the embeddings of a test set to its report, with dual softmax and the released protocol
* index-command, search-command: the whole of `clipvip index` and `clipvip search`, from reading the arguments and
  loading the model to the printed answer

    python benchmarks/trace_files.py [--src BEFORE/src] [--runs index search train evaluate] [--list] [--json]

--src: the package of another commit (`git worktree add BEFORE COMMIT`), to compare with.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIMITS = {"index": 24, "search": 15, "train": 16, "evaluate": 8}
"""Files that a run may execute."""
# Python runs this file at the start of every process of a run. A worker may be killed at any time: every line is
# written at once.
HOOK = """
import os, sys, threading, inspect

folder, root = os.environ["CLIPVIP_TRACE"], os.environ["CLIPVIP_TRACE_ROOT"]
codes = {}
out = open(os.path.join(folder, f"{os.getpid()}.txt"), "a", buffering=1)

def profile(frame, event, _):
    if event != "call":
        return
    code = frame.f_code
    if code not in codes:
        is_function = code.co_flags & inspect.CO_OPTIMIZED  # not the body of a module or class
        codes[code] = code.co_filename[len(root):] if is_function and code.co_filename.startswith(root) else None
    if codes[code] is not None:
        out.write(codes[code] + "\\n")

threading.setprofile(profile)
sys.setprofile(profile)
"""
# A script runs untraced up to the line "TRACE".
PAUSE = "import sys, threading\nprofile = sys.getprofile()\nsys.setprofile(None)\nthreading.setprofile(None)\n"
RESUME = "threading.setprofile(profile)\nsys.setprofile(profile)"
INDEX = """
import clipvip
from clipvip.search import Library
encoder = clipvip.load(sys.argv[1], device="cpu")
TRACE
Library(sys.argv[2], encoder).add(sys.argv[3])
"""
SEARCH = """
import clipvip
from clipvip.search import Library
encoder = clipvip.load(sys.argv[1], device="cpu")
TRACE
print(Library(sys.argv[2], encoder).search("a red circle"))
"""
EVALUATE = """
from clipvip import evaluation
from clipvip.data.manifest import read_manifest
from clipvip.embedding_sets import open_embeddings
clips, embeddings = read_manifest(sys.argv[1], split="test"), open_embeddings(sys.argv[2])
TRACE
retrieval = evaluation.run_retrieval(embeddings, clips, progress=False)
ranks = evaluation.rank_retrieval(retrieval, rescore=("dsl",))
evaluation.report_retrieval(retrieval, ranks, ties="average", released=True)
"""


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--src", type=Path, default=HERE.parent / "src")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--list", action="store_true", help="name the files, too")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    src = options.src.resolve()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_inputs(place, src)
        found = {run: RUNS[run](place, src) for run in options.runs}
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for run, files in found.items():
        limit = f" (at most {LIMITS[run]})" if run in LIMITS else ""
        print(f"{run}: {len(files)} files{limit}")
        if options.list:
            print("".join(f"    {file}\n" for file in files), end="")


def make_inputs(place: Path, src: Path) -> None:
    """A small synthetic world, an untrained model, an index, and the embeddings of the test set."""
    run_clipvip(src, "demo", "--out", place / "demo", "--preset", "smoke")
    (place / "one").mkdir()
    video = next((place / "demo" / "world").rglob("*.mp4"))
    (place / "one" / video.name).symlink_to(video)


def run_clipvip(src: Path, *arguments: object, trace: Path | None = None) -> None:
    """Run a command, traced into a folder."""
    run_python(src, "-m", "clipvip", *arguments, trace=trace)


def run_python(src: Path, *arguments: object, trace: Path | None = None) -> None:
    """Run Python with the package of `src`."""
    env = os.environ | {"PYTHONPATH": str(src), "OMP_NUM_THREADS": "1"}
    if trace is not None:
        (trace / "hook").mkdir(parents=True)
        (trace / "hook" / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
        env |= {
            "PYTHONPATH": f"{trace / 'hook'}{os.pathsep}{src}",
            "CLIPVIP_TRACE": str(trace),
            "CLIPVIP_TRACE_ROOT": f"{src / 'clipvip'}{os.sep}",
        }
    done = subprocess.run([sys.executable, *map(str, arguments)], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, arguments))} ended with {done.returncode}:\n{done.stderr}")


def count_calls(trace: Path) -> Counter[str]:
    """The calls in each file, over all processes."""
    return Counter(line for file in trace.glob("*.txt") for line in file.read_text(encoding="utf-8").splitlines())


def trace_script(script: str, *arguments: object, src: Path, trace: Path) -> list[str]:
    """Run a script that is traced from the line "TRACE" on."""
    run_python(src, "-c", PAUSE + script.replace("TRACE", RESUME), *arguments, trace=trace)
    return sorted(count_calls(trace))


def trace_index(place: Path, src: Path) -> list[str]:
    """Index one video."""
    model = place / "demo" / "model"
    return trace_script(INDEX, model, place / "index", place / "one", src=src, trace=place / "index_trace")


def trace_search(place: Path, src: Path) -> list[str]:
    """Search with one text."""
    demo = place / "demo"
    return trace_script(SEARCH, demo / "model", demo / "index", src=src, trace=place / "search_trace")


def trace_index_command(place: Path, src: Path) -> list[str]:
    """Index one video by the command."""
    trace = place / "index_command_trace"
    run_clipvip(
        src, "index", place / "one", "--model", place / "demo" / "model", "--index", place / "command_index",
        trace=trace,
    )  # fmt: skip
    return sorted(count_calls(trace))


def trace_search_command(place: Path, src: Path) -> list[str]:
    """Search with one text by the command."""
    trace = place / "search_command_trace"
    run_clipvip(src, "search", "a red circle", "--index", place / "demo" / "index", trace=trace)
    return sorted(count_calls(trace))


def trace_train(place: Path, src: Path) -> list[str]:
    """Train for one pass over the 200 clips and for two, without validation, and compare."""
    counts = []
    for steps in (2, 4):
        run_clipvip(
            src, "train", "demo/finetune", "--workdir", place / f"run{steps}", f"train.steps={steps}",
            f"data.train={place / 'demo' / 'world' / 'retrieval.jsonl'}", "data.train_split=train", "data.val=null",
            f"model.init={place / 'demo' / 'model'}", "train.batch_size=100", "train.log_every=1",
            trace=place / f"train_trace{steps}",
        )  # fmt: skip
        counts.append(count_calls(place / f"train_trace{steps}"))
    once, twice = counts
    return sorted(file for file in twice if twice[file] > once[file])


def trace_evaluate(place: Path, src: Path) -> list[str]:
    """Evaluate stored embeddings."""
    manifest = place / "demo" / "world" / "retrieval.jsonl"
    run_clipvip(
        src, "encode", manifest, "--model", place / "demo" / "model", "--split", "test", "--out",
        place / "embeddings",
    )  # fmt: skip
    return trace_script(EVALUATE, manifest, place / "embeddings", src=src, trace=place / "evaluate_trace")


RUNS = {
    "index": trace_index,
    "search": trace_search,
    "train": trace_train,
    "evaluate": trace_evaluate,
    "index-command": trace_index_command,
    "search-command": trace_search_command,
}

if __name__ == "__main__":
    main()
