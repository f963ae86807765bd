"""The tables of names: both directions agree, and formats are told apart."""

from __future__ import annotations

import pytest

from clipvip.checkpoints.keymaps import FORMATS, FUSED, OPENAI, RELEASED, Format, recognise, to_ours, to_theirs
from helpers_golden import golden_state, tensors
from helpers_openai import Sizes, make_state


def our_names(known: Format) -> list[str]:
    """Our parameters that a format has: what CLIP-ViP adds to CLIP is in released files only."""
    names = list(golden_state())
    return names if known is RELEASED else [name for name in names if "proxy" not in name and "temporal" not in name]


@pytest.mark.parametrize("known", FORMATS, ids=lambda known: f"{known.name}-{known.marks[0]}")
def test_tables_read_both_ways(known: Format) -> None:
    """Catches a rule that leads somewhere from which it does not come back, or two tensors on one key."""
    keys = {name: to_theirs(known, name).key for name in our_names(known)}
    for name, key in keys.items():
        assert name in to_ours(known, key), (name, key)
    shared = {key for key in keys.values() if list(keys.values()).count(key) > 1}
    assert all(to_theirs(known, name).layout is FUSED for name, key in keys.items() if key in shared)


def test_tables_give_the_keys_of_real_state_dicts() -> None:
    """Catches a table that agrees with itself but not with the files."""
    for known, keys in ((RELEASED, tensors("state_dict")), (OPENAI, make_state(Sizes(layers=3)))):
        assert {to_theirs(known, name).key for name in our_names(known)} == keys.keys() - known.buffers.keys()


def test_fused_parts_come_in_order() -> None:
    """Catches query, key and value exchanged."""
    place = to_theirs(OPENAI, "text_model.encoder.layers.11.self_attn.k_proj.bias")
    assert place.key == "transformer.resblocks.11.attn.in_proj_bias"
    assert place.ours == tuple(f"text_model.encoder.layers.11.self_attn.{part}_proj.bias" for part in "qkv")
    assert to_ours(OPENAI, place.key) == place.ours


def test_unknown_names() -> None:
    """Catches a pattern that lets a name through that only looks like one of the table's."""
    assert to_ours(OPENAI, "visual.transformer.resblocks.0.ln_1.extra.weight") == ()
    assert to_ours(OPENAI, "visual.projection") == ()
    assert recognise(["encoder.weight"]) is None
    assert recognise([]) is None
    with pytest.raises(KeyError):
        to_theirs(OPENAI, "vision_model.embeddings.proxy_tokens")
