"""Importers: the annotation files of the field's data sets to manifests.

A format is a reader that yields clips and an `Importer` in the table of its file: sets of videos, of images, what the
released code has, tables, shards. What all share (choosing, cleaning, finding media, counting, writing) is in `run`.
"""

from clipvip.data.importers.base import Importer, Options
from clipvip.data.importers.hdvila import HDVILA, work_folder
from clipvip.data.importers.image_sets import IMAGE_SETS
from clipvip.data.importers.released import RELEASED
from clipvip.data.importers.run import Report, run_import
from clipvip.data.importers.shards import SHARDS
from clipvip.data.importers.tables import TABLES
from clipvip.data.importers.video_sets import VIDEO_SETS

FORMATS: dict[str, Importer] = {
    importer.name: importer
    for importer in (
        *RELEASED, *VIDEO_SETS, HDVILA, *IMAGE_SETS, SHARDS, *TABLES,
    )
}  # fmt: skip

__all__ = ["FORMATS", "Importer", "Options", "Report", "run_import", "work_folder"]
