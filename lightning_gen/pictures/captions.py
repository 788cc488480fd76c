"""CAPTIONS: what one sees on a view of a model, in a sentence for the picture and for TensorBoard.

TensorBoard keeps the first description of a tag: what changes during a run stands in the picture itself.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from lightning_gen.datamodules.classes import class_name
from lightning_gen.datamodules.paths import printable
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.kinds import kind_of
from lightning_gen.pictures import views
from lightning_gen.protocols import Encodes, Inverts

MOST = 120  # letters of the names of classes
REACH = f"{views.REACH:g}"


def samples(model: Any) -> str:
    """Of which classes the samples are."""
    kind, classes = kind_of(model.spec), views.classes_of(model)
    if not kind.tiled:
        return f"density of {kind.plural} that the model has drawn: dark where they are many"
    columns = f": a column for each class, {class_names(model.spec, range(classes))}" if classes else ""
    return f"{kind.plural} that the model has drawn{columns}"


def class_names(spec: DataSpec, ids: Sequence[int]) -> str:
    """ "cat, dog, bird", or "0 to 9" of numbers in a row, or a part of so many that they would be no caption."""
    names = [printable(class_name(k, spec)) for k in ids]
    if names == [str(k) for k in range(len(ids))] and len(ids) > 2:
        return f"0 to {ids[-1]}"
    return textwrap.shorten(", ".join(names), MOST, placeholder=" ...")


def reconstructions(model: Any) -> str:
    """Where the originals are."""
    return reconstructed("held-out examples", model)


def reconstructed(what: str, model: Any) -> str:
    """Likewise, of other examples."""
    if not kind_of(model.spec).tiled:
        return f"left: {what}; right: their reconstructions"
    return f"in turn a row of {what}, and below it the row of their reconstructions"


def traversals(model: Any) -> str:
    """What changes along a row."""
    return (
        f"the code of one example, of which a row changes one dimension from -{REACH} to {REACH} standard deviations "
        "of the codes that the model draws; left: which one, and its range; those that carry most come first"
    )


def interpolations(model: Any) -> str:
    """What the ends of a row are."""
    if not isinstance(model, Encodes | Inverts):
        return drawn_interpolations(model)
    line = "arc between their noises" if isinstance(model, Inverts) else "straight line of their codes"
    ends = f"first and last column: two held-out examples; between them the decoded {line}"
    return f"{ends}, all in the class of the first" if views.classes_of(model) else ends


def drawn_interpolations(model: Any) -> str:
    """What the ends of a row are where no example is encoded."""
    return "each row: from one drawn code to another, along the arc between them"


def class_swaps(model: Any) -> str:
    """What changes along a row."""
    return (
        "first column: held-out examples; then their codes, decoded in each class: "
        f"{class_names(model.spec, range(views.classes_of(model)))}"
    )


def code_traversals(model: Any) -> str:
    """What changes along a row of InfoGAN's codes."""
    codes, parts = model.codes, []
    if codes.categorical:
        parts.append("a block for each categorical code: its columns are the values, its rows other draws")
    if codes.continuous:
        reach = f"{views.CODE_REACH:g}"
        parts.append(f"a row for each continuous code, from -{reach} to {reach}, all else equal")
    return "; then ".join(parts)


def density(model: Any) -> str:
    """What is drawn over what."""
    return (
        "green: density of the data; orange dots: samples; ground: the discriminator's logit, blue low to red high, "
        "where it scores single points"
    )


def kl_per_dimension(model: Any) -> str:
    """What the bars are."""
    return "KL(q(z|x) || p(z)) of each latent dimension in nats, sorted"


def loss_by_time(model: Any) -> str:
    """What the bars are."""
    return "loss of validation in equal parts of the times of training, noise left, data right"


def translation(model: Any, direction: str) -> str:
    """Which row is what."""
    source, _, target = direction.partition("2")
    rows = [f"examples of side {source}", f"their translations to {target}"]
    if f"{target}2{source}" in model.directions:
        rows.append(f"these translated back to {source}")
    if model.spec.pairs != "none":
        rows.append(f"the true {target}")
    return f"rows: {'; '.join(rows)}"


def identity(model: Any) -> str:
    """Which row is what."""
    return "in turn a row of examples of the side that a translator makes, and that translator's output: best unchanged"


CAPTIONS: dict[str, Callable[[Any], str]] = {
    function.__name__: function
    for function in (
        *(samples, reconstructions, traversals, interpolations, drawn_interpolations),
        *(class_swaps, code_traversals),
        *(density, kl_per_dimension, loss_by_time, identity),
    )
}


def caption(name: str, model: Any) -> str:
    """Of a view of ``views.draw_all``; empty where there is none."""
    if name in CAPTIONS:
        return CAPTIONS[name](model)
    return translation(model, name) if name in getattr(model, "directions", ()) else ""
