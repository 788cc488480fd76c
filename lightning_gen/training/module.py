"""GenerativeModule: one optimizer per player, updated alternately. The only training loop of the project."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.names import check_at_least_one, to_serializable
from lightning_gen.schedule import Schedule
from lightning_gen.training.accepted import accepted, check_same_data
from lightning_gen.training.ema import MovingAverages, decay, half_lives
from lightning_gen.training.finite import AT_ONCE, FiniteCheck, NonFinite
from lightning_gen.training.noise import BatchNoise, indexed_noise, seed_default_generators
from lightning_gen.training.players import adamw, freeze_all_but, l1_norm, optimizer_options, size_of, split_batch
from lightning_gen.training.scalar_tags import scalar_tag
from lightning_gen.training.skipping import NoSkipping, Skipping
from lightning_gen.training.speed import can_bypass_lightning_hooks, iterations_per_batch
from lightning_gen.training.validation import Batch, ExampleMeanValidation


class GenerativeModule(ExampleMeanValidation):
    """A few networks owned by players; a player is one optimizer and the submodules that it updates.

    A family defines ``players``, builds the named submodules in its constructor and writes one
    ``loss_<player>(batch, shared) -> (scalar, dict of scalars)`` per player; ``shared`` is a dict that lives for one
    iteration and passes values from one player's step to a later one. The rest (order, freezing, accumulation,
    clipping, averages, schedules, counters, noise, the check for NaN) is here.

    Args:
        spec: the data's spec, or the dict that a checkpoint holds.
        optimizers: player -> {lr, betas, eps, weight_decay, l1}: AdamW; lr may be a ramp; l1 is the weight of sum |w|.
        lr: learning rate of all players, a number or a ramp; stands over ``optimizers``.
        ema: player -> half-life in images of the moving average of its networks, used for validation and sampling.
        clip: largest norm of a player's gradient.
        skip: a step whose gradient's norm is more than ``skip`` times the typical one is left out, see skipping.py.
        accumulate: number of chunks in which a batch is computed, to save memory.
        log_every: iterations between two log entries.
        seed: seed of the training noise.
    """

    players: ClassVar[dict[str, tuple[str, ...]]]
    player_tags: ClassVar[dict[str, str]] = {}  # player -> its name in tags, "" for none; its own where none is given
    reset_state_prefixes: ClassVar[tuple[str, ...]] = ("skipping.",)  # state that --init does not take over

    def __init__(
        self,
        spec: DataSpec,
        *,
        optimizers: dict[str, dict[str, Any]] | None = None,
        lr: float | str | None = None,
        ema: dict[str, float] | None = None,
        clip: float | None = None,
        skip: float | None = None,
        accumulate: int = 1,
        log_every: int = 50,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.spec = accepted(spec, type(self))
        self.save_hyperparameters(ignore=["spec"])  # the constructor's arguments, the subclass's included
        arguments = {name: to_serializable(value) for name, value in self.hparams.items()}
        self.save_hyperparameters({**arguments, "spec": self.spec.to_dict()})
        self.options = optimizer_options(self.players, optimizers or {}, lr)
        self.half_life = half_lives(self.players, ema or {})
        assert all(hasattr(self, f"loss_{player}") for player in self.players), "each player needs a loss_<player>"
        self.schedules = {f"lr_{player}": options["lr"] for player, options in self.options.items()}
        check_at_least_one(accumulate=accumulate, log_every=log_every)
        if clip is not None and clip <= 0:
            raise UserError(f"clip {clip}: the largest norm of a gradient must be above 0")
        self.clip, self.accumulate, self.log_every, self.seed = clip, accumulate, log_every, seed
        self.batch_multiple = accumulate  # factor of which the batch of a device must be a multiple
        self.iteration, self.images = 0, 0
        self.total: int | None = None  # iterations of the run
        self.latest: dict[str, float] = {}  # the last logged values
        self.finite = FiniteCheck()
        self.skipping: NoSkipping | Skipping = NoSkipping() if skip is None else Skipping(self.players, skip)

    # Hooks for subclasses

    def update_order(self, iteration: int) -> tuple[str, ...]:
        """The players whose optimizers step in this iteration, in order."""
        return tuple(self.players)

    def after_step(self, player: str) -> dict[str, float] | None:
        """Called after each optimizer step of a player: weight clipping, codebooks, augmentation; may return logs."""

    # Helpers for subclasses

    def network(self, name: str) -> Any:
        """A submodule; outside training its moving average where there is one."""
        averages = None if self.training else self._modules.get("averages")
        return averages[name] if isinstance(averages, MovingAverages) and name in averages else getattr(self, name)

    def noise(self, shape: tuple[int, ...], stream: str = "z") -> Tensor:
        """Standard normal noise (B, ...), see noise.py; in validation it depends on the example alone."""
        if self.training:
            return self._noise(shape, stream)
        return indexed_noise(self.example_indices, shape[1:], self.seed, "validation", stream).to(self.device)

    def weight(self, value: Schedule) -> float:
        """A scheduled value now; validation uses the end of the ramp, so that its values are comparable."""
        return value(self.iteration, self.total) if self.training else value.end

    # The loop

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One AdamW (Adam where there is no weight decay) for each player."""
        scaled = self.trainer.precision == "16-mixed"  # a fused step would hide the scale from clipping
        self.skipping.check(scaled)
        fused = self.device.type in ("cpu", "cuda") and not scaled
        return [adamw(self.trainable(player), options, fused) for player, options in self.options.items()]

    def on_train_start(self) -> None:
        trainer, epochs = self.trainer, self.trainer.max_epochs or -1
        limits = trainer.max_steps, epochs * trainer.num_training_batches
        self.total = int(min((n for n in limits if n > 0), default=0)) or None
        self._noise = BatchNoise(self.seed, self.device)
        self._moves = dict(zip(self.players, self.trainer.optimizers, strict=True))
        self._block = iterations_per_batch(trainer)
        self._direct = can_bypass_lightning_hooks(self)
        self._share = getattr(trainer.strategy, "average_gradients", None)  # of FlatStrategy
        self._trainable = {player: self.trainable(player) for player in self.players}
        self._progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """The iterations of a batch: one, or as many as fit.py made the data yield at once."""
        for part in split_batch(batch, self._block):
            self._iterate(part)

    def _iterate(self, batch: Batch) -> None:
        """One iteration: the optimizer step of each player that is due, then the counters."""
        rank, world = self.global_rank, self.trainer.world_size
        seed_default_generators(self.seed, "default", self.iteration, rank)
        parts = list(split_batch(batch, self.accumulate))
        shared: list[dict[str, Any]] = [{} for _ in parts]
        images = world * size_of(batch)
        log_now = (self.iteration + 1) % self.log_every == 0
        logged: dict[str, Tensor | float] = {}
        for move, player in enumerate(self.update_order(self.iteration)):
            values: dict[str, Tensor | float] = {}
            freeze_all_but(player, self._trainable)
            self._moves[player].zero_grad()
            for part, (chunk, notes) in enumerate(zip(parts, shared, strict=True)):
                self._noise.seek(self.iteration, move, rank * len(parts) + part, world * len(parts))
                loss, logs = getattr(self, f"loss_{player}")(chunk, notes)
                total = loss + l1_norm(self._trainable[player], l1) if (l1 := self.options[player]["l1"]) else loss
                total = total / len(parts) if len(parts) > 1 else total
                total.backward() if self._direct else self.manual_backward(total)
                self.finite.add(player, self.iteration, loss.detach(), logs)
                if log_now:
                    for name, value in {"loss": loss, **logs}.items():
                        values[name] = values.get(name, 0.0) + value.detach() / len(parts)
            values |= self._step(player) | (self.after_step(player) or {})
            if log_now:
                logged |= {scalar_tag(self, player, name): value for name, value in values.items()}
        for player, half_life in self.half_life.items():
            self.averages.update_parameters(self._networks([player]), decay(images, self.images, half_life))
        self._count(images)
        if log_now or len(self.finite.seen) >= AT_ONCE:
            self.check_finite()
        if log_now:
            mean = self.trainer.strategy.reduce  # over the ranks
            self.latest = {f"train/{name}": float(mean(value, reduce_op="mean")) for name, value in logged.items()}
            self.log_to_loggers(self.latest)
            if not getattr(self.trainer.progress_bar_callback, "reads_model_metrics", False):
                losses = {name: value for name, value in self.latest.items() if "loss" in name}
                self.log_dict(losses, prog_bar=True, logger=False)  # costs time in each iteration, for other bars

    def _step(self, player: str) -> dict[str, float]:
        """Clip and step, or skip; returns the learning rate where it is scheduled, and the number of skips if any."""
        optimizer, lr = self._moves[player], self.options[player]["lr"]
        for group in optimizer.param_groups:
            group["lr"] = lr(self.iteration, self.total)
        if self._share:
            self._share(self._trainable[player])
        taken = self.skipping.should_step(player, self._trainable[player])
        if taken and self._direct:
            self.on_before_optimizer_step(optimizer)
            optimizer.step()
        elif taken:  # not LightningOptimizer.step, which would count each player's as a step of the run
            self.trainer.strategy.optimizer_step(optimizer, lambda: None)
        return self.skipping.count(player) | ({} if lr.constant else {"lr": optimizer.param_groups[0]["lr"]})

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.clip:  # here, not earlier: gradients of float16 are scaled until now
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], self.clip)

    def check_finite(self, parameters: Iterable[Tensor] = ()) -> None:
        """Check for NaN on all ranks: if one has it, all stop.

        Raises:
            NonFinite: a loss, a term or one of the parameters is not finite.
        """
        trouble = self.finite.find(parameters)
        if self.trainer.world_size > 1 and not self.trainer.strategy.reduce_boolean_decision(trouble is None, all=True):
            trouble = trouble or NonFinite("another rank met a NaN or infinite value")
        if trouble:
            raise trouble

    def _count(self, images: int) -> None:
        self.iteration, self.images = self.iteration + 1, self.images + images
        self._progress.increment_ready()  # so that the Trainer's max_steps counts iterations
        self._progress.increment_completed()

    # Averages, ownership and checkpoints

    def _networks(self, players: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
        return ((name, getattr(self, name)) for player in players for name in self.players[player])

    def parameters_of(self, player: str) -> list[nn.Parameter]:
        """All parameters of a player's submodules."""
        return [p for _, network in self._networks([player]) for p in network.parameters()]

    def trainable(self, player: str) -> list[nn.Parameter]:
        """Those that are not frozen for good."""
        return [p for p in self.parameters_of(player) if p.requires_grad]

    def make_averages(self) -> None:
        """Create the moving averages as copies of the networks; once."""
        if self.half_life and "averages" not in self._modules:
            self.averages = MovingAverages(self._networks(list(self.half_life)))

    def setup(self, stage: str) -> None:
        self.make_averages()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.check_finite(self.parameters())
        checkpoint["lightning_gen"] = {
            "format": 1,
            "model": f"{type(self).__module__}.{type(self).__qualname__}",
            "iteration": self.iteration,
            "images": self.images,
            "total": self.total,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_same_data(self, checkpoint)
        self.make_averages()
        self.count_from(checkpoint)

    def count_from(self, checkpoint: dict[str, Any]) -> None:
        """Load a checkpoint's counters."""
        self.iteration, self.images = (checkpoint["lightning_gen"][name] for name in ("iteration", "images"))
