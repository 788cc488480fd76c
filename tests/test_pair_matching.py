"""Partners in two folders: by equal names, by order, by a key that a regular expression finds."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gen.config import cli
from lightning_gen.datamodules import UserError
from lightning_gen.datamodules.image_files import split_by_hash
from lightning_gen.datamodules.pair_matching import natural
from lightning_gen.datamodules.paired import Paired

SPLITS = ("train", "val", "test")


def write(path, value):
    """A picture of one value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path)


@pytest.fixture
def fill(tmp_path):
    """Fills both folders from name -> number: pictures of that value, and of 255 less it on side b."""

    def filled(a, b, suffix=".png", **options):
        for name, number in a.items():
            write(tmp_path / "a" / f"{name}.png", number)
        for name, number in b.items():
            write(tmp_path / "b" / f"{name}{suffix}", 255 - number)
        return {"a": str(tmp_path / "a"), "b": str(tmp_path / "b"), "size": 8, "num_workers": 0, **options}

    return filled


def pairs_of(data):
    """Split -> names of the files of a, each with that of b, without suffixes; the pictures are those of one number."""
    data.setup()
    found = {}
    for split in SPLITS:
        batch = data._splits[split].fetch(torch.arange(data.size(split)))
        assert torch.equal(batch["a"], 255 - batch["b"]), "sides of different pairs"
        sides = zip(data.parts, data.folders, strict=True)
        names = [
            [Path(p).relative_to(folder).with_suffix("").as_posix() for p in parts[split]] for parts, folder in sides
        ]
        found[split] = dict(zip(*names, strict=True))
    return found


def merged(pairs):
    return {a: b for part in pairs.values() for a, b in part.items()}


def said(data):
    return [line for line in data.notices() if "pairs" in line]


def error(said, options, **more):
    """Preparing the data says so, in one line."""
    with pytest.raises(UserError, match=said) as raised:
        Paired(**options, **more).setup()
    assert "\n" not in str(raised.value)


SCANS = {f"scan_{k:03d}_ct": k for k in range(20)}
MASKS = {f"mask-{k}": k for k in range(20)}  # without leading zeros: sorted as text, 10 comes before 2


def test_natural_order():
    names = ["b", "a10", "a9b2", "A1", "a9b10", "a", "2", "10", "a01"]
    assert sorted(names, key=natural) == ["2", "10", "a", "A1", "a01", "a9b2", "a9b10", "a10", "b"]


def test_names_are_the_default(fill):
    names = {f"{k}": k for k in range(20)}
    one, other = Paired(**fill(names, names)), Paired(**fill(names, names), match="name")
    assert pairs_of(one) == pairs_of(other) and said(one) == []
    assert merged(pairs_of(one)) == {name: name for name in names}
    error(r"1 only in \S*a \(scan\) and 0 only in \S*b; --data\.match takes pairs of other", fill({"scan": 1}, {}))


def test_order(fill):
    data = Paired(**fill(SCANS, MASKS, suffix=".bmp"), match="order")
    assert merged(pairs_of(data)) == dict(zip(SCANS, MASKS, strict=True))
    (line,) = said(data)
    a, b = data.folders
    first, last = f"{a / 'scan_000_ct.png'} and {b / 'mask-0.bmp'}", f"{a / 'scan_019_ct.png'} and {b / 'mask-19.bmp'}"
    assert line == f"20 pairs are guessed by order: the first {first}, the last {last}"


def test_order_needs_as_many_on_both_sides(fill):
    options = fill(SCANS, dict(list(MASKS.items())[:-1]))
    few = (
        r"20 in \S*a \(scan_000_ct\.png, .*scan_004_ct\.png, \.\.\.\) and 19 in \S*b \(mask-0\.png, mask-1\.png, .*\)$"
    )
    error(rf"--data\.match order needs as many pictures on both sides: {few}", options, match="order")


@pytest.mark.parametrize("expression", [r"(\d+)", r"0*([0-9]+)", r"(?:scan_|mask-)0*(\d+)"])
def test_the_key_of_an_expression(fill, expression):
    masks = {f"mask-{k:03d}": k for k in range(20)} if expression == r"(\d+)" else MASKS
    data = Paired(**fill(SCANS, masks), match=expression)
    assert merged(pairs_of(data)) == dict(zip(SCANS, masks, strict=True))
    assert said(data) == []


