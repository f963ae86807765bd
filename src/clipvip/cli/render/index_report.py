"""What `clipvip index` and `clipvip library` print: lines for people, and the same as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipvip.terminal import one_line

if TYPE_CHECKING:
    from clipvip.search import IndexSummary, Status, Verification

COUNTS = ("videos", "segments", "hours", "unchanged", "moved", "copied", "removed", "missing", "excluded")


def summary_json(summary: IndexSummary, seconds: float) -> dict[str, Any]:
    """What a run that indexed videos did."""
    report: dict[str, Any] = {name: getattr(summary, name) for name in COUNTS}
    report |= {"seconds": round(seconds, 2), "hours_an_hour": round(3600 * summary.hours / seconds, 1)}
    for name, files in (("skipped", summary.skipped), ("damaged", summary.damaged)):
        report[name] = [{"video": str(file.video), "reason": file.reason} for file in files]
    return report


def summary_problems(summary: IndexSummary) -> Iterator[str]:
    """One line per file that was skipped or is damaged."""
    for skipped in summary.skipped:
        yield one_line(f"skipped {skipped.video}: {skipped.reason}")
    for damaged in summary.damaged:
        yield one_line(f"damaged {damaged.video}: {damaged.reason} (indexed as far as it can be read)")


def summary_line(summary: IndexSummary, index: str, seconds: float) -> str:
    """The counts."""
    others = {name: getattr(summary, name) for name in ("unchanged", "moved", "copied", "removed")}
    others["damaged"] = len(summary.damaged)
    more = "".join(f", {count} {name}" for name, count in others.items() if count)
    missing = f", {summary.missing} missing (clipvip library prune takes them out)" if summary.missing else ""
    excluded = f", {summary.excluded} excluded" if summary.excluded else ""
    pace = f" ({3600 * summary.hours / seconds:.0f} hours of video per hour)" if summary.videos else ""
    return (
        f"{summary.videos} videos, {summary.segments} segments, {summary.hours:.2f} hours{pace}, "
        f"{len(summary.skipped)} skipped{more}{missing}{excluded}; index: {index}"
    )


def status_lines(status: Status) -> Iterator[str]:
    """What an index holds, of which folders, and what failed."""
    settings = status.settings
    yield f"{status.uri}: {status.videos} videos, {status.segments} segments, {status.hours:.2f} hours"
    yield f"on disk: {status.num_bytes / 2**20:.1f} MiB"
    yield f"model: {settings.model} (fingerprint {settings.fingerprint}), {settings.embedding_size} numbers per vector"
    yield f"cut into: {f'shots, and {settings.scales}' if settings.shots else settings.scales}"
    if status.num_older_videos:
        yield (
            f"read by older rules: {status.num_older_videos} videos, {status.num_older_segments} segments "
            "(clipvip library upgrade encodes them again)"
        )
    for root in status.roots:
        missing = "" if root.there else "  MISSING OR EMPTY (not mounted?)"
        yield f"folder {root.root}: {root.videos} videos, {root.segments} segments, {root.hours:.2f} hours{missing}"
    for failure in status.failures:
        what = "damaged" if failure.indexed else "failed"
        yield one_line(f"{what} {Path(failure.root, failure.path)}: {failure.reason}")


def verification_json(found: Verification) -> dict[str, Any]:
    """What was checked, and what was wrong with it."""
    report: dict[str, Any] = {name: getattr(found, name) for name in ("videos", "segments", "sound", "removed")}
    report["problems"] = [{"problem": problem.what, "repaired": problem.repaired or None} for problem in found.problems]
    return report


def verification_lines(found: Verification, index: str) -> Iterator[str]:
    """One line per problem, then the verdict."""
    for problem in found.problems:
        yield one_line(f"{problem.what}{f': {problem.repaired}' if problem.repaired else ''}")
    num_repaired = sum(bool(problem.repaired) for problem in found.problems)
    removed = f", {found.removed} videos taken out (index again)" if found.removed else ""
    verdict = f"{len(found.problems)} problems, {num_repaired} repaired{removed}" if found.problems else "sound"
    yield f"{index}: {found.videos} videos, {found.segments} segments checked: {verdict}"
