"""Which files of two folders belong together: by equal names, by their order, or by a key that an expression finds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .errors import UserError
from .image_files import list_images
from .pages import pages_named, pages_of
from .split_folders import split_folders

NAME, ORDER = "name", "order"
RULES = f"{NAME}, {ORDER}, or a regular expression that finds what the names of two partners share"
SHOWN = 5  # names in a message

Rule = str | re.Pattern[str]


class Matched(NamedTuple):
    """The pairs of two folders.

    Args:
        partners: file of side a -> file of side b.
        alone: files of both sides that are in no pair.
        notices: what there is to say of them.
    """

    partners: dict[str, str]
    alone: frozenset[str] = frozenset()
    notices: tuple[str, ...] = ()


class Side(NamedTuple):
    """The files of one side in one split.

    Args:
        folder: of the split.
        files: relative path without its suffix, and path, of each.
    """

    folder: Path
    files: list[tuple[str, str]]

    def names(self, paths: Sequence[str]) -> str:
        """Some of the paths as they are called in the folder."""
        return some([Path(path).relative_to(self.folder).as_posix() for path in paths])


def some(names: Sequence[str]) -> str:
    """The first few of some names."""
    return ", ".join(names[:SHOWN]) + ", ..." * (len(names) > SHOWN)


def rule_of(match: str) -> Rule:
    """The rule that ``--data.match`` names: "name", "order", or a compiled expression.

    Raises:
        UserError: it is no regular expression; says where not.
    """
    if match in (NAME, ORDER):
        return match
    try:
        return re.compile(match)
    except (re.error, OverflowError, RecursionError, TypeError) as error:
        raise UserError(f"--data.match {match} is no regular expression, {error}: possible are {RULES}") from None


def match_files(rule: Rule, a: Path, b: Path) -> Matched:
    """The pairs of two folders; by other rules than names they are found within each split, where folders tell them.

    Raises:
        UserError: there is none, a file has no partner or several could be it; see the functions for each rule.
    """
    if rule == NAME:
        return Matched(match_by_stem(a, b))
    splits = _splits(a, b)
    return match_by_key(rule, splits) if isinstance(rule, re.Pattern) else match_by_order(splits)


# Equal names


def by_stem(folder: Path) -> dict[str, str]:
    """Name without its suffix -> path, of all images in a folder.

    Raises:
        UserError: two images differ by their suffix alone.
    """
    found: dict[str, str] = {}
    for stem, path in _files(folder):
        if stem in found:
            raise UserError(f"{path} and {found[stem]} have one name: which one is in the pair?")
        found[stem] = path
    return found


def match_by_stem(a: Path, b: Path) -> dict[str, str]:
    """File of side a -> file of side b, of equal names but for the suffix.

    Raises:
        UserError: a name has no counterpart.
    """
    sides = by_stem(a), by_stem(b)
    alone = [sorted(own.keys() - other.keys()) for own, other in (sides, sides[::-1])]
    if any(alone):
        said = (
            f"{len(names)} only in {folder}" + f" ({some(names)})" * bool(names)
            for names, folder in zip(alone, (a, b), strict=True)
        )
        hint = "--data.match takes pairs of other names, by order or by a regular expression"
        raise UserError(f"pairs need equal names, suffixes may differ: {' and '.join(said)}; {hint}")
    return {path: sides[1][stem] for stem, path in sides[0].items()}


# Order


def natural(name: str) -> tuple[list[str | int], str]:
    """A key that sorts by the numbers in a name, 2 before 10; case decides between equals alone."""
    parts = re.split(r"(\d+)", name.casefold())  # text and digits in turn
    return [int(part) if k % 2 else part for k, part in enumerate(parts)], name


def match_by_order(splits: Sequence[tuple[Side, Side]]) -> Matched:
    """The n-th file of side a with the n-th of side b, in natural order.

    Raises:
        UserError: the sides of a split differ in number.
    """
    partners: dict[str, str] = {}
    for sides in splits:
        a, b = ([path for _, path in sorted(side.files, key=lambda file: natural(file[0]))] for side in sides)
        if len(a) != len(b):
            held = [
                f"{len(paths)} in {side.folder} ({side.names(paths)})"
                for side, paths in zip(sides, (a, b), strict=True)
            ]
            raise UserError(f"--data.match order needs as many pictures on both sides: {' and '.join(held)}")
        partners |= dict(zip(a, b, strict=True))
    (first, last), count = (list(partners.items())[k] for k in (0, -1)), len(partners)
    said = (
        f"{count:,} pairs are guessed by order: the first {first[0]} and {first[1]}, the last {last[0]} and {last[1]}"
    )
    return Matched(partners, notices=(said,))


# A key


def match_by_key(expression: re.Pattern[str], splits: Sequence[tuple[Side, Side]]) -> Matched:
    """The files of both sides in which the expression finds the same key: its first group, or all that it matches.

    It looks for the key in the path below the folder, without the suffix. Files without a key, and keys that one side
    alone has, are left out.

    Raises:
        UserError: two files of a side have one key; the expression matches no file of a side; no key is on both.
    """
    partners: dict[str, str] = {}
    alone: set[str] = set()
    notices = []
    for sides in splits:
        keys = [find_keys(expression, side) for side in sides]
        both = keys[0].keys() & keys[1].keys()
        if not both:
            examples = " and ".join(f"{min(own)!r} in {side.folder}" for own, side in zip(keys, sides, strict=True))
            raise UserError(f"--data.match {expression.pattern} finds no key on both sides: such as {examples}")
        partners |= {path: keys[1][key] for key, path in keys[0].items() if key in both}
        for side, own in zip(sides, keys, strict=True):
            matched = set(own.values())
            plain = [path for _, path in side.files if path not in matched]
            single = [path for key, path in own.items() if key not in both]
            alone |= {*plain, *single}
            notices += _said_of(side, {"that the expression does not match": plain, "whose key has no partner": single})
    said = f"pairs by --data.match {expression.pattern} leave out {'; '.join(notices)}"
    return Matched(partners, frozenset(alone), (said,) if notices else ())


def find_keys(expression: re.Pattern[str], side: Side) -> dict[str, str]:
    """Key -> path of the files that an expression matches.

    Raises:
        UserError: there is none, or two have one key.
    """
    found: dict[str, str] = {}
    for name, path in side.files:
        match = expression.search(name)
        key = match and match[min(1, expression.groups)]  # None also where the group takes no part in the match
        if key is None:
            continue
        if key in found:
            raise UserError(
                f"--data.match {expression.pattern} finds one key, {key!r}, in {found[key]} and {path}: which one is "
                "in the pair?"
            )
        found[key] = path
    if not found:
        raise UserError(
            f"--data.match {expression.pattern} matches no name in {side.folder}, such as {side.files[0][0]}: possible "
            f"are {RULES}"
        )
    return found


def _said_of(side: Side, left: Mapping[str, Sequence[str]]) -> list[str]:
    """Of one side how many files are left out for which reason, and some of them; nothing where there are none."""
    counted = [f"{len(paths):,} {why} ({side.names(paths)})" for why, paths in left.items() if paths]
    return [f"of {side.folder} {' and '.join(counted)}"] if counted else []


# Files


def _files(folder: Path) -> list[tuple[str, str]]:
    """Relative path without its suffix, and path, of all images in a folder."""
    return [(Path(name).with_suffix("").as_posix(), str(folder / name)) for name in list_images(folder)]


def _splits(a: Path, b: Path) -> list[tuple[Side, Side]]:
    """Both sides of each split.

    Raises:
        UserError: the folders do not hold the same splits.
    """
    sides = [{split: Side(path, _files(path)) for split, path in split_folders(folder).items()} for folder in (a, b)]
    if sides[0].keys() != sides[1].keys():
        held = " and ".join(
            f"{folder} has {', '.join(side.folder.name for side in own.values() if side.folder != folder) or 'none'}"
            for folder, own in zip((a, b), sides, strict=True)
        )
        raise UserError(f"pairs are found within each split, and the folders of splits differ: {held}")
    return [(sides[0][split], sides[1][split]) for split in sides[0]]


def match_pages(pairs: dict[str, str]) -> dict[str, str]:
    """Page of side a -> page of side b, of the same number, from files that belong together.

    Raises:
        UserError: two of them hold unequal numbers of pages.
    """
    pages = pages_of([*pairs, *pairs.values()])
    matched: dict[str, str] = {}
    for a, b in pairs.items():
        own, other = pages_named(a, pages.get(a, 1)), pages_named(b, pages.get(b, 1))
        if len(own) != len(other):
            raise UserError(
                f"{a} holds {len(own):,} pages and its partner {b} {len(other):,}: pairs need as many, or --data.pages "
                "first, which takes the first of each"
            )
        matched |= dict(zip(own, other, strict=True))
    return matched
