"""Captioned images: COCO, Flickr30k (csv, or Karpathy's json, which both have), Visual Genome."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from clipvip.data.importers.base import Importer, merged, read_each
from clipvip.data.importers.reading import (
    Entry,
    TableShape,
    captions_by_id,
    first_character,
    iter_list,
    iter_table,
    read_object,
)
from clipvip.data.media import without_extension
from clipvip.records import Clip

_NUMBERED = re.compile(r"\s*(\d+)\s+(.+)", re.ASCII | re.DOTALL)
_FLICKR_COLUMNS = ("image_name", "comment_number", "comment")


def read_coco(path: Path) -> Iterator[Clip]:
    """The official captions_*.json, or Karpathy's dataset_coco.json."""
    whole = read_object(path)
    if "annotations" not in whole.value:
        yield from _karpathy(whole)
        return
    captions = captions_by_id(whole, "images", "id", "annotations", "image_id")
    for image in whole.entries("images"):
        image_id = image.name("id")
        yield Clip(image_id, image=Path(image.text("file_name")), captions=captions[image_id])


def read_flickr30k(path: Path) -> Iterator[Clip]:
    """results.csv, or Karpathy's dataset_flickr30k.json."""
    if first_character(path) == "{":
        return _karpathy(read_object(path))
    rows = iter_table(path, TableShape(delimiter="|", quoted=False, repair=_repaired), wanted=_FLICKR_COLUMNS)
    return merged(_flickr_clip(row.text("image_name"), row.value["comment"]) for row in rows)


def read_visual_genome(path: Path) -> Iterator[Clip]:
    """One clip per image: the phrases of its regions, in file order; the boxes are not taken."""
    for entry in iter_list(path):
        image_id = entry.name("id")
        phrases = tuple(str(region.get("phrase", str)) for region in entry.entries("regions"))
        yield Clip(image_id, image=Path(f"{image_id}.jpg"), captions=phrases)


def _karpathy(whole: Entry) -> Iterator[Clip]:
    for image in whole.entries("images"):
        name = image.text("filename")
        yield Clip(
            image.name("cocoid") if "cocoid" in image.value else without_extension(name),
            image=Path(image.value.get("filepath") or "", name),
            captions=tuple(str(sentence.get("raw", str)) for sentence in image.entries("sentences")),
            split=image.name("split") if "split" in image.value else None,
        )


def _flickr_clip(name: str, comment: str) -> Clip:
    return Clip(without_extension(name), image=Path(name), captions=(comment,))


def _repaired(cells: list[str]) -> list[str]:
    """One line of the widely copied results.csv lacks its second `|`: `2199200615.jpg| 4   A dog runs ...`."""
    if len(cells) == 2 and (found := _NUMBERED.fullmatch(cells[1])):
        return [cells[0], *found.groups()]
    return cells


def _genome_folders(path: str) -> Iterable[str]:
    return f"VG_100K/{path}", f"VG_100K_2/{path}"


def _coco_folders(path: str) -> Iterable[str]:
    """The release Karpathy's paths name is not the one people have: `val2014/COCO_val2014_000000391895.jpg`."""
    return (path.rpartition("/")[2], re.sub(r"^.*_", "", path)) if "/" in path else ()


IMAGE_SETS = (
    Importer(
        "coco",
        "COCO captions: captions_train2017.json (or 2014), or Karpathy's dataset_coco.json",
        "JSON...",
        read_each(read_coco),
        spellings=_coco_folders,
        sizes={"train2017": 118287, "val2017": 5000, "train2014": 82783, "val2014": 40504, "all": 123287},
    ),
    Importer(
        "flickr30k",
        "Flickr30k: results.csv, or Karpathy's dataset_flickr30k.json",
        "FILE...",
        read_each(read_flickr30k),
        sizes={"csv": 31783, "json": 31014, "train": 29000, "val": 1014, "test": 1000},
    ),
    Importer(
        "visual-genome",
        "Visual Genome: region_descriptions.json (phrases of an image become its captions)",
        "JSON...",
        read_each(read_visual_genome),
        spellings=_genome_folders,
        sizes={"all": 108077},
    ),
)
