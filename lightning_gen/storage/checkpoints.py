"""Checkpoint files: written atomically, read without unpickling objects, and turned back into a model."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import pickle
import sys
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lightning_gen.atomic import atomic_file, link_atomically
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.files import check_regular
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.names import expect_class, resolve, trusted_imports
from lightning_gen.protocols import ChoosesBySize
from lightning_gen.training.module import GenerativeModule

Model = TypeVar("Model", bound=GenerativeModule)
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
SLACK = 2**24  # bytes that a model may have beyond its weights in a checkpoint, such as averages
CONFIG = "lightning_gen_config"  # entry of a checkpoint: the configuration of the run that wrote it


class AtomicCheckpointIO(TorchCheckpointIO):
    """At every moment there is a whole checkpoint on the disk; the one before ``last.ckpt`` is kept too."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())  # first, so that the two before it are there until it is whole
                if path.name == LAST and path.exists():
                    link_atomically(path, path.with_name(PREVIOUS))
        except OSError as error:
            hint = how_to_go_on(path.parent, "make room, then ")
            raise UserError(f"could not save {path}: {error.strerror}. {hint}") from error

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        return read_checkpoint(Path(path))


def how_to_go_on(folder: Path | None, first: str = "") -> str:
    """What a run that an error has ended has saved, and how to go on.

    Args:
        folder: of the run's checkpoints; None where it is not known.
        first: what is to be done before, such as "make room, then ".
    """
    if folder is None:
        return "What was saved before is whole"
    if (folder / LAST).exists() or (folder / PREVIOUS).exists():
        return f"The last checkpoint is good: {first}go on with --resume {folder.parent}"
    return f"No checkpoint was saved yet: {first}start the run again"


def set_aside_last(path: Path) -> None:
    """Where a run goes on from ``previous.ckpt``: out of the way with ``last.ckpt``, which the next save would keep."""
    last = path.with_name(LAST)
    if path.name == PREVIOUS and last.exists():
        os.replace(last, last.with_suffix(".ckpt.aside"))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content.

    Raises:
        UserError: there is none, it is truncated or changed, or another program wrote it; names a good one beside it.
    """
    try:
        return _read(path)
    except UserError as error:
        raise UserError(f"{error}{_good_one_beside(path)}") from None


def _read(path: Path) -> dict[str, Any]:
    check_regular(path)
    try:
        whole = _is_whole(path)
        with warnings.catch_warnings(action="ignore"):  # about what another program wrote
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no checkpoint at {path}") from None
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "GLOBAL" in str(error):
            raise UserError(f"{path} is damaged, or holds pickled objects, which are not loaded for safety") from None
        raise UserError(f"{path} is no checkpoint, or a damaged one") from None
    except (RuntimeError, EOFError, ValueError, LookupError, OSError):
        raise UserError(f"{path} is truncated, damaged or no checkpoint") from None
    if not whole:
        raise UserError(f"{path} is damaged: its checksum does not hold")
    if not isinstance(checkpoint, dict) or "lightning_gen" not in checkpoint:
        raise UserError(f"{path} was not written by this program")
    if missing := _wrong_entry(checkpoint):
        raise UserError(f"{path} is damaged, or was changed: {missing}")
    return checkpoint


def _wrong_entry(checkpoint: Mapping[str, Any]) -> str:
    """What a checkpoint lacks of that which makes a model of it, or holds in another form; empty where nothing."""
    counters = checkpoint["lightning_gen"]
    if not isinstance(counters, dict) or not isinstance(counters.get("model"), str):
        return "it names no model"
    for name in ("iteration", "images"):
        if type(counters.get(name)) is not int or counters[name] < 0:
            return f"{name} {counters.get(name)!r} is no count"
    for name in ("hyper_parameters", "state_dict"):
        entries = checkpoint.get(name)
        if not isinstance(entries, dict) or not all(isinstance(key, str) for key in entries):
            return f"it has no {name}"
    return ""


def _is_whole(path: Path) -> bool:
    """Whether the checksums in the file hold, at which torch.load does not look, and nothing in it is compressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
            return stored and archive.testzip() is None
    except FileNotFoundError:
        raise
    except Exception:  # damage breaks a reader anywhere, in many ways
        return False


