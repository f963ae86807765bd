"""Importers of video sets with a format of their own: the public shapes to manifests."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

from clipvip.data.importers import Options
from clipvip.data.importers.base import merged
from clipvip.errors import ClipVipError, ManifestError
from clipvip.records import Clip
from helpers_import import imported, touch, write

MSRVTT = {
    "info": {"contributor": "Microsoft Research"},
    "videos": [
        {"category": 9, "url": "https://v.org/a", "video_id": "video0", "start time": 137.72, "end time": 149.44,
         "split": "train", "id": 0},
        {"category": 16, "url": "https://v.org/b", "video_id": "video1", "start time": 0, "end time": 9.5,
         "split": "validate", "id": 1},
    ],
    "sentences": [
        {"caption": "a car is shown", "video_id": "video0", "sen_id": 0},
        {"caption": " in a kitchen a woman is cooking \n", "video_id": "video1", "sen_id": 1},
        {"caption": "a group is dancing", "video_id": "video0", "sen_id": 2},
    ],
}  # fmt: skip
PAIRS = (
    "key,vid_key,video_id,sentence\n"
    "ret0,msr9770,video9770,a person is connecting something to system\n"
    'ret1,msr9771,video9771,"a little girl does gymnastics, well"\n'
    "ret2,msr7020,video7020,a person is connecting something to system\n"
)
DIDEMO = [
    {"num_segments": 6, "description": "baby shakes maraca.", "dl_link": "https://d.org/1",
     "times": [[0, 0], [0, 0], [0, 1]], "video": "12@N01_60_dc.mov", "annotation_id": 49152},
    {"num_segments": 5, "description": "a dog runs.", "dl_link": "https://d.org/2", "times": [[1, 1]],
     "video": "34@N07_61_aa.avi", "annotation_id": 49153},
    {"num_segments": 6, "description": "baby stops.", "dl_link": "https://d.org/1", "times": [[4, 5]],
     "video": "12@N01_60_dc.mov", "annotation_id": 49154},
]  # fmt: skip
LSMDC = (
    '1004_Juno_00.00.32.267-00.00.37.456\t00.00.32.267\t00.00.37.456\t00.00.31.8\t00.00.37.9\tSOMEONE "walks" by.\n'
    "0001_American_Beauty_00.00.51.926-00.00.54.129\t00.00.51.926\t00.00.54.129\t00.00.51\t00.00.54\tA town.\n"
    "1004_Juno_00.00.32.267-00.00.37.456\t00.00.32.267\t00.00.37.456\t00.00.31.8\t00.00.37.9\tShe stops.\n"
)
ACTIVITYNET = {
    "v_QOlSCBRmfWY": {
        "duration": 82.73,
        "timestamps": [[0.83, 19.86], [17.37, 60.81], [56.26, 79.42]],
        "sentences": ["A woman stands.", " ", " The girl dances."],
    },
    "v_ehGHCYKzyZ8": {"duration": 61.72, "timestamps": [[0, 61.72]], "sentences": ["A man plays."]},
}
VATEX = [
    {"videoID": "Ptf_2VRj-V0_000122_000132", "enCap": ["A person dips a mop.", "Another."], "chCap": ["一个人"]},
]


def test_msrvtt_annotations_and_the_9k_list(tmp_path: Path) -> None:
    """Catches sentences given to the wrong video, cut clips cut again, and a list of ids that is not obeyed."""
    source = write(tmp_path / "MSRVTT_data.json", MSRVTT)
    rows, report = imported("msrvtt", source)
    assert rows[0] == {
        "clip_id": "video0", "video": "video0.mp4", "captions": ["a car is shown", "a group is dancing"],
        "split": "train", "category": 9, "url": "https://v.org/a", "start time": 137.72, "end time": 149.44, "id": 0,
    }  # fmt: skip
    assert (rows[1]["captions"], rows[1]["split"]) == (["in a kitchen a woman is cooking"], "val")
    assert report.public_sizes["1k-A test"] == 1000
    nine = write(tmp_path / "MSRVTT_train.9k.csv", "video_id\nvideo1\nvideo77\n")
    rows, report = imported("msrvtt", source, ids=nine, split="train")
    assert [(row["clip_id"], row["split"]) for row in rows] == [("video1", "train")]
    assert (report.not_listed, report.listed_not_found, report.listed_not_found_examples) == (1, 1, ["video77"])
    with pytest.raises(ManifestError, match=r"line 2: field 'sentence' is missing.*--ids MSRVTT_train.9k.csv"):
        imported("msrvtt", nine)


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_msrvtt_1ka_pairs(tmp_path: Path, delimiter: str) -> None:
    """Catches a csv read with the wrong delimiter, and repeated test sentences that nobody hears of."""
    text = PAIRS if delimiter == "," else PAIRS.replace(",", ";").replace("; well", ", well")
    rows, report = imported("msrvtt", write(tmp_path / "MSRVTT_JSFUSION_test.csv", text), split="test")
    assert rows[1] == {
        "clip_id": "video9771", "video": "video9771.mp4", "captions": ["a little girl does gymnastics, well"],
        "split": "test", "key": "ret1", "vid_key": "msr9771",
    }  # fmt: skip
    assert report.repeated_captions == {"texts": 1, "captions": 2}


def test_msrvtt_csv_with_many_captions_of_a_video(tmp_path: Path) -> None:
    """Catches nineteen of twenty captions dropped as repeated ids."""
    text = "video_id,sentence\nvideo1,a dog\nvideo0,a car\nvideo1,a dog runs\n"
    rows, report = imported("msrvtt", write(tmp_path / "train.csv", text))
    assert [(row["clip_id"], row["captions"]) for row in rows] == [
        ("video1", ["a dog", "a dog runs"]), ("video0", ["a car"])
    ]  # fmt: skip
    assert (report.duplicates, report.captions) == (0, 3)


def test_msrvtt_lists_of_hugging_face(tmp_path: Path) -> None:
    """Catches a list of videos, or of captions, refused or read as one caption a video."""
    videos = [
        {"video_id": "video0", "video": "video0.mp4", "caption": ["a car", "a red car"], "source": "web", "id": 9},
        {"video_id": "video1", "video": "video1.mp4", "caption": "a dog"},
    ]  # fmt: skip
    rows, _ = imported("msrvtt", write(tmp_path / "msrvtt_train_9k.json", videos))
    assert rows == [
        {
            "clip_id": "video0",
            "video": "video0.mp4",
            "captions": ["a car", "a red car"],
            "source": "web",
            "id": 9,
        },
        {"clip_id": "video1", "video": "video1.mp4", "captions": ["a dog"]},
    ]
    captions = [
        {"video_id": "video0", "caption": "a car", "sen_id": 0, "split": "validate"},
        {"video_id": "video1", "caption": "a dog", "sen_id": 1, "split": "train"},
        {"video_id": "video0", "caption": "a red car", "sen_id": 2, "split": "validate"},
    ]
    rows, report = imported("msrvtt", write(tmp_path / "all.json", captions))
    assert [(row["captions"], row["split"]) for row in rows] == [(["a car", "a red car"], "val"), (["a dog"], "train")]
    assert report.duplicates == 0
    with pytest.raises(ManifestError, match=r"field '\$\[1\].caption' is missing"):
        imported("msrvtt", write(tmp_path / "bad.json", [captions[0], {"video_id": "video1"}]))


def test_msrvtt_of_frozen_in_time(tmp_path: Path) -> None:
    """Catches the file of images and annotations refused for its shape."""
    whole = {
        "images": [{"id": "video0"}, {"id": "video1", "file_name": "one.avi"}],
        "annotations": [
            {"image_id": "video1", "caption": "a dog", "id": 0},
            {"image_id": "video0", "caption": "a car", "id": 1},
            {"image_id": "video1", "caption": "a dog runs", "id": 2},
        ],
    }
    rows, _ = imported("msrvtt", write(tmp_path / "MSR_VTT.json", whole))
    assert rows == [
        {"clip_id": "video0", "video": "video0.mp4", "captions": ["a car"]},
        {"clip_id": "video1", "video": "one.avi", "captions": ["a dog", "a dog runs"]},
    ]
    whole["annotations"].append({"image_id": "video7", "caption": "?", "id": 3})
    with pytest.raises(ManifestError, match=r"annotations\[3\].image_id' 'video7' is not among the images"):
        imported("msrvtt", write(tmp_path / "MSR_VTT.json", whole))


def test_didemo_paragraphs_and_mixed_extensions(tmp_path: Path) -> None:
    """Catches descriptions out of order, times that lose their sentence, and files known under another extension."""
    source = write(tmp_path / "test_data.json", DIDEMO)
    videos = touch(tmp_path / "videos", "12@N01_60_dc.MP4", "34@N07_61_aa.avi.mp4", "34@N07_61_aa.jpg")
    rows, report = imported("didemo", source, videos=videos)
    assert rows[0] == {
        "clip_id": "12@N01_60_dc", "video": "videos/12@N01_60_dc.MP4",
        "captions": ["baby shakes maraca.", "baby stops."], "times": [[[0, 0], [0, 0], [0, 1]], [[4, 5]]],
        "annotation_ids": [49152, 49154], "num_segments": 6, "dl_link": "https://d.org/1",
    }  # fmt: skip
    assert rows[1]["video"] == "videos/34@N07_61_aa.avi.mp4"
    assert (report.found, report.found_otherwise, report.missing) == (2, 2, 0)
    assert set(report.public_sizes.values()) >= {1003, 1004, 1036, 1037}


def test_lsmdc_without_header_or_quoting(tmp_path: Path) -> None:
    """Catches quotes that swallow fields, a wrong movie folder, and clips named twice that lose a sentence."""
    source = write(tmp_path / "LSMDC16_annos_training.csv", LSMDC)
    flat = touch(tmp_path / "flat", "0001_American_Beauty_00.00.51.926-00.00.54.129.mp4")
    rows, report = imported("lsmdc", source, videos=flat)
    assert rows[0]["captions"] == ['SOMEONE "walks" by.', "She stops."]
    assert rows[0]["video"] == "flat/1004_Juno/1004_Juno_00.00.32.267-00.00.37.456.avi"
    assert rows[0]["start_aligned"] == "00.00.32.267"
    assert rows[1]["video"] == "flat/0001_American_Beauty_00.00.51.926-00.00.54.129.mp4"
    assert (report.clips, report.captions, report.missing) == (2, 3, 1)


def test_activitynet_with_and_without_v(tmp_path: Path) -> None:
    """Catches timestamps that shift when an empty sentence is dropped, and files named without `v_`."""
    source = write(tmp_path / "val_1.json", ACTIVITYNET)
    videos = touch(tmp_path / "videos", "QOlSCBRmfWY.mkv", "v_ehGHCYKzyZ8.mp4")
    rows, report = imported("activitynet", source, videos=videos, split="val")
    assert rows[0] == {
        "clip_id": "v_QOlSCBRmfWY", "video": "videos/QOlSCBRmfWY.mkv", "split": "val", "duration": 82.73,
        "captions": ["A woman stands.", "The girl dances."], "timestamps": [[0.83, 19.86], [56.26, 79.42]],
    }  # fmt: skip
    assert rows[1]["video"] == "videos/v_ehGHCYKzyZ8.mp4"
    assert (report.empty_texts, report.found_otherwise, report.missing) == (1, 1, 0)


def test_msvd_pickle_json_and_lists(tmp_path: Path) -> None:
    """Catches tokens that stay apart, and a split list with extensions or blank lines."""
    captions = {
        "mv89psg6zh4_33_46": [["a", "bird", "bathes"], ["a", "faucet"]],
        "-4wsuPCjDBc_5_15": [["a", "squirrel"]],
    }
    source = tmp_path / "raw-captions.pkl"
    source.write_bytes(pickle.dumps(captions))
    rows, _ = imported("msvd", source, ids=write(tmp_path / "test_list.txt", "mv89psg6zh4_33_46.avi\n\n"))
    assert rows == [
        {"clip_id": "mv89psg6zh4_33_46", "video": "mv89psg6zh4_33_46.avi", "captions": ["a bird bathes", "a faucet"]}
    ]
    joined = {key: [" ".join(words) for words in value] for key, value in captions.items()}
    assert imported("msvd", write(tmp_path / "captions_msvd.json", joined))[0][0] == rows[0]
    source.write_bytes(pickle.dumps(captions, protocol=0))
    assert imported("msvd", source)[0][0] == rows[0]


def test_msvd_pickle_with_code_is_not_executed(tmp_path: Path) -> None:
    """Catches a pickle that runs a program when it is imported."""

    class Bad:
        def __reduce__(self) -> object:
            return (Path.touch, (tmp_path / "executed",))

    (tmp_path / "raw-captions.pkl").write_bytes(pickle.dumps({"a": [Bad()]}))
    with pytest.raises(ManifestError, match=r"raw-captions.pkl: .*holds code \(.*\), which was not executed"):
        imported("msvd", tmp_path / "raw-captions.pkl")
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "manifest.jsonl").exists()


def test_vatex_keeps_chinese_as_it_is(tmp_path: Path) -> None:
    """Catches Chinese captions mixed into the English ones, or lost."""
    rows, _ = imported("vatex", write(tmp_path / "vatex_training_v1.0.json", VATEX))
    assert rows[0]["captions"] == ["A person dips a mop.", "Another."]
    assert rows[0]["chCap"] == ["一个人"]
    assert rows[0]["video"] == "Ptf_2VRj-V0_000122_000132.mp4"


def test_released_retrieval_videos_frames_and_movie_folders(tmp_path: Path) -> None:
    """Catches single texts cut into letters, LSMDC's .avi, and frames taken for a video file."""
    source = write(
        tmp_path / "test1ka.jsonl",
        [
            {"clip_id": "video7020", "text": "a woman creating a fondant baby"},
            {"clip_id": "Juno/Juno_00.1-00.2", "text": ["one", "two"]},
            {"clip_id": "video9", "text": "in frames", "num_frame": 31},
        ],
        lines=True,
    )
    videos = touch(tmp_path / "v", "video7020.mp4", "Juno/Juno_00.1-00.2.avi", "video9/video9_000.jpg")
    rows, report = imported("clipvip", source, videos=videos)
    assert [row["video"] for row in rows] == ["v/video7020.mp4", "v/Juno/Juno_00.1-00.2.avi", "v/video9"]
    assert [row["captions"] for row in rows] == [["a woman creating a fondant baby"], ["one", "two"], ["in frames"]]
    assert rows[2]["num_frame"] == 31
    assert report.missing == 0
    assert list(report.notes.values()) == [1]


