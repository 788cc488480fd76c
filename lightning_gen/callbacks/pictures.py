"""Pictures of what the model can do, at each validation, in TensorBoard or whatever logger takes pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from lightning_gen import views
from lightning_gen.images import save_png
from lightning_gen.module import GenerativeModule


class Pictures(Callback):
    """Draws every view that the model's capabilities allow from the same validation examples and the same noise.

    Args:
        folder: of the run; pictures go to ``pictures/`` there when no logger takes them.
        seed: of the samples.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.seed = folder, seed
        self.examples: Tensor | None = None
        self.classes: Tensor | None = None

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: object,
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # type: ignore[override]
        if batch_idx == 0 and self.examples is None:
            x = batch["x"]
            count = len(x) if x.dim() == 2 else views.EXAMPLES  # points: as many as there are
            self.examples, self.classes = x[:count], batch["y"][:count] if "y" in batch else None

    @rank_zero_only
    def on_validation_end(self, trainer: L.Trainer, pl_module: GenerativeModule) -> None:  # type: ignore[override]
        if trainer.state.fn != "fit" or trainer.sanity_checking or self.examples is None:
            return
        with sampling(pl_module):
            for name, picture in views.all_of(pl_module, self.examples, self.seed, self.classes):
                self.show(trainer, name, picture, pl_module.iteration)

    def show(self, trainer: L.Trainer, name: str, picture: Tensor, iteration: int) -> None:
        """Give a picture, uint8 (3, H, W), to the loggers that take pictures, else write it to the run's folder."""
        taken = False
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(name, picture, iteration)
                taken = True
            elif isinstance(logger, WandbLogger):
                logger.log_image(name, [picture.permute(1, 2, 0).numpy()], step=iteration)
                taken = True
        if not taken:
            save_png(picture, self.folder / "pictures" / name / f"{iteration:08d}.png")


@contextmanager
def sampling(model: GenerativeModule) -> Iterator[None]:
    """Eval mode without gradients; the mode before is restored."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