def test_without_a_group_the_match_is_the_key(fill):
    data = Paired(**fill({f"x{k}_p{k}": k for k in range(5)}, {f"p{k}_y": k for k in range(5)}), match=r"p\d")
    assert merged(pairs_of(data)) == {f"x{k}_p{k}": f"p{k}_y" for k in range(5)}


def test_folders_are_a_part_of_what_is_searched(fill):
    left, right = ({f"s{s}/{side}_{k}": 10 * s + k for s in range(3) for k in range(4)} for side in ("left", "right"))
    options = fill(left, right)
    error(r"finds one key, '0', in \S*s0/left_0\.png and \S*s1/left_0\.png: which one", options, match=r"\d$")
    error(r"finds one key, 's0', in \S*left_0\.png and \S*left_1\.png: which one", options, match=r"^(s\d)/.*")
    error(r"matches no name in \S*/b, such as s0/right_0: possible are name, order, or a", options, match="s0/left_0")
    by_both = Paired(**fill({"s0_1": 1, "s1_1": 11}, {"s0/1": 1, "s1/1": 11}), match=r"s\d")
    with pytest.raises(UserError, match="one key"):
        by_both.setup()


def test_what_is_in_no_pair_is_left_out_and_said(fill):
    scans = {**SCANS, "readme": 200, "scan_077_ct": 77, "legend": 201}
    masks = {**MASKS, "mask-88": 88}
    options = fill(scans, masks, match=r"0*(\d+)")
    data = Paired(**options)
    assert merged(pairs_of(data)) == dict(zip(SCANS, MASKS, strict=True))
    (line,) = said(data)
    a, b = options["a"], options["b"]
    assert line == (
        rf"pairs by --data.match 0*(\d+) leave out of {a} 2 that the expression does not match (legend.png, readme.png)"
        f" and 1 whose key has no partner (scan_077_ct.png); of {b} 1 whose key has no partner (mask-88.png)"
    )
    assert not any("beside the folders" in text for text in data.notices()), "they were told"
    assert data.spec.size == data.size("train") and sum(map(data.size, SPLITS)) == 20
    assert len(data.identity()["files"]) == 40, "what is left out is no part of the data"


def test_the_split_is_that_of_the_names_of_side_a(fill):
    data = Paired(**fill(SCANS, MASKS), match="order")
    names = [f"{name}.png" for name in SCANS]
    assert {split: len(part) for split, part in pairs_of(data).items()}["train"] < 20
    for split, rows in split_by_hash(names, 0.1).items():
        assert list(pairs_of(data)[split]) == sorted(Path(names[k]).stem for k in rows)
    again = Paired(**fill({"zzz": 3}, {}), match=r"0*(\d+)")
    assert pairs_of(again) == pairs_of(data), "a file that is left out moves no other"
    back = Paired(**fill({}, {}), match=r"0*(\d+)", direction="b2a")
    back.setup()
    assert back.parts == again.parts


def test_an_expression_that_finds_no_pair(fill):
    options = fill(SCANS, MASKS)
    place = r"no regular expression, missing \), unterminated subpattern at position 6: possible are name, order, or a"
    error(rf"--data\.match scan_0\(\\d is {place}", options, match=r"scan_0(\d")
    error(r"--data\.match a\{99999999999\} is no regular expression, ", options, match="a{99999999999}")
    error(
        r"--data\.match ordr matches no name in \S*a, such as scan_000_ct: possible are name, order, or",
        options,
        match="ordr",
    )
    said_so = r"--data\.match .* finds no key on both sides: such as 'n_000' in \S*a and 'mask-0' in \S*b$"
    error(said_so, options, match=r"mask-\d+|n_\d+")


def test_a_group_without_a_part_in_the_match_is_no_key(fill):
    data = Paired(**fill({**SCANS, "scan": 99}, MASKS), match=r"(?:scan|mask)(?:\D0*(\d+))?")
    assert merged(pairs_of(data)) == dict(zip(SCANS, MASKS, strict=True))
    assert "1 that the expression does not match (scan.png)" in said(data)[0]