def test_released_pretraining_lmdb(tmp_path: Path) -> None:
    """Catches subtitles of the wrong clip, and a missing caption that becomes the text "None"."""
    lmdb = pytest.importorskip("lmdb")
    for name, texts in (("subtitles_db", {"Q.1.mp4": "hello there"}), ("captions_db", {"Q.1.mp4": "a man"})):
        with lmdb.open(str(tmp_path / name), map_size=1 << 20) as database, database.begin(write=True) as transaction:
            for key, text in texts.items():
                transaction.put(key.encode(), text.encode())
    with pytest.raises(ManifestError, match=r"subtitles_db\.jsonl: no such file"):
        imported("clipvip-pretrain", tmp_path / "subtitles_db")
    write(tmp_path / "subtitles_db.jsonl", [{"clip_id": "Q.1.mp4"}, {"clip_id": "Q.2.mp4"}], lines=True)
    jsons = write(tmp_path / "captions.json", [{"image_id": "Q.2.mp4", "caption": "a cat"}])
    rows, report = imported(
        "clipvip-pretrain", tmp_path / "subtitles_db", options=Options(captions=tmp_path / "captions_db")
    )
    assert rows == [
        {"clip_id": "Q.1.mp4", "video": "Q/Q.1.mp4", "subtitle": "hello there", "caption": "a man"},
        {"clip_id": "Q.2.mp4", "video": "Q/Q.2.mp4"},
    ]
    assert (report.without_text, sorted(report.notes.values())) == (1, [1, 1])
    rows, _ = imported("clipvip-pretrain", tmp_path / "subtitles_db", options=Options(captions=jsons))
    assert [row.get("caption") for row in rows] == [None, "a cat"]


