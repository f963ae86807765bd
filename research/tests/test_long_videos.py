"""Long videos: what the annotation says is what the pixels show."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clipvip.data import read_manifest
from clipvip.data.synthetic import FPS, split_scenarios
from clipvip.video import probe, read_frames, uniform_indices
from helpers_world import write_tiny_world
from moments.long_videos import LENGTHS, SHORTEST_GAP, VIDEO_FRAMES, plan_long_videos, write_long_videos


def test_a_long_video_holds_every_asked_event_once_and_twins_together() -> None:
    """Catches a scenario asked for that occurs twice, twins in two videos, lengths that depend on being a twin."""
    splits = split_scenarios(0, 300, 500)
    videos = plan_long_videos(splits.test, splits.train, seed=0)
    events = [event for video in videos for event in video.events]
    asked = [event for event in events if event.asked]
    assert {event.scenario for event in asked} == {s for s in splits.test if s.event != "still"}
    assert len({event.scenario for event in events}) == len({event.name for event in events}) == len(events)
    assert len(events) == len(asked) * 3 // 2
    assert sum(event.twin is not None for event in asked) == 250
    counts = [sum(event.length == length for event in asked) for length in LENGTHS]
    assert max(counts) - min(counts) < 15, counts
    for video in videos:
        by_name = {event.name: event for event in video.events}
        for event in by_name.values():
            if event.twin is not None:
                twin = by_name[event.twin]
                assert (twin.scenario, twin.length) == (event.scenario.twin, event.length)
        spent = sum(event.length for event in video.events)
        assert 0.6 * VIDEO_FRAMES < spent < 0.75 * VIDEO_FRAMES, "videos are not alike"
        assert spent + sum(video.gaps) == VIDEO_FRAMES
        assert min(video.gaps) >= SHORTEST_GAP
    assert (
        videos
        == plan_long_videos(splits.test, splits.train, seed=0)
        != plan_long_videos(splits.test, splits.train, seed=1)
    )


def test_events_of_all_lengths_are_where_the_manifest_says(tmp_path: Path) -> None:
    """Catches times that are off by a frame, a twin that is another take, and motion in what should stand still."""
    world = write_tiny_world(tmp_path / "world")
    clips = write_long_videos(world, tmp_path / "long")
    assert read_manifest(tmp_path / "long" / "events.jsonl") == clips
    assert {clip.split for clip in clips} == {"asked", "other"}
    by_id = {clip.clip_id: clip for clip in clips}
    twins = 0
    for path in {clip.path for clip in clips}:
        assert probe(path).duration_s == VIDEO_FRAMES / FPS
        frames = read_frames(path, range(VIDEO_FRAMES)).astype(float)
        nothing_moves = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3)) < 3  # beyond what H.264 loses
        shown = np.zeros(VIDEO_FRAMES, bool)
        for clip in (clip for clip in clips if clip.path == path):
            start, end = round(clip.start_s * FPS), round(clip.end_s * FPS)
            shown[start:end] = True
            assert not nothing_moves[start - 1], "no cut at the start"
            assert not nothing_moves[end - 1], "no cut at the end"
            if (twin := by_id.get(clip.extra.get("twin", ""))) is not None:
                twins += 1
                forwards = uniform_indices(end - start, 4)
                backwards = round(twin.end_s * FPS) - 1 - forwards
                assert np.abs(frames[start + forwards] - frames[backwards]).mean() < 6
                assert sorted(backwards) == (round(twin.start_s * FPS) + forwards).tolist(), "another set of frames"
        quiet = ~shown[1:] & ~shown[:-1]
        assert nothing_moves[quiet].all(), "something happens between the events"
    assert twins == 6
