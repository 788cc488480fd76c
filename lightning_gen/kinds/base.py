"""Kind: all that depends on the kind of data, with defaults for any array of numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_gen.datamodules.array_files import read_arrays
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.listing import is_hidden
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.datamodules.units import to_model, to_units
from lightning_gen.drawing.images import save_array

ARRAYS = (".npy", ".npz")


class Claim(NamedTuple):
    """A data set that reads a user's file or folder.

    Args:
        data: a name of ``DATASETS``, or an import path.
        options: of the data set, which say where the file or folder is.
        two_sides: whether its examples are pairs of sides.
    """

    data: str
    options: dict[str, Any]
    two_sides: bool = False


def arrays(path: Path) -> list[Claim]:
    """The claim to a .npy or .npz file, whose array says by its axes of which kind the examples are."""
    found = path.suffix in ARRAYS and path.is_file()
    return [Claim("lightning_gen.datamodules.custom.Arrays", {"path": str(path)})] if found else []


class Health(NamedTuple):
    """The description of examples for a program.

    Args:
        values: numbers of spoiled examples and shares, by name.
        problems: what is wrong, each "12 of 64 samples are constant"; empty where nothing is.
    """

    values: dict[str, float]
    problems: tuple[str, ...]


class Kind(ABC):
    """One kind of data. It has no state: what differs between two data sets of a kind stands in their specs.

    Examples ``x`` are (N, *shape) float32 as they reach a model: in [-1, 1], but for values "real" in units of their
    own or standardized; files, and what metrics compare, are in the units of the data. The defaults below suit any
    array; a kind must say how it is drawn.
    """

    plural: ClassVar[str] = "examples"
    axes: tuple[str, ...] = ()  # of an example's shape, as ("C", "H", "W"); empty: any
    suffixes: ClassVar[tuple[str, ...]] = ARRAYS  # of its files; the first is the one that ``write`` makes
    many: ClassVar[bool] = True  # whether a file holds many examples, as an array does; else it holds one
    draws: ClassVar[bool] = True  # whether there is a ``sheet``
    tiled: ClassVar[bool] = True  # whether a sheet has a place for each example; else all are one picture, a density
    translator: ClassVar[str | None] = None  # preset that translates between two sides of this kind
    reconstruction_metrics: ClassVar[tuple[str, ...]] = ()  # "psnr", "ssim", where they apply

    # Specs and files

    def check(self, spec: DataSpec) -> None:
        """Refuse a spec whose shapes are not of this kind.

        Raises:
            UserError: that says which axes an example has.
        """
        for shape in (spec.shape, spec.shape_b) if spec.has_two_sides else (spec.shape,):
            if (self.axes and len(shape) != len(self.axes)) or not all(size >= 1 for size in shape) or not shape:
                axes = f"({', '.join(self.axes)}{',' if len(self.axes) == 1 else ''})" if self.axes else "(N, ...)"
                raise UserError(
                    f"{spec.kind} data of shape {shape}: an example has the shape {axes}, each at least 1; is it of "
                    "another kind?"
                )

    def claims(self, path: Path) -> list[Claim]:
        """The data sets that can read a user's file or folder as examples of this kind."""
        return []

    def preset(self, spec: DataSpec) -> str | None:
        """The default model; None where there is none for such data."""
        return self.translator if spec.has_two_sides else "vae"

    def notice(self, spec: DataSpec) -> str | None:
        """A message for the start of a run on such data, in one line, if any."""
        return None

    # Files

    def suffix(self, spec: DataSpec) -> str:
        """Of the files that ``write`` makes."""
        return self.suffixes[0]

    def is_example_file(self, path: Path, is_file: bool | None = None) -> bool:
        """Whether a file of a folder holds examples, by its name; ``is_file`` says whether it is regular, if known."""
        named = not is_hidden(path.name) and path.suffix.lower() in self.suffixes
        return named and (path.is_file() if is_file is None else is_file)

    def read(self, path: Path, spec: DataSpec) -> Tensor:
        """The example (*shape) of a file as it reaches a model, or the examples (N, *shape) where files hold many.

        Raises:
            UserError: it is missing or damaged, or holds something else.
        """
        x = torch.from_numpy(np.ascontiguousarray(read_arrays(path)["x"]))
        x = x[None] if tuple(x.shape) == spec.shape else x
        if tuple(x.shape[1:]) != spec.shape:
            raise UserError(f"{path} holds an array {tuple(x.shape)}: expected (N, {', '.join(map(str, spec.shape))})")
        return x if spec.values == "tokens" else to_model(x, spec)

    def write(self, x: Tensor, path: Path, spec: DataSpec, provenance: Mapping[str, object] | None) -> None:
        """Write an example (*shape), or examples (N, *shape) where files hold many, to a file of ``suffix``.

        The provenance says what made them, None of what no model made; formats that hold no text leave it out.
        """
        values = to_units(x, spec) if spec.values in ("real", "unit") else x
        save_array(values.numpy(), path)

    def stored(self, x: Tensor, spec: DataSpec) -> Tensor:
        """Examples (N, *shape) as a file of this kind would hold them, on the CPU: what metrics compare."""
        values = to_units(x.detach().cpu(), spec) if spec.values == "real" else x.detach().float().cpu()
        return values.contiguous()

    def restored(self, x: Tensor, spec: DataSpec) -> Tensor:
        """Stored examples (N, *shape) as they reach a model."""
        return to_model(x, spec) if spec.values == "real" else x

    # Views

    @abstractmethod
    def sheet(self, samples: Tensor, spec: DataSpec, columns: int | None = None, extent: float | None = None) -> Tensor:
        """Examples (N, *shape) as one picture, uint8 (3, H, W).

        Args:
            samples: on any device.
            spec: of the data.
            columns: examples in a row; by default about a square.
            extent: a picture with axes shows [-extent, extent]; by default what the samples need.
        """

    def blank(self, n: int, spec: DataSpec) -> Tensor:
        """n examples (n, *shape) that fill empty places of a sheet."""
        return torch.zeros(n, *spec.shape)

    def log(self, logger: Any, name: str, samples: Tensor, step: int, spec: DataSpec) -> None:
        """Give examples (N, *shape) to a logger in a form that is no picture: sound, text, a mesh, a clip."""
        return None

    def describe(self, x: Tensor, spec: DataSpec) -> Health:
        """How sound examples (N, *shape) are: those that are not finite, those of one value, whether all are equal."""
        rows, finite = self.stored(x, spec).flatten(1), x.flatten(1).isfinite().all(1).cpu()
        constant = finite & (rows.amax(1) == rows.amin(1)) & (rows.shape[1] > 1)
        values = {"not_finite": float((~finite).sum()), "constant": float(constant.sum())}
        words = {"not_finite": "not finite", "constant": "constant"}
        problems = [f"{int(count)} of {len(x)} samples are {words[name]}" for name, count in values.items() if count]
        if len(rows) > 1 and bool((rows == rows[0]).all()):
            problems.append(f"all {len(x)} samples are equal")
        return Health(values, tuple(problems))

    def in_plane(self, spec: DataSpec) -> bool:
        """Whether an example is a point (2,) of a plane, over which a discriminator can be drawn."""
        return False

    # Adversarial models

    def generated(self, spec: DataSpec) -> tuple[int, ...]:
        """Shape of a generator's output for one example."""
        return spec.shape

    def finish(self, spec: DataSpec, out: Tensor) -> Tensor:
        """A generator's output (B, *generated) as a discriminator sees data: squashed into their range, if any."""
        return out if spec.values == "real" else out.tanh()

    def relaxed(self, x: Tensor, spec: DataSpec) -> Tensor:
        """Real data (B, *shape) as a discriminator sees them, (B, *generated): of tokens their one-hot vectors."""
        return x

    def augmentations(self, spec: DataSpec) -> tuple[str, ...]:
        """The rows of ``AUGMENTATIONS`` that may change such examples."""
        return ()

    # Networks and metrics

    def network(self, spec: DataSpec) -> str:
        """The row of ``NETWORKS`` that "auto" means."""
        return "mlp"

    def extractor(self, spec: DataSpec) -> str | None:
        """The row of ``EXTRACTORS`` whose features are compared unless the data have one of their own; None: none."""
        return None

    def trains_extractor(self, spec: DataSpec) -> bool:
        """Whether the classifier of ``train_extractor.py`` can learn the classes of such examples."""
        return False

    def fits_png(self, spec: DataSpec) -> bool:
        """Whether a PNG file holds an example exactly, so that codecs of pictures compete with a model."""
        return False

    def points(self, x: Tensor) -> Tensor:
        """Examples (N, *shape) -> (N, D), between which distances are taken."""
        return x.flatten(1)
