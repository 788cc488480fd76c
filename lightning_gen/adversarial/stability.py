"""Stability of adversarial training: a verdict from the values of each validation, and suggested fixes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.kinds import kind_of

Row = Mapping[str, float]  # "iteration" and the values of one validation, by the names under which they are logged

OWN = (
    "iteration",
    "val/logit_real",
    "val/logit_fake",
    "val/logit_gap",
    "val/sign_real",
    "val/sign_fake",
    "val/diversity",
    "val/duplicates",
    "val/nearest",
    "val/ema_distance",
)  # of a row; its other values are distances of the samples to the data, the lower the better

VERDICTS = ("early", "healthy", "saturated", "collapsed", "diverged")  # from the third on each worse than before
SOUND = ("early", "healthy")
WORDS = {"early": "too early to say"}  # for people
WHOSE = {"saturated": "the discriminator has", "collapsed": "the samples have", "diverged": "the training has"}
FATAL_VERDICTS = ("collapsed", "diverged")  # unrecoverable failures

EARLY = 0.2  # of the run, in which samples may be far off: those of an untrained generator are all alike
LOW_DIVERSITY = 0.3  # of the data's: a single class of digits or MNIST alone still has 0.53 to 0.98
MANY_DUPLICATES = 0.5  # share of the samples; of real examples it is about 0.01, by its definition
AT_LEAST = 2  # validations in a row: a single one may be a bad moment
RISING = 1.1  # diversity over the best before, of a generator that is slow but learns
NOISE = 2.0  # times as far from the data as these are apart: untrained generators of digits begin at 2.4 to 2.8, of the
# 25 Gaussians at 38; after 800 iterations it is 1.3 to 1.5 of digits
LARGE_LOGIT = 1e4  # the maximum of float16 is 6.5e4; a Wasserstein critic under a penalty stays below some hundreds
LARGE_GAP = 100.0  # where a sigmoid has long been flat, and above a critic's distance of 28x28 images from noise
WORSE = 3.0  # times the best distance; samples of two good models differ by less
SURE_REAL, SURE_FAKE = 0.99, 0.01  # shares of positive logits of a discriminator that makes no mistakes
PATIENCE = 5  # validations in a row: for a while a discriminator may be ahead


class Verdict(NamedTuple):
    """One of ``VERDICTS``, and its evidence in words and numbers."""

    verdict: str
    saw: str

    def worse_than(self, other: Verdict) -> bool:
        return self.verdict not in SOUND and VERDICTS.index(self.verdict) > VERDICTS.index(other.verdict)


class Suggestion(NamedTuple):
    """A suggested fix.

    Args:
        words: its text.
        option: of the model, written as after "--model."; its first part is the name.
        against: the verdicts that it helps against.
        unless: whether these options of the model have it in use already, or cannot go with it.
    """

    words: str
    option: str
    against: tuple[str, ...]
    unless: Callable[[Mapping[str, Any]], bool] = lambda options: False

    @property
    def name(self) -> str:
        return self.option.split()[0].split(".")[0]

    def text(self, options: Mapping[str, Any]) -> str:
        """The words, with the option where the model has it."""
        normed = self.name == "penalties" and (options.get("critic_args") or {}).get("norm") == "batch"
        more = " --model.critic_args.norm none" if normed else ""  # which goes with no penalty
        return f"{self.words} (--model.{self.option}{more})" if self.name in options else self.words


def _penalised(options: Mapping[str, Any]) -> bool:
    """Whether a gradient is penalised."""
    return any(value and name != "lecam" for name, value in (options.get("penalties") or {}).items())


def _cannot_pack(options: Mapping[str, Any]) -> bool:
    packs = options.get("pack", 1) > 1
    return packs or options.get("condition", "none") != "none" or bool(options.get("codes"))


def _cannot_augment(options: Mapping[str, Any]) -> bool:
    spec = options.get("spec")
    return spec is not None and not kind_of(DataSpec.of(spec)).augmentations(DataSpec.of(spec))


SUGGESTIONS = (  # in the order in which they help
    Suggestion("a gradient penalty", "penalties.r1 0.1", ("saturated", "collapsed", "diverged"), _penalised),
    Suggestion(
        "spectral norm",
        "spectral_norm discriminator",
        ("saturated", "collapsed", "diverged"),
        lambda options: options.get("spectral_norm", "none") != "none",
    ),
    Suggestion("packing", "pack 2", ("collapsed",), _cannot_pack),
    Suggestion(
        "a moving average of the generator",
        "ema.generator 10000",
        ("diverged",),
        lambda options: bool((options.get("ema") or {}).get("generator")),
    ),
    Suggestion("a lower learning rate", "lr", ("saturated", "collapsed", "diverged")),
    Suggestion("a weaker discriminator", "critic_args", ("saturated", "diverged")),
    Suggestion(
        "augmentation of images, if the data are few",
        "augment",
        ("saturated", "collapsed"),
        lambda options: bool(options.get("augment")) or _cannot_augment(options),
    ),
)


def assess(history: Sequence[Row], total: int) -> Verdict:
    """The verdict of the last validation.

    Args:
        history: a row for each validation so far, at least one.
        total: iterations of the run.
    """
    late = [row for row in history if row["iteration"] > EARLY * total]
    for name, signs in FAILURE_CHECKS.items():
        if saw := signs(history, late):
            return Verdict(name, saw)
    last = history[-1]
    if last.get("val/nearest", 0.0) > NOISE:
        return Verdict("early", f"a sample is {last['val/nearest']:.1f} times as far from the data as these are apart")
    seen = {"diversity": "val/diversity", "duplicates": "val/duplicates", "logit gap": "val/logit_gap"}
    return Verdict("healthy", ", ".join(f"{word} {last[name]:.3g}" for word, name in seen.items() if name in last))


def _diverged(history: Sequence[Row], late: Sequence[Row]) -> str:
    """Logits that are too large at any time; later also a large gap while the samples have become far worse."""
    last = history[-1]
    largest = max(abs(last.get(f"val/logit_{side}", 0.0)) for side in ("real", "fake"))
    if largest > LARGE_LOGIT:
        return f"mean logits of {largest:.3g}"
    gap = last.get("val/logit_gap", 0.0)
    if late and abs(gap) > LARGE_GAP:
        for name, found in final_over_best(history).items():
            if (found["ratio"] or 0) > WORSE:
                return f"a logit gap of {gap:.3g}, and {name} {found['final']:.4g}, {found['ratio']:.1f} times its best"
    return ""


def _collapsed(history: Sequence[Row], late: Sequence[Row]) -> str:
    """Samples without diversity at the last validations."""
    rows, name = late[-AT_LEAST:], "val/diversity"
    if len(rows) < AT_LEAST or rows[-1][name] > RISING * max(_column(history[:-1], name)):
        return ""
    saw = f"diversity {rows[-1][name]:.2g} of the data's, near copies {rows[-1]['val/duplicates']:.0%} of the samples"
    alike = all(row[name] < LOW_DIVERSITY for row in rows)
    copies = all(row["val/duplicates"] > MANY_DUPLICATES for row in rows)
    return f"{saw}, {AT_LEAST} times in a row (usual: 1 and 1%)" if alike or copies else ""


def _saturated(history: Sequence[Row], late: Sequence[Row]) -> str:
    """A discriminator without mistakes and with growing logits, while the samples do not improve."""
    rows, before = late[-PATIENCE:], history[:-PATIENCE]
    if len(rows) < PATIENCE or not before or not all("val/logit_gap" in row for row in rows):
        return ""
    right = all(row["val/sign_real"] >= SURE_REAL and row["val/sign_fake"] <= SURE_FAKE for row in rows)
    gaps = [row["val/logit_gap"] for row in rows]
    surer = all(one < two for one, two in pairwise(gaps))
    if right and surer and not _improves(rows, before):
        return (
            f"a discriminator without mistakes, its logit gap from {gaps[0]:.3g} to {gaps[-1]:.3g}, no better samples"
        )
    return ""


def _improves(rows: Sequence[Row], before: Sequence[Row]) -> bool:
    """Whether a distance, or where none is known the diversity, was at its best in these rows."""
    if names := _distances(rows[-1]):
        return any(min(_column(rows, name)) < min(_column(before, name), default=float("inf")) for name in names)
    off = [[abs(1 - value) for value in _column(part, "val/diversity")] for part in (rows, before)]
    return min(off[0]) < min(off[1])


FAILURE_CHECKS: dict[str, Callable[[Sequence[Row], Sequence[Row]], str]] = {  # the worst first
    "diverged": _diverged,
    "collapsed": _collapsed,
    "saturated": _saturated,
}


def final_over_best(history: Sequence[Row]) -> dict[str, dict[str, float | None]]:
    """Name of each distance -> final, best, and their ratio, None where the best is not above 0."""
    found: dict[str, dict[str, float | None]] = {}
    for name in _distances(history[-1]):
        final, best = history[-1][name], min(_column(history, name))
        found[name] = {"final": final, "best": best, "ratio": final / best if best > 0 else None}
    return found


def suggestions(verdict: str, options: Mapping[str, Any]) -> list[str]:
    """Suggestions for a verdict that are not in use yet, the best first; options are the model's."""
    return [r.text(options) for r in SUGGESTIONS if verdict in r.against and not r.unless(options)]


