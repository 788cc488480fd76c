"""Flow matching and diffusion: a network learns to denoise at every time of a path from noise to data.

Lipman et al. 2023, https://arxiv.org/abs/2210.02747; Liu et al. 2023, https://arxiv.org/abs/2209.03003; Ho et al. 2020,
https://arxiv.org/abs/2006.11239; Karras et al. 2022, https://arxiv.org/abs/2206.00364

    t ~ times      x_t = alpha(t) x + sigma(t) e, e ~ N(0, I)      loss = weight(t) |x^(x_t, t) - x|^2 / elements
    sample: x_0 = sigma(0) e, then dx/dt = alpha' x^ + sigma' e^ from t = 0 to 1, by a solver

Path, prediction, weight, times and coupling are rows of tables (objectives/paths.py), solvers too (solvers.py): any
goes with any other. The solver is chosen when samples are drawn, and not trained for.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_gen.datamodules.errors import UserError, unknown
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.models import exact_likelihood
from lightning_gen.models.conditional import Condition, ConditionalMixin
from lightning_gen.models.coupling import COUPLINGS
from lightning_gen.models.solvers import Denoise, Field, find_solver, run_heun, time_grid, velocity
from lightning_gen.names import check_above_zero, check_arguments, resolve
from lightning_gen.networks.condition import ConditionSpec, call_denoiser, condition_of, has_condition
from lightning_gen.networks.denoisers import denoiser
from lightning_gen.objectives import paths
from lightning_gen.objectives.flow_times import TIMES
from lightning_gen.objectives.paths import PATHS, PREDICTIONS, WEIGHTS, denoising_error, over
from lightning_gen.training.accepted import check_count, of_examples
from lightning_gen.training.module import GenerativeModule
from lightning_gen.training.noise import indexed_noise
from lightning_gen.training.validation import Batch, Logs

GOLDEN = (math.sqrt(5) - 1) / 2
BINS = 8  # of the time, in which the loss of validation is shown
BOUNDED = 0.5  # standard deviation of values in [-1, 1], as Karras et al. 2022, section 5
NEAR = 1e-3  # from the data, where a way back begins: the field at the data themselves may not be finite


class Sampling(NamedTuple):
    """How a flow makes its samples; chosen anew for each use of a trained model.

    Args:
        solver: a name of ``SOLVERS``.
        nfe: evaluations of the network, without those of guidance.
        shift: placement of the steps: below 1 later, towards the data.
        guidance: scale of classifier-free guidance (Ho and Salimans 2022); 1 is none.
        guidance_from: time from which it is used (Kynkaanniemi et al. 2024).
        guidance_to: time to which it is used.
    """

    solver: str = "heun"
    nfe: int = 15
    shift: float = 1.0
    guidance: float = 1.0
    guidance_from: float = 0.0
    guidance_to: float = 1.0

    def check(self, conditional: bool, guided: bool) -> Sampling:
        """Itself.

        Raises:
            UserError: an unknown solver, an impossible number, or guidance of a model without conditions.
        """
        find_solver(self.solver, self.nfe)
        check_above_zero(shift=self.shift)
        if not 0 <= self.guidance_from <= self.guidance_to <= 1:
            raise UserError(
                f"guidance_from {self.guidance_from}, guidance_to {self.guidance_to}: times of 0 <= from <= to <= 1"
            )
        if self.guidance < 0 or not math.isfinite(self.guidance):
            raise UserError(f"guidance {self.guidance}: a scale of at least 0; 1 is none, 1.5 to 4 are usual")
        if self.guidance != 1 and not conditional and not guided:
            raise UserError(
                f"guidance {self.guidance} leads from samples without a class to those with one, and this model takes "
                "no classes: train with labels, or guide by a weaker run of the same model, --weak RUN"
            )
        return self


class Flow(ConditionalMixin, GenerativeModule):
    """One player, a network of noisy examples and their time; the variants are rows of presets/flow.py.

    Args:
        spec: the data's spec.
        network: "unet", "dit", "mlp", "auto" (mlp for vectors, else unet), or an import path.
        network_args: options of that network.
        path: a name of ``PATHS``: "linear", "cosine", "edm".
        predict: what the network's output is: "x", "v", "e", or "f", what is left beside the best linear guess.
        weight: of the error at each time: "x", "v", "e", "f" (named for what it makes the loss an even error of), or
            "min_snr".
        times: of training: "uniform", "logit_normal", "shifted", or "log_normal" noise of the path "edm".
        times_args: {"mean", "std"} of "logit_normal" and "log_normal", {"shift"} of "shifted".
        coupling: of noise and examples in a batch: "independent", or "ot", the assignment of least total distance.
        solver: of samples, see ``Sampling``; also given to sample.py.
        nfe: evaluations of the network for a sample.
        shift: placement of the solver's steps, below 1 later.
        guidance: scale of guidance; 1 is none.
        scale: size of the values of unbounded data, by which they are divided.
        conditional: whether the network takes the class or the text, where the data have any.
        no_class: share of training examples whose condition is hidden, for guidance.
        **options: of GenerativeModule: optimizers, lr, ema, clip, skip, accumulate, log_every, seed.

    Raises:
        UserError: an unknown name, an impossible option, or data that are no numbers.
    """

    takes_tokens: ClassVar[bool] = False
    players: ClassVar[dict[str, tuple[str, ...]]] = {"flow": ("denoiser",)}
    loss_by_time: Tensor

    def __init__(
        self,
        spec: DataSpec,
        *,
        network: str = "auto",
        network_args: dict[str, Any] | None = None,
        path: str = "linear",
        predict: str = "v",
        weight: str = "v",
        times: str = "uniform",
        times_args: dict[str, Any] | None = None,
        coupling: str = "independent",
        solver: str = "heun",
        nfe: int = 15,
        shift: float = 1.0,
        guidance: float = 1.0,
        scale: float = 1.0,
        conditional: bool = True,
        no_class: float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(spec, **options)
        self.setup_condition(conditional and has_condition(self.spec))
        if not 0 <= no_class < 1:
            raise UserError(f"no_class {no_class}: a share of the examples, at least 0 and below 1")
        check_above_zero(scale=scale)
        for kind, name, table in (
            ("path", path, PATHS),
            ("predict", predict, PREDICTIONS),
            ("weight", weight, WEIGHTS),
        ):
            if name not in table:
                raise unknown(kind, name, table)
        self.path, self.predict, self.weight_of_times = PATHS[path], predict, weight
        self.times, self.times_args = resolve(times, TIMES, "times"), times_args or {}
        check_arguments(self.times, self.times_args, f"times {times!r}", skip=1)
        self.couple = resolve(coupling, COUPLINGS, "coupling")
        self.bounded, self.scale, self.no_class = self.spec.values != "real", scale, no_class
        self.size = BOUNDED if self.bounded else 1.0
        self.weak: Flow | None = None  # a weaker model that guides, see ``--weak``
        self.sampling = Sampling(solver, nfe, shift, guidance).check(bool(self.condition_spec), False)
        self.draw_dim = math.prod(self.spec.shape)
        self.denoiser = denoiser(network, self.spec, **(network_args or {}), **self._denoiser_condition())
        self.register_buffer("loss_by_time", torch.zeros(BINS))  # of the last validation

    def _denoiser_condition(self) -> dict[str, ConditionSpec]:
        """The network's condition, in which one class more stands for none; no text is the empty one."""
        known = self.condition_spec
        if known is None:
            return {}
        return {"condition": known._replace(size=known.size + 1) if known.kind == "class" else known}

    # Training

    def loss_flow(self, batch: Batch, shared: dict[str, Any]) -> tuple[Tensor, Logs]:
        x, y = self.to_flow(batch["x"]), self.condition(condition_of(batch))
        e = self.couple(x, self.noise(tuple(x.shape), "noise"))
        if y is not None and self.no_class and self.condition_spec:
            y = self.condition_spec.hide(y, torch.special.ndtr(self.noise((len(y),), "no_class")) <= self.no_class)
        return self.errors(x, e, self._training_times(len(x)), y).mean(), {}

    def _training_times(self, n: int) -> Tensor:
        """Times (n,), one in each n-th part of the distribution of the global batch: the loss then varies less."""
        shard, shards = self._noise.shard, self._noise.num_shards
        place = shard * n + torch.arange(n, device=self.device)
        u = (place + torch.special.ndtr(self.noise((n,), "time"))) / (n * shards)
        return self.times(u, **self.times_args)

    def errors(self, x: Tensor, e: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """The loss (B,) of examples and noise (B, *shape) at times (B,), given ids or tokens, or None."""
        out = self._output(self.path.at(x, e, t), t, y)
        return denoising_error(self.path, self.predict, self.weight_of_times, out, x, e, t, self.size)

    def _output(self, x_t: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """The network's, of inputs that are brought to size 1 where the path does not keep theirs."""
        grown = over(paths.preconditioning(self.path, t, self.size)[2], x_t)
        return call_denoiser(self.network("denoiser"), x_t * grown, t, y).float()

    # Validation: each example has its own time, whatever the batch

    def validation_values(self, batch: Batch) -> Logs:
        x, y = self.to_flow(batch["x"]), self.condition(condition_of(batch))
        numbers = torch.tensor(self.example_indices, dtype=torch.float64)
        u = ((numbers + 0.5) * GOLDEN % 1).to(x)
        error = self.errors(x, self.noise(tuple(x.shape), "noise"), self.times(u, **self.times_args), y)
        bins = F.one_hot((u * BINS).long().clamp(max=BINS - 1), BINS)  # of the share of training below t
        return {"loss": error, "by_time": error[:, None] * bins, "seen": bins}

    def validation_summary(self, means: Logs) -> dict[str, float]:
        means = dict(means)
        self.loss_by_time.copy_(means.pop("by_time") / means.pop("seen").double().clamp(min=1e-12))
        return super().validation_summary(means)

    # Sampling

    def denoised(self, x_t: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """x^ (B, *shape) at x_t (B, *shape) and t (B,), given ids (B,), tokens (B, L) or None; without guidance."""
        guess = PREDICTIONS[self.predict].denoised(self.path, self._output(x_t, t, y), x_t, t, self.size)
        # a small error of e is a large one of x far from the data (Ho et al. 2020, section 3.2)
        return guess.clamp(-1, 1) if self.predict == "e" and self.bounded else guess

    def _guided(self, y: Tensor | None) -> Denoise:
        """What samples follow: x^ given the condition, and beyond it, away from that of none or of a weak model."""
        scale, start, end = self.sampling.guidance, self.sampling.guidance_from, self.sampling.guidance_to
        none = self.condition_spec.none(len(y), y.device) if y is not None and self.condition_spec else None

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            guess = self.denoised(x_t, t, y)
            if scale == 1 or not start <= float(t[0]) <= end:
                return guess
            other = self.weak.denoised(x_t, t, y) if self.weak else self.denoised(x_t, t, none)
            return other + scale * (guess - other)

        return denoise

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Standard normal noise (B, D), conditions (B, ...) where it takes them -> (B, *shape) in the data's range."""
        return self.solve(z, y, range(len(z)), self.seed)

    forward = decode

    def solve(self, z: Tensor, y: Tensor | None, numbers: range, seed: int) -> Tensor:
        """``decode``, in which the noise of a stochastic solver is that of the samples with these numbers."""
        s, y = self.sampling, self.condition(y)
        solver = find_solver(s.solver, s.nfe)
        times = time_grid(solver.steps(s.nfe), s.shift).to(z)
        x = z.unflatten(1, self.spec.shape) * self.path.sigma(times[0])

        def noise(k: int) -> Tensor:
            return indexed_noise(numbers, self.spec.shape, seed, "solver", k).to(z)

        return self.to_data(solver.run(self._guided(y), self.path, x, times, noise))

    @torch.no_grad()
    def sample(self, n: int, y: Condition | None = None, seed: int = 0, start: int = 0) -> Tensor:
        """As of ``ConditionalMixin``."""
        check_count(n, start)
        numbers = range(start, start + n)
        z = indexed_noise(numbers, (self.draw_dim,), seed, "sample").to(self.device)
        return self.solve(z, self.conditions_for_samples(n, y, start), numbers, seed)

    # The way back

    def _ways(self) -> Tensor:
        """Times (K + 1,) of Heun's steps with as many evaluations as a sample takes, ending just before the data."""
        heun = find_solver("heun", self.sampling.nfe)
        return time_grid(heun.steps(self.sampling.nfe), self.sampling.shift).clamp(max=1 - NEAR).to(self.device)

    def _field(self, y: Tensor | None) -> Field:
        y = self.condition(y)
        return velocity(lambda x_t, t: self.denoised(x_t, t, y), self.path)

    @of_examples
    def invert(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (B, *shape), conditions -> the noise (B, D) from which the flow makes it, by Heun's steps backwards."""
        z = run_heun(self._field(y), self.to_flow(x), self._ways().flip(0))
        return z.flatten(1) / float(self.path.sigma(torch.zeros(())))

    @of_examples
    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x (B, *shape) -> (B, *shape), to its noise and back: what is lost is the error of the steps, less of more."""
        z = self.invert(x, y).unflatten(1, self.spec.shape) * self.path.sigma(torch.zeros((), device=self.device))
        return self.to_data(run_heun(self._field(y), z, self._ways()))

    @of_examples
    def log_prob(self, x: Tensor, y: Tensor | None = None, numbers: list[int] | None = None) -> Tensor:
        """log p(x) (B,) in nats of the data's units, of the exact flow; see exact_likelihood.py."""
        numbers = list(range(len(x))) if numbers is None else numbers
        nats = exact_likelihood.log_prob(self._field(y), self.to_flow(x), self.path, 1 - NEAR, numbers, self.seed)
        units = sum(math.log(s) for s in self.spec.scale) if self.spec.scale else 0.0
        return nats - (0.0 if self.bounded else self.draw_dim * math.log(self.scale)) - units

    # Range

    def to_flow(self, x: Tensor) -> Tensor:
        """x (B, *shape) as it reaches the model -> as the flow sees it."""
        return x if self.bounded else x / self.scale

    def to_data(self, x: Tensor) -> Tensor:
        """The flow's x (B, *shape) -> (B, *shape) in the range of the data."""
        return x.clamp(-1, 1) if self.bounded else x * self.scale
