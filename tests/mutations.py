"""Bugs planted on purpose, one at a time: does a test notice each of them? Run by `make test-mutations`.

The package and its tests are copied aside, and the tests named below must pass there as they are. Then, for each row of
MUTATIONS, one text in one file of the copy is replaced, and the tests that should notice run in a process of their own.
A bug is caught if a test fails. Whatever else goes wrong (nothing collected, a set-up that fails, a hang, a package of
another place, a planted text that is no valid program) is an error of the table and counts as not caught.

The same file is a plugin of those processes: it sees to it that they test the copy, and tells which test failed.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("src/clipvip")
COPY, MUTATED, REPORT = "MUTATIONS_COPY", "MUTATIONS_FILE", "MUTATIONS_REPORT"
"""What a process is told: the folder of the copy, the changed file in the package, where to report to."""
LIMIT_S = 180.0
"""A selection that takes longer hangs; the unchanged run of all of them has this long for each."""
SLIPS = re.compile(r"^E .*\b(NameError|UnboundLocalError|SyntaxError|IndentationError|ImportError)\b", re.MULTILINE)
"""What a slip in this table would raise: no bug that anyone would notice late."""


class Mutation(NamedTuple):
    """One bug. old: occurs once in the file; tests: the smallest selection that should notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = (
    # Evaluation
    Mutation(
        "dsl-one-axis-for-both-directions",
        "evaluation/protocol.py",
        'dual_softmax(similarity, axis=1), owners, "v2t"',
        'dual_softmax(similarity, axis=0), owners, "v2t"',
        "tests/unit/evaluation/test_protocol.py",
    ),
    Mutation(
        "dsl-sum-over-the-wrong-axis",
        "evaluation/rescoring.py",
        "weights /= weights.sum(axis=axis, keepdims=True, dtype=np.float64)",
        "weights /= weights.sum(axis=1 - axis, keepdims=True, dtype=np.float64)",
        "tests/unit/evaluation/test_rescoring.py",
    ),
    Mutation(
        "qbnorm-rescores-every-query",
        "evaluation/rescoring.py",
        "changed = ((block == block.max(axis=1, keepdims=True)) & active).any(axis=1)",
        "changed = (block == block.max(axis=1, keepdims=True)).any(axis=1)",
        "tests/unit/evaluation/test_rescoring.py",
    ),
    Mutation(
        "ties-are-wins",
        "evaluation/metrics.py",
        '{"average": 0.5,',
        '{"average": 0.0,',
        "tests/unit/evaluation/test_retrieval_metrics.py",
    ),
    Mutation(
        "v2t-last-caption-instead-of-best",
        "evaluation/metrics.py",
        "np.maximum.at(best, queries, true)",
        "best[queries] = true",
        "tests/unit/evaluation/test_retrieval_metrics.py",
    ),
    Mutation(
        "recall-below-k",
        "evaluation/metrics.py",
        "np.mean(ranks <= k)",
        "np.mean(ranks < k)",
        "tests/unit/evaluation/test_retrieval_metrics.py",
    ),
    # Several processes
    Mutation(
        "gather-drops-the-rank-offset",
        "distributed.py",
        "start = sum(ctx.sizes[: rank()])",
        "start = 0",
        "tests/unit/test_distributed.py::test_rows_of_all_in_rank_order_and_their_gradients_summed",
    ),
    Mutation(
        "gather-without-sum-over-processes",
        "distributed.py",
        "        dist.all_reduce(total)\n",
        "",
        "tests/unit/test_distributed.py::test_rows_of_all_in_rank_order_and_their_gradients_summed",
    ),
    Mutation(
        "gather-keeps-the-padding",
        "distributed.py",
        "torch.cat([piece[:size] for piece, size in zip(pieces, sizes, strict=True)])",
        "torch.cat(pieces)",
        "tests/unit/test_distributed.py::test_rows_of_all_in_rank_order_and_their_gradients_summed",
    ),
    Mutation(
        "gradients-summed-over-processes",
        "distributed.py",
        "    flat /= world()\n",
        "",
        "tests/unit/test_distributed.py::test_every_gradient_becomes_the_mean",
    ),
    Mutation(
        "logit-scale-left-out-of-the-mean",
        "distributed.py",
        "for parameter in parameters if parameter.grad is not None]",
        "for parameter in parameters if parameter.grad is not None and parameter.ndim]",
        "tests/unit/test_distributed.py::test_every_gradient_becomes_the_mean",
    ),
    Mutation(
        "negatives-of-one-process",
        "training/step.py",
        "gather=partial(all_gather, sizes=sizes)",
        "gather=None",
        "tests/parity/test_distributed_gradients.py::test_gradients_are_those_of_one_process[2]",
    ),
    Mutation(
        "processes-see-the-same-rows",
        "data/loader.py",
        "np.array_split(batch, self.world)[self.rank]",
        "np.array_split(batch, self.world)[0]",
        "tests/unit/data/test_loader.py::test_processes_share_the_same_batches",
    ),
    # Losses
    Mutation(
        "loss-ignores-gather",
        "losses/contrastive.py",
        "global_source(values.to(dtype), masks.get(name), gather)",
        "global_source(values.to(dtype), masks.get(name), None)",
        "tests/unit/losses/test_omnisource_loss.py::test_two_ranks_give_the_gradients_of_one_process",
    ),
    Mutation(
        "other-positive-left-in",
        "losses/contrastive.py",
        "others.masked_fill(~also.valid | own, -torch.inf)",
        "others.masked_fill(~also.valid, -torch.inf)",
        "tests/parity/test_losses_golden.py::test_values_and_gradients_equal_the_released_ones",
    ),
    Mutation(
        "also-negatives-of-the-wrong-source",
        "losses/variants.py",
        'Term("video", "subtitle", also="caption")',
        'Term("video", "subtitle", also="subtitle")',
        "tests/parity/test_losses_golden.py::test_values_and_gradients_equal_the_released_ones",
    ),
    Mutation(
        "one-direction-twice",
        "losses/variants.py",
        "return Term(first, second), Term(second, first)",
        "return Term(first, second), Term(first, second)",
        "tests/parity/test_losses_golden.py::test_values_and_gradients_equal_the_released_ones",
    ),
    Mutation(
        "mean-over-terms",
        "losses/contrastive.py",
        "torch.stack(losses).sum()",
        "torch.stack(losses).mean()",
        "tests/parity/test_losses_golden.py::test_values_and_gradients_equal_the_released_ones",
    ),
    Mutation(
        "mean-is-a-quarter-of-the-sum",
        "losses/contrastive.py",
        '"mean": 0.5}',
        '"mean": 0.25}',
        "tests/unit/losses/test_omnisource_loss.py::test_mean_is_half_of_sum",
    ),
    Mutation(
        "masked-text-is-a-column",
        "losses/contrastive.py",
        "    logits = logits.masked_fill(~(key.valid | own), -torch.inf)\n",
        "",
        "tests/parity/test_losses_golden.py::test_masked_losses_and_gradients_equal_slow_loops",
    ),
    Mutation(
        "masked-text-is-a-row",
        "losses/contrastive.py",
        "rows = query.valid & key.valid",
        "rows = query.valid",
        "tests/parity/test_losses_golden.py::test_masked_losses_and_gradients_equal_slow_loops",
    ),
    Mutation(
        "mean-over-masked-rows-too",
        "losses/contrastive.py",
        "/ rows.sum().clamp(min=1)",
        "/ num_rows",
        "tests/parity/test_losses_golden.py::test_masked_losses_and_gradients_equal_slow_loops",
    ),
    Mutation(
        "gradcache-other-random-numbers",
        "losses/gradcache.py",
        "            _set_random_state(state)\n",
        "",
        "tests/unit/losses/test_gradcache.py",
    ),
    Mutation(
        "gradcache-gradients-of-another-part",
        "losses/gradcache.py",
        "[grads[name][number] for name in trained]",
        "[grads[name][number - 1] for name in trained]",
        "tests/unit/losses/test_gradcache.py::test_autocast_keeps_the_weights_gradients",
    ),
    # Model
    Mutation(
        "proxies-missing-from-a-frames-keys",
        "model/modeling_clipvip.py",
        "with_proxies(k_proxies, k_patches), with_proxies(v_proxies, v_patches)",
        "split_frames(k_patches).flatten(0, 1), split_frames(v_patches).flatten(0, 1)",
        "tests/unit/model/test_clipvip_model.py::test_decomposed_attention_equals_dense_mask",
    ),
    Mutation(
        "temporal-embedding-on-proxies",
        "model/modeling_clipvip.py",
        "(proxies + spatial[0]).expand(",
        "(proxies + spatial[0] + self.temporal_embedding[0]).expand(",
        "tests/parity/test_model_golden.py::test_vision_tower",
    ),
    Mutation(
        "each-proxy-at-a-place-of-its-own",
        "model/modeling_clipvip.py",
        "(proxies + spatial[0]).expand(",
        "(proxies + spatial[: len(proxies)]).expand(",
        "tests/parity/test_model_golden.py::test_vision_tower",
    ),
    Mutation(
        "last-block-sees-proxies-only",
        "model/modeling_clipvip.py",
        "last(x, self.attention, query=x[:, :1])",
        "last(x[:, : self.num_proxies], self.attention, query=x[:, :1])",
        "tests/unit/model/test_clipvip_model.py::test_pruned_last_block_has_the_same_gradients",
    ),
    Mutation(
        "temporal-positions-with-aligned-corners",
        "model/modeling_clipvip.py",
        "align_corners=False)[0].T",
        "align_corners=True)[0].T",
        "tests/parity/test_model_golden.py::test_vision_tower",
    ),
    Mutation(
        "mean-of-features-of-any-length",
        "model/modeling_clipvip.py",
        "F.normalize(frames, dim=-1).mean(dim=1)",
        "frames.mean(dim=1)",
        "tests/unit/model/test_clipvip_model.py::test_one_frame_equals_clip",
    ),
    Mutation(
        "text-pooled-at-the-last-end-token",
        "model/modeling_clipvip.py",
        "(input_ids == self.eos_token_id).int().argmax(",
        "(input_ids == self.eos_token_id).cumsum(dim=1).argmax(",
        "tests/parity/test_model_golden.py::test_text_tower",
    ),
    # Data
    Mutation(
        "middle-frame-off-by-one",
        "video/sampling.py",
        "return total // 2",
        "return (total - 1) // 2",
        "tests/unit/video/test_video_sampling.py::test_middle_index_equals_the_released_one",
    ),
    Mutation(
        "last-frame-never-sampled",
        "video/sampling.py",
        "np.linspace(start, end, n)",
        "np.linspace(start, end, n, endpoint=False)",
        "tests/unit/video/test_video_sampling.py::test_uniform_indices_equal_the_released_ones",
    ),
    Mutation(
        "middle-of-the-sample-not-of-the-clip",
        "data/dataset.py",
        "np.append(sample, middle_index(total))",
        "np.append(sample, sample[len(sample) // 2])",
        "tests/unit/data/test_dataset.py::test_the_middle_frame_is_the_clips_own_wherever_the_sample_lies",
    ),
    Mutation(
        "same-draws-in-every-pass",
        "data/dataset.py",
        "default_rng([self.seed, pass_number, index])",
        "default_rng([self.seed, index])",
        "tests/unit/data/test_dataset.py::test_frames_are_drawn_by_pass_and_clip",
    ),
    Mutation(
        "caption-read-from-the-subtitles-field",
        "data/dataset.py",
        "self._text(clip, self.sources.caption, rng)",
        "self._text(clip, self.sources.subtitle, rng)",
        "tests/unit/data/test_loader.py::test_captions_are_drawn_joined_or_replaced_by_the_auxiliary_one",
    ),
    Mutation(
        "caption-batched-from-subtitles",
        "data/dataset.py",
        "self._texts([sample.caption for sample in good])",
        "self._texts([sample.subtitle for sample in good])",
        "tests/unit/data/test_dataset.py::test_a_batch_keeps_videos_frames_and_both_texts_apart",
    ),
    Mutation(
        "resumed-run-begins-the-pass-anew",
        "data/loader.py",
        "np.bincount(source_of[: self.start_step],",
        "np.bincount(source_of[:0],",
        "tests/unit/data/test_loader.py::test_resuming_gives_the_rest_of_the_same_order",
    ),
    # Training
    Mutation(
        "subtitle-and-caption-exchanged",
        "training/step.py",
        "first, second = features.split(",
        "second, first = features.split(",
        "tests/unit/training/test_step.py",
    ),
    Mutation(
        "biases-decayed",
        "training/step.py",
        "return parameter.ndim >= 2 and not any(",
        "return not any(",
        "tests/unit/training/test_optim.py::test_groups_cover_every_parameter_once",
    ),
    Mutation(
        "new-lr-factor-ignored",
        "training/step.py",
        "config.lr * (config.new_lr_factor if new else 1.0) * factor",
        "config.lr * factor",
        "tests/unit/training/test_optim.py::test_groups_cover_every_parameter_once",
    ),
    Mutation(
        "released-rule-with-eps-after-the-bias-correction",
        "training/step.py",
        'mean_square.sqrt().add_(group["eps"])',
        'mean_square.sqrt().add_(group["eps"] * math.sqrt(1 - beta2 ** state["step"]))',
        "tests/parity/test_released_optimizer.py",
    ),
    Mutation(
        "cosine-starts-before-the-warm-up-ends",
        "training/step.py",
        "math.cos(math.pi * (step - warmup)",
        "math.cos(math.pi * step",
        "tests/parity/test_model_golden.py::test_learning_rate_schedule",
    ),
    Mutation(
        "schedule-one-step-behind",
        "training/trainer.py",
        "lr_factor(self.step + 1,",
        "lr_factor(self.step,",
        "tests/unit/training/test_trainer.py::test_the_learning_rate_is_that_of_the_step_taken",
    ),
    Mutation(
        "logit-scale-without-a-lower-bound",
        "training/trainer.py",
        "self.model.logit_scale.clamp_(0.0, MAX_LOGIT_SCALE)",
        "self.model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)",
        "tests/unit/training/test_trainer.py::test_the_temperature_keeps_to_its_range",
    ),
    Mutation(
        "optimiser-not-restored",
        "training/trainer.py",
        '            self.optimizer.load_state_dict(state["optimizer"])\n',
        "",
        "tests/unit/training/test_trainer.py::test_a_run_that_broke_off_goes_on_from_its_checkpoint",
    ),
    Mutation(
        "last-weights-handed-over-as-the-best",
        "training/trainer.py",
        'source = self.work.best if summary["selected"] == "best" else None',
        "source = None",
        "tests/unit/training/test_trainer.py::test_the_weights_that_are_handed_over",
    ),
    Mutation(
        "every-validation-is-the-best",
        "training/trainer.py",
        'if self.best is not None and scores["R@1"] <= self.best:',
        'if self.best is not None and scores["R@1"] < 0.0:',
        "tests/unit/training/test_trainer.py::test_the_weights_that_are_handed_over",
    ),
    Mutation(
        "trainer-state-without-a-checksum",
        "training/state.py",
        "for file in _files(folder)}",
        'for file in _files(folder / "model")}',
        "tests/unit/training/test_state.py::test_a_damaged_checkpoint_is_set_aside_for_the_one_before",
    ),
)


