"""What a folder of pictures holds: links, hidden folders, splits, other files, pages."""

import pytest
from PIL import Image

from lightning_gen.datamodules.folder import Folder


def picture(path, red=0, size=(12, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (red, 0, 0)).save(path)


@pytest.fixture
def root(tmp_path):
    """Two classes of 10 pictures each."""
    for k in range(20):
        picture(tmp_path / "cls" / ("cat" if k % 2 else "dog") / f"{k}.png", k)
    return tmp_path / "cls"


def test_linked_folders_are_classes(root, tmp_path):
    for k in range(3):
        picture(tmp_path / "elsewhere" / "deep" / f"{k}.png", 100)
    (root / "bird").symlink_to(tmp_path / "elsewhere")
    picture(tmp_path / "one.png")
    (root / "cat" / "linked.png").symlink_to(tmp_path / "one.png")
    data = Folder(str(root), size=8)
    assert data.classes == ["bird", "cat", "dog"]
    assert [name for name in data.names if name.startswith("bird")] == [f"bird/deep/{k}.png" for k in range(3)]
    assert "cat/linked.png" in data.names and len(data.names) == 24


def test_loops_end_and_no_picture_is_listed_twice(root, tmp_path):
    names = Folder(str(root)).names
    (root / "cat" / "again").symlink_to(root)
    (root / "a_dog").symlink_to(root / "dog")  # sorts before the folder itself
    (root / "up").symlink_to(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "back").symlink_to(tmp_path / "other")
    (root / "other").symlink_to(tmp_path / "other")
    (root / "itself").symlink_to("itself")
    (root / "nowhere").symlink_to(tmp_path / "nothing")
    assert Folder(str(root)).names == names
