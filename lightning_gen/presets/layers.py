"""Options over a preset's: dicts merge key by key, and those of another network are dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """``high`` over ``low``, key by key; arguments of another class are dropped."""
    if "class_path" in low and high.get("class_path", low["class_path"]) != low["class_path"]:
        return dict(high)
    merged = dict(low)
    for key, value in high.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def drop_network_options(ours: dict[str, Any], asked: Mapping[str, Any]) -> None:
    """Without the preset's options of networks that are replaced by those asked for; a critic None is the network."""
    known = {"network": ours.get("network"), "critic": ours.get("critic") or ours.get("network")}
    changed = [key for key in known if asked.get(key) not in (None, known[key])]
    follows = "network" in changed and "critic" in ours and ours["critic"] is None
    ours.update({f"{key}_args": {} for key in (*changed, *(["critic"] if follows else []))})
