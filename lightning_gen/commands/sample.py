"""Draw new examples from a trained model: what scripts/sample.py does."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lightning_gen.commands import start
from lightning_gen.config.arguments import Parser
from lightning_gen.config.run_data import instantiate_run_data, parse_with_data_options
from lightning_gen.datamodules.base import DataModule
from lightning_gen.datamodules.classes import class_name, find_class
from lightning_gen.datamodules.errors import UserError, program
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.drawing.captions import captioned
from lightning_gen.drawing.images import save_png
from lightning_gen.evaluation.samplers import FITTED, add_sampler, attach_sampler, describe_sampler
from lightning_gen.evaluation.solving import OPTIONS, add_solver, attach_solver
from lightning_gen.kinds import kind_of, sheet
from lightning_gen.kinds.files import write_all
from lightning_gen.networks.condition import conditions_in_turn
from lightning_gen.pictures import views
from lightning_gen.pictures.captions import caption, class_names
from lightning_gen.protocols import Decodes, Encodes, HasInfoGANCodes, Samples, SamplesClasses, Translates
from lightning_gen.storage.checkpoints import find_checkpoint
from lightning_gen.storage.loaded import (
    DEVICES,
    check_count,
    check_finite,
    describe_device,
    load_on,
    provenance,
    sample_in_batches,
)
from lightning_gen.training.module import GenerativeModule

NAME = re.compile(r"[\w-]{1,20}", re.ASCII)  # of a class, that may be a part of a folder's name
ROWS = 128  # dimensions of a code that --traverse shows, at most


def main(argv: list[str]) -> None:
    """Parse, load, draw, save."""
    given, rest = _parse(argv)
    path = find_checkpoint(given.run, given.which)
    model = load_on(path, given.device, given.trust)
    if not isinstance(model, Samples):
        use = f"{program('translate')} {given.run} PICTURES --out OUT"
        instead = f", it translates pictures: {use}" if isinstance(model, Translates) else ""
        raise UserError(f"{type(model).__name__} cannot make new examples{instead}")
    check_count(given.n, model.spec)
    given.classes = _class_ids(model, given.classes)
    y = _asked(model, given.classes, given.n)
    drawn_from = attach_sampler(model, given.sampler, _data(given, rest), given.components)
    solved = attach_solver(model, given)
    source = provenance(model, path) | {"seed": given.seed} | drawn_from | solved
    spec, kind = model.spec, kind_of(model.spec)
    out = given.out or _folder(path, given, spec)
    with torch.inference_mode():
        samples = sample_in_batches(model, given.n, given.seed, y)
        check_finite(samples, f"samples of {path}")
        pictures = _views(model, samples.to(model.device), y, given) if given.interpolate or given.traverse else {}
        if kind.draws:
            columns = _columns(y, given.classes, model)
            text = ""
            if y is not None and columns:
                ids = y.unique().tolist()
                names = class_names(spec, ids)
                text = f"columns: classes {names}, in turn" if len(ids) > 1 else f"class {names}"
            pictures["grid"] = captioned(sheet(samples, spec, columns=columns), text)
    for name, picture in pictures.items():
        save_png(picture, out / f"{name}.png", source)
    asked = [{}] * given.n if y is None else [_source_of_class(k, spec) for k in y.tolist()]
    sources = [source | {"number": number} | classes for number, classes in enumerate(asked)]
    write_all(samples, out, "samples", [f"{number:05d}" for number in range(given.n)], spec, sources)
    if problems := kind.describe(samples, spec).problems:
        print(f"warning: {'; '.join(problems)}", file=sys.stderr)
    codes = f", codes by {describe_sampler(drawn_from)}" if drawn_from else ""
    codes += f", by {solved['solver']} with {solved['nfe']} evaluations" if solved else ""
    of = f"{path}, iteration {model.iteration:,}{codes}, on {describe_device(model.device)}"
    print(f"{given.n} examples of {of}, in {out}")


def _parse(argv: list[str]) -> tuple[Any, list[str]]:
    parser = Parser(
        prog=program("sample"),
        description="Draw new examples from a trained model.",
        epilog="options of the run's data, for --sampler gmm and flow: --data.root FOLDER, ...",
    )
    parser.add_argument("run", metavar="RUN", help="a run folder or a checkpoint")
    parser.add_argument("-n", type=int, default=64, help="number of examples (default 64)")
    parser.add_argument("--seed", type=int, default=0, help="example k of a seed is always the same (default 0)")
    parser.add_argument(
        "--class",
        nargs="+",
        dest="classes",
        metavar="CLASS",
        help="of these classes in turn, by name or number (default: all)",
    )
    parser.add_argument(
        "--out", type=Path, help="folder for the files (default: samples/seed_S beside the checkpoints)"
    )
    parser.add_argument("--which", choices=["best", "last"], default="best", help="checkpoint of a run folder")
    parser.add_argument("--interpolate", action="store_true", help="also lines between pairs of codes")
    parser.add_argument(
        "--traverse",
        action="store_true",
        help="also a row for each latent dimension, or infogan's latent codes",
    )
    add_sampler(parser)
    add_solver(parser)
    parser.add_argument("--data", metavar="NAME", help="fit --sampler gmm or flow to other data than the run's")
    parser.add_argument("--device", default="auto", help=DEVICES)
    parser.add_argument("--trust", nargs="*", default=[], help="your own modules that the checkpoint may import")
    given, rest = parse_with_data_options(parser, argv)
    if given.n < 1:
        raise UserError(f"-n {given.n}: draw at least 1 example")
    if (rest or given.data) and given.sampler not in FITTED:
        raise UserError(f"{' '.join(rest) or '--data'}: only --sampler {', '.join(FITTED)} takes data")
    return given, rest


def _data(given: Any, rest: list[str]) -> DataModule | None:
    """The data that the sampler is fitted to, if it is."""
    if given.sampler not in FITTED:
        return None
    data, _ = instantiate_run_data(given.run, rest, given.trust, given.data)
    data.prepare_data()
    data.setup()
    return data


def _folder(path: Path, given: Any, spec: DataSpec) -> Path:
    """Where the files go by default: examples that differ do not overwrite each other."""
    words = [f"seed_{given.seed}", *([given.sampler] if given.sampler != "prior" else [])]
    words += [str(word) for word in (given.components, given.data and Path(given.data).name) if word]
    words += [f"{name}_{value}" for name in OPTIONS if (value := getattr(given, name)) is not None]
    words += ["weak"] if given.weak else []
    words += [given.which] if given.which != "best" else []
    names = [class_name(k, spec) if NAME.fullmatch(class_name(k, spec)) else f"id{k}" for k in given.classes or ()]
    words += ["class", *names] if names else []
    folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    return folder / "samples" / "_".join(words)


def _class_ids(model: Any, names: Sequence[str] | None) -> list[int] | None:
    """The ids of the requested classes.

    Raises:
        UserError: there is no such class.
    """
    if names and not (isinstance(model, SamplesClasses) and model.classes):
        raise UserError(
            f"--class {names[0]}: this model knows no classes: take a conditional one, such as cvae or cgan"
        )
    return [find_class(name, model.spec) for name in names] if names else None


def _asked(model: Samples, ids: Sequence[int] | None, n: int) -> torch.Tensor | None:
    """The classes (n,) of the examples: the requested ones in turn, else all classes of the model."""
    in_turn = conditions_in_turn(model, torch.arange(n))
    return torch.tensor(ids)[torch.arange(n) % len(ids)] if ids else in_turn


def _source_of_class(k: int, spec: DataSpec) -> dict[str, Any]:
    """What a file says of its class."""
    return {"class": k} | ({"class_name": class_name(k, spec)} if spec.class_names else {})


def _columns(y: torch.Tensor | None, ids: Sequence[int] | None, model: Any) -> int | None:
    """Columns of about a square grid such that each holds one class; None where classes do not matter."""
    count = 0 if y is None else len(ids or range(model.classes))
    if y is None or len(y) < count:
        return None
    return count * math.ceil(math.sqrt(len(y)) / count)


def _views(
    model: GenerativeModule, samples: torch.Tensor, y: torch.Tensor | None, given: Any
) -> dict[str, torch.Tensor]:
    """The pictures of codes that were asked for, by name.

    Raises:
        UserError: the model has no vector of codes, or such data have no picture for each example.
    """
    kind, asked = kind_of(model.spec), "--traverse" if given.traverse else "--interpolate"
    if not (kind.draws and kind.tiled):
        raise UserError(f"{asked}: {kind.plural} have no picture for each example, in which a code could be followed")
    if not isinstance(model, Encodes | Decodes):
        raise UserError(f"{asked}: {type(model).__name__} has no vector of codes: vae and gan have")
    y, made = None if y is None else y.to(samples.device), {}
    if given.traverse:
        name = "traversals" if isinstance(model, Encodes) else "code_traversals"
        made["traversals"] = captioned(_traversals(model, samples, y, given), caption(name, model))
    if given.interpolate:
        name = "interpolations" if isinstance(model, Encodes) else "drawn_interpolations"
        made["interpolations"] = captioned(_interpolations(model, samples, y, given), caption(name, model))
    return made


def _traversals(model: Any, samples: torch.Tensor, y: torch.Tensor | None, given: Any) -> torch.Tensor:
    """A row for each dimension of a sample's code; of a model that cannot encode, of its InfoGAN codes."""
    if isinstance(model, Encodes):
        first = None if y is None else y[:1]
        dimensions = model.encode(samples[:1], first).shape[1]
        if dimensions > ROWS:
            print(f"traversals.png shows the {ROWS} most active of {dimensions:,} dimensions", file=sys.stderr)
        return views.traversals(model, samples[:1], first, rows=min(dimensions, ROWS))
    if isinstance(model, HasInfoGANCodes) and model.codes:
        return views.code_traversals(model, given.seed, _rows(given.classes))
    raise UserError(
        f"--traverse: {type(model).__name__} has no encoder into a vector of codes, and no codes as of infogan: "
        "try --interpolate"
    )


def _interpolations(model: Any, samples: torch.Tensor, y: torch.Tensor | None, given: Any) -> torch.Tensor:
    """Lines between the codes of samples; of a model that cannot encode, between codes that it draws."""
    if not isinstance(model, Encodes):
        return views.drawn_interpolations(model, given.seed, _rows(given.classes))
    if len(samples) < 2:
        raise UserError("--interpolate needs at least -n 2")
    first = None if y is None else y[0::2][:8]
    return views.interpolations(model, samples[0::2][:8], samples[1::2][:8], first)


def _rows(ids: Sequence[int] | None) -> torch.Tensor | None:
    """The requested classes, in turn, one for each row."""
    return None if not ids else torch.tensor(ids)[torch.arange(max(views.LINES, len(ids))) % len(ids)]


if __name__ == "__main__":
    start("sample")
