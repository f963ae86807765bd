"""Looking up media files under the names that data sets are handed around with."""

from __future__ import annotations

import unicodedata

import pytest

from clipvip.data.importers.base import video_path
from clipvip.data.media import LIBRARY_EXTENSIONS, MEDIA_EXTENSIONS, VIDEO_EXTENSIONS, MediaFolder, without_extension


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("name", ["é/ê 한.mp4", "é/ê 한", "é/ê 한.avi"])
def test_names_are_found_in_any_form_of_unicode(tmp_path, form, name):
    """Catches a data set copied from a Mac whose manifest, written in NFC, finds none of its files."""
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    stored = tmp_path / unicodedata.normalize(form, "é") / unicodedata.normalize(form, "ê 한.mp4")
    stored.parent.mkdir()
    stored.touch()
    folder = MediaFolder()
    assert folder.find([f"{tmp_path}/{unicodedata.normalize(other, name)}"], VIDEO_EXTENSIONS) == str(stored)
    assert folder.find([f"{tmp_path}/{unicodedata.normalize(form, name)}"], VIDEO_EXTENSIONS) == str(stored)
    assert folder.find([f"{tmp_path}/è/ê 한.mp4", f"{tmp_path}/é/e 한.mp4"], VIDEO_EXTENSIONS) is None


def test_the_exact_name_comes_first(tmp_path):
    """Catches two files whose names look the same, of which one is taken for the other."""
    for form in ("NFC", "NFD"):
        (tmp_path / unicodedata.normalize(form, "é.mp4")).touch()
    for form in ("NFC", "NFD"):
        path = f"{tmp_path}/{unicodedata.normalize(form, 'é.mp4')}"
        assert MediaFolder().find([path], VIDEO_EXTENSIONS) == path
        assert MediaFolder().exists(path)


def test_endings_of_cameras_are_no_part_of_data_sets():
    """Catches names such as clip.mod or v1.mp that lose their end, or get no extension, because of camcorders."""
    assert set(LIBRARY_EXTENSIONS) - set(VIDEO_EXTENSIONS) == {".mod", ".mp"}
    assert not {".mod", ".mp"} & MEDIA_EXTENSIONS
    assert without_extension("clip.mod") == "clip.mod"
    assert str(video_path("v1.mp")) == "v1.mp.mp4"
    assert VIDEO_EXTENSIONS[:2] == (".mp4", ".avi")  # of several files the first of these is chosen
