"""Logs samples, reconstructions and other views at each validation, to TensorBoard or another logger."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_gen.atomic import atomic_file
from lightning_gen.callbacks.loggers import give_picture
from lightning_gen.datamodules.base import DataModule
from lightning_gen.drawing import plane
from lightning_gen.drawing.captions import captioned
from lightning_gen.drawing.images import save_png
from lightning_gen.kinds import kind_of
from lightning_gen.pictures import views
from lightning_gen.pictures.captions import caption
from lightning_gen.training.evaluation_mode import evaluation_mode
from lightning_gen.training.module import GenerativeModule
from lightning_gen.training.players import size_of

COLUMNS = ("x", "y", "text", "a", "b")  # of a batch that views look at
FRAME_MS, LAST_MS = 125, 2000
MOST_FRAMES = 36  # which keeps the file below 1 MB


class Pictures(Callback):
    """Draws every view that the model's capabilities allow from the same validation examples and the same noise.

    Args:
        folder: of the run; pictures go to ``pictures/`` there when no logger takes them. Those of
            ``views.ANIMATED_VIEWS`` always do, and become an animation, ``density.gif``, at the end of the run.
        seed: of the samples.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.seed = folder, seed
        self.examples: dict[str, Tensor] = {}  # columns of validation batches
        self.chosen = False  # the examples stay the same from the first validation on

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: object,
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # type: ignore[override]
        if self.chosen or not _draws(trainer):
            return
        shown = {name: batch[name] for name in COLUMNS if name in batch}
        count = views.count_of(views.EXAMPLES, pl_module.spec)  # type: ignore[arg-type]
        if batch_idx == 0 or not self.examples:
            self.examples = {name: column[:count] for name, column in shown.items()}
        elif size_of(self.examples) < count:
            both = {name: column for name, column in self.examples.items() if name in shown}
            self.examples = {name: torch.cat([column, shown[name]])[:count] for name, column in both.items()}

    @rank_zero_only
    def on_validation_end(self, trainer: L.Trainer, pl_module: GenerativeModule) -> None:  # type: ignore[override]
        if not _draws(trainer) or not self.examples:
            return
        self.chosen = True
        spec, step = pl_module.spec, pl_module.iteration

        def log(name: str, x: Tensor) -> None:
            for logger in trainer.loggers:
                kind_of(spec).log(logger, name, x, step, spec)

        with evaluation_mode(pl_module):
            for name, picture in views.draw_all(pl_module, self.examples, self.seed, log):
                self.show(trainer, name, picture, step, caption(name, pl_module))

    @rank_zero_only
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.animate_views()

    def take_examples(self, model: GenerativeModule, data: DataModule) -> None:
        """Those that validations have shown; of a run that makes none any more, the first of the validation split."""
        if not self.examples and isinstance(data, DataModule):
            count = min(views.count_of(views.EXAMPLES, model.spec), data.size("val"))
            batch = data.examples("val", torch.arange(count))
            self.examples = {name: batch[name].to(model.device) for name in COLUMNS if name in batch}

    def animate_views(self) -> None:
        """The frames in the run's folder as animations."""
        for name in views.ANIMATED_VIEWS:  # of the folder, because a resumed run has drawn only the last ones itself
            frames = sorted((self.folder / "pictures" / name).glob("*.png"), key=lambda path: int(path.stem))
            if frames:
                animate(frames, self.folder / f"{name}.gif")

    def show(self, trainer: L.Trainer, name: str, picture: Tensor, iteration: int, text: str = "") -> None:
        """Give a picture, uint8 (3, H, W), with a caption to the loggers that take them.

        Where there is none, and for frames, it goes to the run's folder.
        """
        written = captioned(picture, text)
        taken = [give_picture(logger, name, written, iteration, text) for logger in trainer.loggers]
        if not any(taken) or name in views.ANIMATED_VIEWS:
            save_png(written, self.folder / "pictures" / name / f"{iteration:08d}.png")


def animate(frames: Sequence[Path], path: Path) -> None:
    """Pictures ``ITERATION.png``, in order, as a GIF that repeats, with the iteration below on the left.

    Of more than 36, so many at about equal distances are shown, the first and the last among them.
    """
    count = min(len(frames), MOST_FRAMES)
    shown = [_frame(frames[round(k * (len(frames) - 1) / max(1, count - 1))]) for k in range(count)]
    colours = Image.new("P", (1, 1))
    colours.putpalette(plane.palette().flatten().tolist())  # the same for all: nothing flickers, and the file is small
    drawn = [frame.quantize(palette=colours, dither=Image.Dither.NONE) for frame in shown]
    durations = [FRAME_MS] * (len(drawn) - 1) + [LAST_MS]
    options = {"append_images": drawn[1:], "duration": durations, "loop": 0}
    with atomic_file(path, durable=False) as file:  # disposal 2: whole pictures, which take less space than differences
        drawn[0].save(file, "GIF", save_all=True, disposal=2, **options)


def _frame(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    ImageDraw.Draw(picture).text((8, picture.height - 20), f"{int(path.stem):,}", fill=(64, 64, 64))
    return picture


def _draws(trainer: L.Trainer) -> bool:
    """Whether pictures are drawn of this validation."""
    return trainer.state.fn == "fit" and not trainer.sanity_checking