def _good_one_beside(path: Path) -> str:
    for name in (LAST, PREVIOUS, BEST):
        other = path.with_name(name)
        if other != path and other.exists():
            with contextlib.suppress(UserError):
                _read(other)
                return f"; this one is good: {other}"
    return ""


def find_checkpoint(run: str | Path, which: str = "best") -> Path:
    """The checkpoint that a run folder or a file stands for: the "best" or "last" one, the other if it is missing.

    Raises:
        UserError: there is none.
    """
    path = Path(run)
    if path.is_dir():
        folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
        names = [f"{which}.ckpt", LAST, PREVIOUS, BEST]
        others = sorted(folder.glob("*.ckpt"), key=lambda file: file.stat().st_mtime, reverse=True)  # of other Trainers
        found = next((folder / name for name in names if (folder / name).exists()), next(iter(others), None))
        if found is None:
            raise UserError(f"no checkpoint in {path}: a run folder holds checkpoints/{LAST}, see tb_logs/")
        return found
    if not path.exists():
        raise UserError(f"no run folder or checkpoint at {path}: your runs are below tb_logs/")
    return path


def load(
    run: str | Path,
    which: str = "best",
    *,
    trust: Sequence[str] = (),
    model: type[Model] | None = None,
    train: bool = False,
    **overrides: Any,
) -> GenerativeModule:
    """A trained model, ready to sample: in eval mode, on the CPU, with the averaged weights where there are any.

    Its weights take no gradients, so that its outputs are plain numbers; ``encode``, ``decode``, ``reconstruct`` and
    ``translate`` can still be differentiated in their input.

    Args:
        run: a run folder or a checkpoint.
        which: "best" or "last", for a folder.
        trust: modules of your own that the checkpoint may import by name, for example ["my_nets"].
        model: the class, where it is your own; instead of trusting its name.
        train: whether its weights are to be trained further: in training mode, with gradients.
        **overrides: arguments of the class that stand over the checkpoint's, for example a network given as an object.

    Raises:
        UserError: missing, damaged or foreign file, or a name that is not trusted.
    """
    path = find_checkpoint(run, which)
    checkpoint = read_checkpoint(path)
    arguments = {**checkpoint["hyper_parameters"], **overrides}
    for name, value in arguments.items():
        if isinstance(value, str) and value.startswith("<instance of "):
            raise UserError(f"{path} was trained with {name} = {value}, which no file can hold: load(..., {name}=...)")
    with trusted_imports(trust):
        name = checkpoint["lightning_gen"]["model"]
        cls = model or resolve(name, {}, "model class")
        expect_class(cls, GenerativeModule, f"{path}: {name}")
        loaded = _make(cls, arguments, path, checkpoint["state_dict"])
    load_weights(loaded, path, checkpoint)
    loaded.count_from(checkpoint)
    return loaded.train() if train else loaded.eval().requires_grad_(False)


def _make(cls: type[Model], arguments: Mapping[str, Any], path: Path, state: Mapping[str, Any]) -> Model:
    """A model of a checkpoint's hyper-parameters, which may be anything; it is no larger than its weights there.

    Raises:
        UserError: there is no such model.
    """
    if (needed := _bytes_needed(cls, arguments)) > 2 * _bytes_of(state) + SLACK:
        raise UserError(f"{path} holds the weights of another architecture: {needed:,} bytes would be needed")
    try:
        return cls(**arguments)
    except UserError:
        raise
    except Exception as error:  # of a constructor that was given what no signature allows
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{path}: no {cls.__name__} can be made of its hyper-parameters: {type(error).__name__}: {reason}"
        ) from error


def _bytes_needed(cls: type[GenerativeModule], arguments: Mapping[str, Any]) -> int:
    """Bytes of the weights of one of our models, of which nothing is allocated; 0 where it takes values to make it."""
    if not cls.__module__.startswith("lightning_gen."):
        return 0
    try:
        with torch.device("meta"):
            return sum(value.nbytes for value in cls(**arguments).state_dict().values())
    except Exception:  # it is made once more, with values
        return 0


def _bytes_of(state: Mapping[str, Any]) -> int:
    """Bytes of the weights, of which a file may hold one and repeat it."""
    tensors = [value for value in state.values() if isinstance(value, torch.Tensor)]
    return sum(min(value.nbytes, value.untyped_storage().nbytes()) for value in tensors)


