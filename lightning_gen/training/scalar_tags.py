"""Tags of training scalars: the same quantity has the same tag in all families, however a family names its players.

train/NAME             of the only player, or of the one that learns to reconstruct: loss, reconstruction, kl, lr
train/PLAYER/NAME      of another one: discriminator/logit_real, generator/adversarial, prior/bits_per_token
train/loss_PLAYER      and lr_PLAYER, skipped_PLAYER: what every player has stands side by side
"""

from __future__ import annotations

import re
from typing import ClassVar, Protocol

OF_EVERY_PLAYER = ("loss", "lr", "skipped")
RENAMED = {"train/discriminator/logit_sampled": "train/discriminator/logit_fake"}  # of vae-gan


class HasPlayers(Protocol):
    """A GenerativeModule, or its class."""

    players: ClassVar[dict[str, tuple[str, ...]]]
    player_tags: ClassVar[dict[str, str]]


def scalar_tag(model: HasPlayers, player: str, name: str) -> str:
    """The tag, without "train/", of a value of a player."""
    shown = model.player_tags.get(player, player if len(model.players) > 1 else "")
    if not shown:
        return name
    return f"{name}_{shown}" if name in OF_EVERY_PLAYER else f"{shown}/{name}"


def current_tag(model: HasPlayers, tag: str) -> str:
    """Today's tag of what a run of before logged under the players' own names, such as "train/generators/cycle"."""
    for player in model.players:
        if found := re.fullmatch(rf"train/(?:({'|'.join(OF_EVERY_PLAYER)})_{player}|{player}/(.+))", tag):
            tag = f"train/{scalar_tag(model, player, found[1] or found[2])}"
            break
    return RENAMED.get(tag, tag)