@pytest.mark.parametrize("match", ["order", r"0*(\d+)"])
def test_folders_of_splits(fill, match):
    counts = {"train": 6, "val": 2, "test": 3}
    a = {f"{split}/scan_{k:02d}": k for split, n in counts.items() for k in range(n)}
    b = {f"{'valid' if split == 'val' else split}/mask{k}": k for split, n in counts.items() for k in range(n)}
    data = Paired(**fill(a, b), match=match)  # the numbers start anew in each split
    assert pairs_of(data) == {
        split: {f"{split}/scan_{k:02d}": f"{'valid' if split == 'val' else split}/mask{k}" for k in range(n)}
        for split, n in counts.items()
    }
    wanted = {"order": ["train/scan_00.png and ", "test/scan_02.png and "]}.get(match, [])
    assert all(text in said(data)[0] for text in wanted)
    write(Path(data.folders[1]) / "test" / "more9.png", 9)
    if match == "order":
        error(r"3 in \S*a/test \(.*\) and 4 in \S*b/test \(mask0\.png, .*more9\.png\)$", fill({}, {}), match=match)
    else:
        data = Paired(**fill({}, {}), match=match)
        data.setup()
        assert "of " + str(data.folders[1] / "test") + " 1 whose key has no partner (more9.png)" in said(data)[0]


def test_splits_of_one_side_alone(fill):
    options = fill({"train/1": 1, "test/2": 2}, {"1": 1, "2": 2})
    said_so = (
        r"pairs are found within each split, and the folders of splits differ: \S*a has train, test and \S*b has none$"
    )
    error(said_so, options, match="order")
    error(said_so, options, match=r"\d")
    error("no folder .*absent: expected images", options | {"b": options["b"] + "/absent"}, match="order")


def test_pages_of_partners(fill, tmp_path):
    options = fill({}, {"mask1": 1, "mask3": 3, "mask5": 5})
    for name, values in {"scan1": [1], "scan2": [3], "scan3": [5]}.items():
        pages = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (*values, *(v + 1 for v in values))]
        (tmp_path / "a").mkdir(exist_ok=True)
        pages[0].save(tmp_path / "a" / f"{name}.tif", save_all=True, append_images=pages[1:])
    for name, value in {"mask1": 1, "mask3": 3, "mask5": 5}.items():
        (tmp_path / "b" / f"{name}.png").unlink()
        pages = [Image.fromarray(np.full((8, 8, 3), 255 - v, np.uint8)) for v in (value, value + 1)]
        pages[0].save(tmp_path / "b" / f"{name}.tif", save_all=True, append_images=pages[1:])
    data = Paired(**options, match="order", pages="all")
    pairs_of(data)
    assert sum(map(data.size, SPLITS)) == 6


def test_the_rule_is_a_part_of_the_data(fill, tmp_path):
    options = fill({f"a{k}": k for k in range(9)}, {f"a{k}": k for k in range(9)})
    before = Paired(**options)
    for rule in ("order", r"\d"):
        with pytest.raises(
            UserError, match=rf"the data have changed .*: matching of pairs name -> {re.escape(rule)}\. A run"
        ):
            Paired(**options, match=rule).load_state_dict(before.state_dict())
    earlier = before.state_dict()
    del earlier["identity"]["match"]  # of a version that had names alone
    Paired(**options).load_state_dict(earlier)


def test_pairs_in_one_file_need_no_rule(tmp_path):
    write(tmp_path / "1.png", 1)
    error(
        "--data.match order finds partners in two folders, and a file of --data.root",
        {"root": str(tmp_path)},
        match="order",
    )
    assert "match" not in Paired(root=str(tmp_path), size=4).identity()


@pytest.mark.parametrize("match", ["order", r"(\d+)", "[0-9]+", r"^0*(\d{1,3})_", "[ab]", "a: b", "null", "1"])
def test_the_command_line_takes_any_expression(match, fill):
    options = fill(SCANS, MASKS)
    arguments = ["--data.a", options["a"], "--data.b", options["b"], "--data.match", match]
    plan = cli.resolve_config({"model": "pix2pix", "data": "paired"}, arguments)
    assert plan.config["data"]["init_args"]["match"] == match
    assert cli.instantiate_data(plan).match == match
