"""What an embedding set looks like on disk.

embeddings-000012.parquet   a row an embedding, in the manifest's order (columns: SCHEMA)
embeddings.json             SetFacts; written last: without it the set is not finished
receipts/, job.json         the job's (see jobs.runner)
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clipvip.errors import UsageError
from clipvip.files import parse_json, replace_text

try:
    import pyarrow as pa
except ImportError as error:
    raise UsageError('embedding sets need pyarrow: install it with `pip install "clipvip[search]"`') from error

FACTS = "embeddings.json"
FORMAT_VERSION = 1
MEDIA = "media"
TEXT_FIELDS = ("captions", "subtitle", "caption")


@dataclass(frozen=True, slots=True)
class SetFacts:
    """What a set holds, and where it is from.

    model: a folder or hub id; fingerprint: of weights, processor and sampling: sets of different ones do not compare.
    sampling: as `Encoder.sampling`. failures: reasons by clip_id of clips that could not be decoded. versions: of the
    packages that made it. reading_rules: the oldest version of `clipvip.video.READING_RULES` by which its clips were
    read. clip_duration_s: as `Encoder.clip_duration_s`. (The first clipvip recorded neither.)
    """

    model: str
    fingerprint: str
    embedding_size: int
    dtype: str
    manifest: str
    split: str | None
    clips: int
    rows: int
    sampling: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    reading_rules: int = 1
    clip_duration_s: float | None = None


def schema(embedding_size: int) -> Any:
    """Columns: the clip and its place; `field`, "media" or the name of the text's field; `number`, which of several
    captions; the text; the unit-norm vector.
    """
    columns = {
        "clip_id": pa.string(),
        "field": pa.string(),
        "number": pa.int32(),
        "text": pa.string(),
        "path": pa.string(),
        "start_s": pa.float64(),
        "end_s": pa.float64(),
        "vector": pa.list_(pa.float32(), embedding_size),
    }
    return pa.schema(list(columns.items()))


def write_facts(folder: Path, facts: SetFacts) -> None:
    """Finish a set."""
    replace_text(folder / FACTS, json.dumps(asdict(facts), indent=2))


def read_facts(folder: Path) -> SetFacts:
    """Raises: UsageError if there is no finished set."""
    try:
        values = parse_json((folder / FACTS).read_text(encoding="utf-8"))
        version = values.get("format_version")
        if version != FORMAT_VERSION:
            raise UsageError(f"{folder}: an embedding set of format {version}, this clipvip reads {FORMAT_VERSION}")
        return SetFacts(**values)
    except FileNotFoundError:
        raise UsageError(
            f"{folder}: no finished embedding set there; make one: clipvip encode MANIFEST --model M --out {folder} "
            "(the same command goes on after an interruption)"
        ) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{folder / FACTS}: damaged ({error}); run the same clipvip encode again") from None
