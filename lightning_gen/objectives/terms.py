"""Weighted loss terms: parses and checks the mapping that turns one model into its variants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from lightning_gen.datamodules.errors import UserError
from lightning_gen.names import check_arguments, join_nested_paths, resolve
from lightning_gen.objectives import coupled, deterministic, latent
from lightning_gen.schedule import Schedule, schedule

Term = Callable[..., Tensor]
OPTION_KEYS = frozenset({"weight", "function"})  # keys by which a term's options are distinguished from its path

HIERARCHICAL_TERMS: dict[str, Term] = {"kl": latent.kl, "capacity": latent.capacity}  # of several levels of latents
TERMS: dict[str, Term] = {  # of variational autoencoders
    **HIERARCHICAL_TERMS,
    "mi": coupled.mi,
    "tc": coupled.tc,
    "dkl": coupled.dkl,
    "dip": coupled.dip,
    "mmd": coupled.mmd,
}
CODE_TERMS: dict[str, Term] = {  # of deterministic autoencoders
    "mmd": coupled.mmd,
    "dip": coupled.dip,
    "code": deterministic.code,
    "decoder": deterministic.decoder,
}
QUANTIZED_TERMS: dict[str, Term] = {"commitment": deterministic.commitment}  # of those whose code is tokens


class WeightedTerm(NamedTuple):
    """One term of a loss: weight * term(s, **arguments).

    Args:
        term: the function, ``term(s, **arguments) -> (B,)``.
        weight: a number, or a ramp such as "0..1@10000", kept as it was given.
        arguments: keyword arguments of the term; a ramp given for a number is a Schedule.
    """

    term: Term
    weight: float | str
    arguments: dict[str, Any]

    def __call__(self, s: Any, now: Callable[[Schedule], float]) -> Tensor:
        """Its value (B,) for a step's outputs; ``now`` gives the value of a ramp at this iteration."""
        return self.term(s, **{k: now(v) if isinstance(v, Schedule) else v for k, v in self.arguments.items()})

    @property
    def couples_examples(self) -> bool:
        """Whether it is a statistic of the whole batch, see ``objectives/groups.py``."""
        return getattr(self.term, "couples_examples", False)

    def schedules(self, name: str, option: str = "terms") -> dict[str, Schedule]:
        """The weight and the ramped arguments by the names of their options."""
        ramps = {f"{option}.{name}.{key}": v for key, v in self.arguments.items() if isinstance(v, Schedule)}
        return {f"{option}.{name}": schedule(self.weight), **ramps}


def parse_terms(terms: Mapping[str, Any], table: Mapping[str, Term]) -> dict[str, WeightedTerm]:
    """Parse a mapping of terms: {"kl": 4}, {"kl": "0..1@10000"} or {"kl": {"weight": 1, "free_bits": 0.1}}.

    A name is one of the table or an import path, "my_losses.edges", which a command line delivers as nested mappings:
    {"my_losses": {"edges": 0.1}}. A function goes in as {"edges": {"weight": 0.1, "function": edges}}. None removes a
    term.

    Args:
        terms: name -> weight, ramp or {"weight": weight, **arguments}.
        table: the known terms.

    Returns:
        name -> term, weight and arguments, in the order given.

    Raises:
        UserError: for an unknown term or argument, and for what is no weight.
    """
    return {
        name: _parse(name, value, table)
        for name, value in join_nested_paths(terms, table, OPTION_KEYS)
        if value is not None
    }


def _parse(name: str, value: Any, table: Mapping[str, Term]) -> WeightedTerm:
    arguments = dict(value) if isinstance(value, Mapping) else {"weight": value}
    term = resolve(arguments.pop("function", name), table, "term")
    weight = arguments.pop("weight", None)
    if not callable(term):
        raise UserError(f"term {name!r} is {term!r}: give a function, term(s, **arguments) -> (B,)")
    if isinstance(weight, bool) or not isinstance(weight, int | float | str):
        raise UserError(f"term {name!r} needs a weight, not {weight!r}: a number, or a ramp such as '0..1@10000'")
    ramps = {key: schedule(text) for key, text in arguments.items() if isinstance(text, str) and ".." in text}
    numbers = {key: ramp.end for key, ramp in ramps.items()}  # of the type that the term takes
    check_arguments(term, arguments | numbers, f"term {name!r}", skip=1)
    return WeightedTerm(term, weight, arguments | ramps)
