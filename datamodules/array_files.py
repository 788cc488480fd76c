"""NumPy files: what they hold, or in one line why they cannot be read."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from .array_forms import FORMS
from .errors import UserError
from .files import check_memory, check_regular

ZIP_ERRORS = (BadZipFile, NotImplementedError, RuntimeError, MemoryError, zlib.error)  # of what a member may be


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays ``x`` and, where there is one, ``y`` of a .npy or .npz file; a .npy stays on disk until it is used.

    Raises:
        UserError: not such a file, damaged, or with pickled objects in it (these are never unpickled).
    """
    check_regular(path)
    try:
        arrays = _load_arrays(path)
    except UserError:
        raise
    except (OSError, ValueError, EOFError, LookupError, TypeError, AttributeError, OverflowError, *ZIP_ERRORS) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot read {path} ({reason}): expected a .npy or .npz file of {FORMS}") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise UserError(f"{path} is damaged: its {name} is no array; expected a .npy or .npz file of {FORMS}")
    return arrays


def _load_arrays(path: Path) -> dict[str, Any]:
    if path.suffix == ".npy":
        return {"x": np.load(path, mmap_mode="c", allow_pickle=False)}  # copy-on-write: the file is never changed
    with np.load(path, allow_pickle=False) as archive:
        _check_members(path, archive)
        others = [name for name in archive.files if name != "y"]
        if "x" not in others and len(others) != 1:
            raise UserError(f"{path} holds {', '.join(archive.files)}: name the examples 'x' and the class ids 'y'")
        x = archive["x" if "x" in others else others[0]]
        return {"x": x, "y": archive["y"]} if "y" in archive.files else {"x": x}


def _check_members(path: Path, archive: Any) -> None:
    """Refuse what np.load would hand out as bytes, or inflate beyond all memory.

    Raises:
        UserError: that names the member.
    """
    for member in archive.zip.infolist():
        if not member.filename.endswith(".npy"):
            raise UserError(f"{path} holds {member.filename!r}, which is no array: save it with np.savez")
        if member.flag_bits & 1:
            raise UserError(f"{path}: {member.filename} is encrypted: save it without a password")
        check_memory(member.file_size, f"{member.filename} in {path}", "save it as .npy, which stays on disk")