class Outcome(NamedTuple):
    """What a pytest process came to.

    caught_by: the first test that failed, if that is what ended it. problem: why it says nothing about the bug.
    """

    caught_by: str | None
    problem: str | None
    output: str
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """0: every bug was caught; 1: not every one; 2: the table does not fit the sources, or the tests fail without."""
    parser = argparse.ArgumentParser(description="Plant bugs, one at a time, and see whether a test notices.")
    names = [mutation.name for mutation in MUTATIONS]
    parser.add_argument("--only", metavar="NAME", action="append", choices=names, help="this one; may be repeated")
    parser.add_argument("--list", action="store_true", help="the names, and what each changes")
    options = parser.parse_args(arguments)
    if options.list:
        for mutation in MUTATIONS:
            print(f"{mutation.name}  ({mutation.file})\n  - {mutation.old.strip()}\n  + {mutation.new.strip()}")
        return 0
    stale = [problem for mutation in MUTATIONS if (problem := staleness(mutation))]
    if stale or len(set(names)) < len(names):
        print("The table is stale:", *(stale or ["two rows have the same name"]), sep="\n  ")
        return 2
    chosen = [mutation for mutation in MUTATIONS if not options.only or mutation.name in options.only]
    start = time.monotonic()
    with TemporaryDirectory(prefix="clipvip-mutations-") as folder:
        copy = Path(folder).resolve()
        for name in ("src", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        selections = list(dict.fromkeys(mutation.tests for mutation in chosen))
        unchanged = run_tests(copy, selections, None, LIMIT_S * len(selections))
        print(f"{len(selections)} selections of tests without a bug: {unchanged.seconds:.0f} s", flush=True)
        if unchanged.caught_by or unchanged.problem:
            print(f"They must pass first: {unchanged.caught_by or unchanged.problem}\n{unchanged.output}")
            return 2
        caught = 0
        for mutation in chosen:
            outcome = planted(copy, mutation)
            told = f"caught by {outcome.caught_by}" if outcome.caught_by else f"ERROR: {outcome.problem}"
            if not outcome.caught_by and not outcome.problem:
                told = f"SURVIVED {mutation.tests}"
            print(f"{mutation.name:42}{outcome.seconds:5.1f} s  {told}", flush=True)
            if outcome.problem:
                print(*(f"    {line}" for line in outcome.output.splitlines()[-20:]), sep="\n")
            caught += outcome.caught_by is not None
    print(f"{caught} of {len(chosen)} planted bugs caught; {time.monotonic() - start:.0f} s")
    return 0 if caught == len(chosen) else 1


def staleness(mutation: Mutation) -> str | None:
    """Why a row cannot be planted, if so."""
    file = ROOT / PACKAGE / mutation.file
    count = file.read_text(encoding="utf-8").count(mutation.old) if file.exists() else 0
    if count == 1 and mutation.old != mutation.new:
        return None
    return f"{mutation.name}: {mutation.file} has {count} times (expected: once) {mutation.old.strip()!r}"


def planted(copy: Path, mutation: Mutation) -> Outcome:
    """The outcome with this bug in the copy; the file is as before afterwards."""
    file = copy / PACKAGE / mutation.file
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        return run_tests(copy, [mutation.tests], mutation.file, LIMIT_S)
    finally:
        file.write_text(text, encoding="utf-8")


def run_tests(copy: Path, selections: Sequence[str], mutated: str | None, limit_s: float) -> Outcome:
    """Run tests of the copy in a process of their own, up to the first failure."""
    report = copy / "report.json"
    report.unlink(missing_ok=True)
    paths = [str(copy / "src"), str(copy / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),  # before the editable install, in processes of the tests' own, too
        "PYTHONDONTWRITEBYTECODE": "1",  # two texts of a size, written within a second, share their bytecode's name
        "OMP_NUM_THREADS": "1",
        COPY: str(copy),
        MUTATED: mutated or "",
        REPORT: str(report),
    }
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "mutations"]
    command += ["--hypothesis-seed=0", f"--basetemp={copy / 'tmp'}", *selections]
    start = time.monotonic()
    with subprocess.Popen(
        command, cwd=copy, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            output, _ = process.communicate(timeout=limit_s)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that a test has started
            output, _ = process.communicate()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return Outcome(None, f"hangs: not done after {limit_s:.0f} s", output, time.monotonic() - start)
    seconds = time.monotonic() - start
    told = json.loads(report.read_text()) if report.exists() else None
    problem = None
    if told is None or process.returncode not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        problem = f"pytest ended with exit code {process.returncode}"
    elif not told["imported"]:
        problem = f"these tests do not import {mutated}"
    elif process.returncode == pytest.ExitCode.TESTS_FAILED and told["failed"] is None:
        problem = "no test failed, but something around one"
    elif told["slip"]:
        problem = f"the planted text is no valid program: {told['slip']}"
    return Outcome(None if problem else told["failed"], problem, output, seconds)


_told: dict[str, object] = {"failed": None, "slip": None}


def pytest_configure() -> None:
    """In the process of the tests: nothing but the copy is to be tested."""
    import clipvip

    if Path(clipvip.__file__).resolve().parent != Path(os.environ[COPY]) / PACKAGE:
        pytest.exit(f"clipvip comes from {clipvip.__file__}, not from the copy", pytest.ExitCode.USAGE_ERROR)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note the first test that fails; a set-up that fails is none."""
    if report.failed and report.when == "call" and _told["failed"] is None:
        slip = SLIPS.search(report.longreprtext)
        _told.update(failed=report.nodeid, slip=slip and slip[1])


def pytest_sessionfinish() -> None:
    """Report, with whether the changed file was imported at all."""
    names = {str(getattr(module, "__file__", None)) for module in list(sys.modules.values())}
    mutated = os.environ[MUTATED]
    _told["imported"] = not mutated or str(Path(os.environ[COPY]) / PACKAGE / mutated) in names
    Path(os.environ[REPORT]).write_text(json.dumps(_told))


if __name__ == "__main__":
    sys.exit(main())
