"""Pictures for the loggers that Lightning knows, each in its own words; and rows of TensorBoard's table of runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import CometLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor


def give_table_row(
    logger: TensorBoardLogger, row: Mapping[str, int | float | str], final: Mapping[str, float], iteration: int
) -> None:
    """A row of the HParams tab: options, and final values as ``final/NAME``, which come before the curves there.

    Lightning's ``log_hyperparams`` also writes the columns of an experiment. TensorBoard takes those of one run for all
    runs, without the values and options that only other families have; where there are none, it finds them itself.
    """
    from torch.utils.tensorboard.summary import hparams

    logger.hparams.update(row)  # for hparams.yaml
    logger.log_metrics({f"final/{name.removeprefix('val/')}": value for name, value in final.items()}, iteration)
    _, started, ended = hparams(dict(row), dict(final))
    for summary in (started, ended):
        logger.experiment._get_file_writer().add_summary(summary, iteration)


def give_picture(logger: Logger, name: str, picture: Tensor, iteration: int, text: str) -> bool:
    """Log a picture, uint8 (3, H, W), with its description, where the logger takes pictures; and say so."""
    pixels = picture.permute(1, 2, 0).numpy()
    experiment: Any = getattr(logger, "experiment", None)
    if isinstance(logger, TensorBoardLogger):
        from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_BLOB_SEQUENCE  # here, because it takes a second
        from tensorboard.plugins.image.metadata import create_summary_metadata
        from torch.utils.tensorboard.summary import image

        summary = image(name, picture, dataformats="CHW")  # add_image knows no description
        metadata = create_summary_metadata(display_name=None, description=text)
        metadata.data_class = DATA_CLASS_BLOB_SEQUENCE  # without a class its server makes metadata of its own
        summary.value[0].metadata.CopyFrom(metadata)
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