def load_weights(model: GenerativeModule, path: Path, checkpoint: dict[str, Any], memory: bool = True) -> None:
    """Give a checkpoint's weights to a model, the averaged ones where there are any.

    Args:
        model: of the same architecture.
        path: of the checkpoint, for the error's text.
        checkpoint: what is in it.
        memory: also the state of the model's run, such as the typical norms of its gradients.

    Raises:
        UserError: they are of another architecture.
    """
    state = checkpoint["state_dict"]
    averaged = {name.removeprefix("averages."): value for name, value in state.items() if name.startswith("averages.")}
    own = {name: value for name, value in state.items() if not name.startswith("averages.")}
    if not memory:
        own = {name: value for name, value in own.items() if not name.startswith(model.reset_state_prefixes)}
        own |= {
            name: value for name, value in model.state_dict().items() if name.startswith(model.reset_state_prefixes)
        }
    weights = {**own, **averaged}
    try:
        apart = _differences(weights, model.state_dict())
        if not apart:
            model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:  # they are no tensors, or of another kind
        apart = " ".join(str(error).split())[:300]
    if apart:
        options = _option_hint(model, checkpoint)
        raise UserError(f"{path} holds the weights of another architecture: {apart}{options}")


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The first weight that does not fit, and how many others; empty where all do."""
    both = [name for name in ours if name in theirs and isinstance(ours[name], torch.Tensor)]  # else it is no weight
    shapes = {name: (tuple(theirs[name].shape), tuple(ours[name].shape)) for name in both}
    apart = [name for name in both if shapes[name][0] != shapes[name][1]]
    lacks, more = [name for name in ours if name not in theirs], [name for name in theirs if name not in ours]
    if not (apart or lacks or more):
        return ""
    if apart:
        first = f"{apart[0]} is {_shape(shapes[apart[0]][0])}, and {_shape(shapes[apart[0]][1])} here"
    else:
        first = f"{lacks[0]} is missing" if lacks else f"{more[0]} is of no network here"
    others = len(apart) + len(lacks) + len(more) - 1
    return f"{first}, and {others} more differ" if others else first


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"


def _option_hint(model: GenerativeModule, checkpoint: Mapping[str, Any]) -> str:
    """The options of the model that may make the weights fit: other ones than there, and what the data's size chose."""
    theirs, ours = checkpoint["hyper_parameters"], dict(model.hparams)
    before, now = _network_options(theirs), _network_options(ours)
    apart = [key for key in before if key in now and before[key] != now[key]]
    hint = "".join(f"; --model.{key} is {before[key]} there, {now[key]} here" for key in apart[:4])
    if isinstance(model, ChoosesBySize) and "spec" in theirs:
        old = DataSpec.of(theirs["spec"])
        chosen, here = model.chosen_by_size(old), model.chosen_by_size(model.spec)
        if options := [f"--model.{key} {value}" for key, value in chosen.items() if here.get(key) != value]:
            size = "x".join(map(str, old.shape[1:]))
            hint += f"; pictures of {size} had chosen {' '.join(options)}: give these"
    return hint


def _network_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A model's arguments without those of every model, which change no network; of a dict each entry."""
    known = {*inspect.signature(GenerativeModule.__init__).parameters, "spec"}
    own = {name: value for name, value in arguments.items() if name not in known}
    nested = {f"{name}.{key}": entry for name, v in own.items() if isinstance(v, dict) for key, entry in v.items()}
    return {name: value for name, value in own.items() if not isinstance(value, dict)} | nested


def user_modules(model: GenerativeModule) -> list[str]:
    """Modules of the user's own that a model's checkpoint refers to by name: those that ``load`` needs in ``trust``."""
    names: set[str] = {f"{type(model).__module__}.{type(model).__qualname__}"}

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            names.update(value)
            for key, entry in value.items():
                if isinstance(entry, dict):  # an import path may arrive as nested keys
                    names.update(f"{key}.{name}" for name in entry)
                walk(entry)
        elif isinstance(value, str):
            names.add(value)

    walk(dict(model.hparams))
    paths = [name.split(".") for name in names if "." in name]
    modules = {path[0] for path in paths if all(part.isidentifier() for part in path)}
    return sorted(module for module in modules if module in sys.modules and module != "lightning_gen")