def warning_message(verdict: Verdict, options: Mapping[str, Any]) -> str:
    """A bad verdict, its evidence and suggested fixes, as one line; options are the model's."""
    remedies = "; ".join(suggestions(verdict.verdict, options))
    return f"{WHOSE[verdict.verdict]} {verdict.verdict}: {verdict.saw}. Try, the most helpful first: {remedies}"


def report(history: Sequence[Row], verdict: Verdict, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Its entry in summary.json; None where no validation measured anything."""
    if not history:
        return None
    tries, last = suggestions(verdict.verdict, options), dict(history[-1])
    return {**verdict._asdict(), "try": tries, "last": last, "final_over_best": final_over_best(history)}


def summary_line(report: Mapping[str, Any]) -> str:
    """The report in short."""
    ratios = {name: found["ratio"] for name, found in report["final_over_best"].items()}
    gaps = [
        f", final {name.removeprefix('val/')} {ratio:.3g} times its best" for name, ratio in ratios.items() if ratio
    ]
    return f"{WORDS.get(report['verdict'], report['verdict'])} ({report['saw']}{''.join(gaps)})"


def _distances(row: Row) -> list[str]:
    return [name for name in row if name not in OWN]


def _column(rows: Sequence[Row], name: str) -> list[float]:
    return [row[name] for row in rows if name in row]