def test_released_pretraining_without_lmdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches the JSON form that needs the package too, and a traceback where it is needed but missing."""
    monkeypatch.setitem(sys.modules, "lmdb", None)
    source = write(tmp_path / "a.jsonl", [{"clip_id": "Q.1.mp4", "text": "hello"}], lines=True)
    assert imported("clipvip-pretrain", source)[0][0]["subtitle"] == "hello"
    (tmp_path / "db").mkdir()
    with pytest.raises(ClipVipError, match=r'pip install "clipvip\[lmdb\]"'):
        imported("clipvip-pretrain", tmp_path / "db")


def test_released_pretraining_damaged_lmdb(tmp_path: Path) -> None:
    """Catches a database that cannot be read, or lacks its list of clips, imported as one without subtitles."""
    pytest.importorskip("lmdb")
    (tmp_path / "db").mkdir()
    with pytest.raises(ManifestError, match="db: no LMDB, or a damaged one"):
        imported("clipvip-pretrain", tmp_path / "db")
    (tmp_path / "db" / "data.mdb").write_bytes(b"x" * 9000)
    with pytest.raises(ManifestError, match="db: no LMDB, or a damaged one"):
        imported("clipvip-pretrain", tmp_path / "db")


def test_one_video_in_two_splits_is_an_error():
    """Catches a caption of the test set that trains, because its video came first with another split."""
    clips = [
        Clip("v", video=Path("v.mp4"), captions=(text,), split=split) for text, split in (("a", "train"), ("b", "test"))
    ]
    with pytest.raises(ManifestError, match="v: is in the splits 'train' and 'test'"):
        list(merged(clips))
