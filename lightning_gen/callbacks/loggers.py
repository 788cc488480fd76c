"""Pictures for the loggers that Lightning knows, each in its own words."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.loggers import CometLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor


def give_picture(logger: Logger, name: str, picture: Tensor, iteration: int, text: str) -> bool:
    """Log a picture, uint8 (3, H, W), with its description, where the logger takes pictures; and say so."""
    pixels = picture.permute(1, 2, 0).numpy()
    experiment: Any = getattr(logger, "experiment", None)
    if isinstance(logger, TensorBoardLogger):
        from torch.utils.tensorboard.summary import image  # here, because tensorboard takes a second

        summary = image(name, picture, dataformats="CHW")  # add_image knows no description
        summary.value[0].metadata.summary_description = text
        experiment._get_file_writer().add_summary(summary, iteration)
    elif isinstance(logger, WandbLogger):
        logger.log_image(name, [pixels], step=iteration, caption=[text])
    elif isinstance(logger, MLFlowLogger):
        experiment.log_image(logger.run_id, Image.fromarray(pixels), key=name, step=iteration)
    elif isinstance(logger, CometLogger):
        experiment.log_image(pixels, name=name, step=iteration)
    else:
        return False
    return True
