"""Train, val and test of image files: by the folders that hold them, else by a hash of their names."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from .errors import UserError
from .image_files import list_images, split_by_hash
from .listing import is_hidden

Parts = dict[str, list[str]]  # split -> paths
SPLITS = ("train", "val", "test")
OTHER_NAMES = {"valid": "val", "validation": "val"}  # where there is a folder train: they could be classes


def split_paths(folders: dict[str, Path], fraction: float, excluded: Collection[str] = ()) -> Parts:
    """Paths of the train, val and test images of one side.

    Args:
        folders: of "train", and of "val" and "test" where there are such.
        fraction: of a split without a folder this share of the training images is held out, by hash, as in ``Folder``.
        excluded: paths that are left out.
    """

    def names_in(folder: Path) -> list[str]:
        return [name for name in list_images(folder) if str(folder / name) not in excluded]

    names = names_in(folders["train"])
    parts = {k: [str(folders["train"] / names[n]) for n in rows] for k, rows in split_by_hash(names, fraction).items()}
    for split in ("val", "test"):
        if split in folders:
            parts["train"] += parts[split]
            parts[split] = [str(folders[split] / name) for name in names_in(folders[split])]
    parts["train"].sort()
    return parts


def split_folders(folder: Path) -> dict[str, Path]:
    """Folders train, val and test in a folder; where there are none, the folder itself for training.

    Case makes no difference, and val may be called valid or validation.

    Raises:
        UserError: val or test without train, of which it is not clear what is to be trained on; two folders for one.
    """
    inside = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    has_train = any(path.name.lower() == "train" for path in inside)
    found: dict[str, Path] = {}
    for path in inside:
        name = path.name.lower()
        split = OTHER_NAMES.get(name, name) if has_train else name
        if split in found:
            raise UserError(
                f"{folder} has two folders for {split}, {found[split].name} and {path.name}: put them into one"
            )
        if split in SPLITS:
            found[split] = path
    if found and "train" not in found:
        held_out = " and ".join(path.name for path in found.values())
        raise UserError(f"{folder} has a folder {held_out}, but no folder train: put the training pictures into one")
    return {split: found[split] for split in SPLITS if split in found} or {"train": folder}


def own_splits(root: Path) -> dict[str, Path]:
    """Folders of the splits of a folder whose other folders would be classes; none where train is a class itself.

    Raises:
        UserError: as ``split_folders``.
    """
    found = split_folders(root)
    if found["train"] == root:
        return {}
    others = [path for path in root.iterdir() if path != found["train"] and path.is_dir() and not is_hidden(path.name)]
    return {} if len(found) == 1 and others else found  # such as bus, car and train
