"""How `clipvip train --list` looks: plain lines, so that a command can be copied and the output piped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipvip.training.listing import Listing


def as_text(listings: Sequence[Listing]) -> str:
    """All recipes, a few lines each, by folder; what most of a folder have in common is said once, above them."""
    lines = [
        "A recipe under the released code's choices: NAME@released. One recipe in full: clipvip train --list NAME."
    ]
    for folder, group in groupby(listings, lambda listing: listing.name.rpartition("/")[0]):
        members = list(group)
        usual_inputs = _usual([listing.inputs for listing in members])
        all_change = _in_all([listing.released for listing in members])
        lines += ["", f"{folder}/", *(f"    {name}: {text}" for name, text in usual_inputs.items())]
        if all_change:
            lines.append(f"    @released changes in all: {_changes(all_change)}")
        for listing in members:
            recipe = listing.recipe
            own_inputs = {name: text for name, text in listing.inputs.items() if usual_inputs.get(name) != text}
            own_changes = {field: pair for field, pair in listing.released.items() if field not in all_change}
            lines += [
                f"  {listing.name}: {recipe.about}",
                f"    {listing.command}",
                *(f"    {name}: {text}" for name, text in own_inputs.items()),
                f"    batch {recipe.train.batch_size}; hardware: {recipe.hardware or 'not stated'}; "
                f"paper: {recipe.paper or 'not stated'}; ours: {recipe.ours}",
            ]
            if own_changes:
                lines.append(f"    @released{' also' if all_change else ''}: {_changes(own_changes)}")
    return "\n".join(lines)


def as_full_text(listing: Listing) -> str:
    """One recipe with all its settings."""
    recipe = listing.recipe
    lines = [f"{listing.name}: {recipe.about}", "", listing.command]
    lines += [f"  {name}: {text}" for name, text in listing.inputs.items()]
    if recipe.data.val is None:
        lines.append("  without data.val=MANIFEST there is no validation, and the last weights are kept")
    lines += [
        "",
        f"profile:  {recipe.profile}",
        f"batch:    {recipe.train.batch_size}",
        f"hardware: {recipe.hardware or 'not stated'}",
        f"paper:    {recipe.paper or 'not stated'}",
        f"ours:     {recipe.ours}",
        "",
        "settings",
        *_columns(listing.settings()),
        "",
        "what NAME@released changes: ours -> released",
        *_columns({field: f"{_told(ours)} -> {_told(theirs)}" for field, (ours, theirs) in listing.released.items()}),
        "",
        "what differs from the released code even then",
        *(f"  {difference}" for difference in listing.still_differs),
    ]
    return "\n".join(lines)


def as_json(listing: Listing) -> dict[str, Any]:
    """The same for programs."""
    recipe = listing.recipe
    return {
        "name": listing.name,
        "about": recipe.about,
        "command": listing.command,
        "inputs": listing.inputs,
        "profile": recipe.profile,
        "batch_size": recipe.train.batch_size,
        "hardware": recipe.hardware,
        "paper": recipe.paper,
        "ours": recipe.ours,
        "settings": listing.settings(),
        "released": {
            field: {"clipvip": ours, "released": theirs} for field, (ours, theirs) in listing.released.items()
        },
        "still_differs": list(listing.still_differs),
    }


def _usual(tables: Sequence[dict[str, str]]) -> dict[str, str]:
    """What most of several tables have under each key; nothing of a single one."""
    keys = dict.fromkeys(key for table in tables for key in table)
    common = {key: Counter(table[key] for table in tables if key in table).most_common(1)[0] for key in keys}
    return {key: text for key, (text, count) in common.items() if count > 1 and 2 * count >= len(tables)}


def _in_all(tables: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The entries that all of several tables have; none of a single one."""
    first, *others = tables
    return {key: value for key, value in first.items() if others and all(other.get(key) == value for other in others)}


def _changes(released: dict[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"{field} {_told(ours)} -> {_told(theirs)}" for field, (ours, theirs) in released.items())


def _columns(table: dict[str, Any]) -> list[str]:
    width = max((len(field) for field in table), default=0)
    return [f"  {field:{width}}  {_told(value)}" for field, value in table.items()]


def _told(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)
