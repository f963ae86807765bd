"""The paper's claims as differences between cells, with what is too small to matter. Fixed before any test run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study import plan
from study.stats import Interval, crossed, hierarchical_interval, values_of, verdict

MARGIN = {"R@1": 3.0, "MeanR@": 2.0, "M": 3.0, "O": 3.0, "NMI": 0.5}
"""Equivalence margins: points; of NMI hundredths."""
LAST_STEP = f"step {plan.PRETRAIN_STEPS}"
Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Claim:
    """`better` beats `worse` in a figure at a level. says: the paper's claim in our words; ours: a question of our own.
    against: the level of `worse`, if it is another.

    For table1 `better` and `worse` are pairs of sources, "A | B", and the figure is NMI.
    """

    table: str
    says: str
    better: str
    worse: str
    figure: str = "R@1"
    level: str = "base"
    against: str | None = None
    ours: bool = False

    @property
    def margin(self) -> float:
        """What is too small to matter."""
        return MARGIN[self.figure]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A claim in one family. difference: None if cells are missing; infonce: companion, positive if `better` is."""

    claim: Claim
    family: str
    difference: Interval | None
    infonce: Interval | None = None

    @property
    def verdict(self) -> str:
        """As `stats.verdict`, or "not yet run"."""
        return "not yet run" if self.difference is None else verdict(self.difference, self.claim.margin)


def _ablation(table: str, says: str, better: str, worse: str) -> list[Claim]:
    """A claim on both downstream sets, in the paper's figure for ablations."""
    return [Claim(table, says, better, worse, "MeanR@", level) for level in ("base", "paragraphs")]


CLAIMS: tuple[Claim, ...] = (
    *(
        Claim("table1", f"captions are nearer to downstream {kind} than subtitles are",
              f"subtitles | {kind}", f"captions | {kind}", "NMI")
        for kind in ("sentences", "paragraphs")
    ),
    Claim("table2", "proxies beat frame averaging", "vip4", "mean"),
    Claim("table2", "proxies beat the sequence transformer", "vip4", "transformer"),
    Claim("table2", "proxies beat full attention", "vip4", "full"),
    Claim("table2", "full attention is worse than frame averaging", "mean", "full"),
    Claim("table2", "four proxies beat one", "vip4", "vip1"),
    Claim("table2", "four proxies beat eight", "vip4", "vip8"),
    Claim("table2", "proxies beat late fusion in motion inside patches",
          "vip4", "transformer", "M", "asked M", ours=True),
    Claim("table2", "proxies beat late fusion in the order of states", "vip4", "transformer", "O", ours=True),
    Claim("table2", "everything asked for: proxies beat late fusion",
          "vip4", "transformer", "R@1", "asked AMO", ours=True),
    Claim("table2", "four objects: four proxies beat one", "vip4", "vip1", "R@1", "objects 4", ours=True),
    Claim("table2", "four objects: full attention beats four proxies", "full", "vip4", "R@1", "objects 4", ours=True),
    Claim("table2", "new parameters need more than the backbone's rate", "vip4", "vip4", "R@1", "start class x10",
          "start class x1", ours=True),
    Claim("table2", "proxies near the class embedding beat N(0, 1)", "vip4", "vip4", "R@1", "start class x1",
          "start normal x1", ours=True),
    *_ablation("table3", "loss (d) beats no post-pre-training", "d", "none"),
    *_ablation("table3", "auxiliary captions help: (b) beats V-S", "b", "vs"),
    *_ablation("table3", "(d) beats V-S", "d", "vs"),
    *_ablation("table3", "(d) beats (a)", "d", "a"),
    *_ablation("table3", "(d) beats (b)", "d", "b"),
    *_ablation("table3", "(d) beats (c)", "d", "c"),
    Claim("table3", "V-S alone: relevant subtitles beat others", "vs", "vs", "MeanR@", "relevance 0.8", "relevance 0.1",
          ours=True),
    *_ablation("table4", "subtitles alone do not help", "none", "subtitles"),
    *_ablation("table4", "both beat subtitles alone", "both", "subtitles"),
    *_ablation("table4", "both beat captions alone", "both", "captions"),
    *_ablation("table4", "both beat image-text pairs", "both", "images"),
    *_ablation("table4", "image-text pairs add to both", "both and images", "both"),
    Claim("figure1", "more clips at equal steps: all beat a tenth", "all", "tenth", "MeanR@", LAST_STEP),
    Claim("figure1", "more clips at equal steps: a tenth beats a fortieth", "tenth", "fortieth", "MeanR@", LAST_STEP),
    Claim("figure1", "few clips harm: none beats a fortieth", "none", "fortieth", "MeanR@", LAST_STEP),
    Claim("annex", "image-text weights are needed: warm beats scratch, both post-pre-trained",
          "warm, post-pre-trained", "scratch, post-pre-trained", "MeanR@"),
    Claim("annex", "post-pre-training helps from scratch", "scratch, post-pre-trained", "scratch", "MeanR@"),
)  # fmt: skip


def weigh(claim: Claim, records: Records, family: str) -> Outcome:
    """The paired difference of a claim in one family, once both rows have the same seeds, crossed."""
    here = [record for record in records if record["family"] == family and record["kind"] == "test"]
    if claim.table == "table1":
        if not crossed(here):
            return Outcome(claim, family, None)
        difference = values_of(here, claim.better) - values_of(here, claim.worse)
        return Outcome(claim, family, hierarchical_interval(difference))
    better = rows_at(here, claim.better, claim.level)
    worse = rows_at(here, claim.worse, claim.against or claim.level)
    if not crossed(better) or {_seeds(r) for r in better} != {_seeds(r) for r in worse}:
        return Outcome(claim, family, None)
    difference = values_of(better, claim.figure) - values_of(worse, claim.figure)
    infonce = values_of(worse, "InfoNCE") - values_of(better, "InfoNCE")
    return Outcome(claim, family, hierarchical_interval(difference), hierarchical_interval(infonce))


def rows_at(records: Records, row: str, level: str) -> list[Mapping[str, Any]]:
    """Cells of one row and level; "none" is the same at any step of post-pre-training, and is only at the base."""
    found = [record for record in records if (record["row"], record["level"]) == (row, level)]
    if not found and row == "none":
        found = [record for record in records if (record["row"], record["level"]) == (row, "base")]
    return found


def _seeds(record: Mapping[str, Any]) -> tuple[int, int]:
    return record["data_seed"], record["model_seed"]
