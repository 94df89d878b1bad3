"""Hypernetworks that begin as ordinary networks: in the bias of the output layer, in its moments, or beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from initconf.errors import InitConfError, Problem
from initconf.hyper.heads import Arranged, Generated, Rows, SecondMoment, Won, arrange, no_bias, rows_of, scale_of, spread
from initconf.initializers.plain import NonNegative
from initconf.laws import Blocks, Constant, Flat, Law
from initconf.registry import register
from initconf.sites import Site
from initconf.spec import Distribution


def _arrange_laws(of: Generated, won: Won) -> Arranged:
    """Bends the laws by the targets' own means and variances; says which tensors the scheme gives what cannot be generated."""
    problems, laws = [], list[Law]()
    distribution = next((said["distribution"] for _, said in won if "distribution" in said), "uniform")
    for target, law in zip(of.targets, of.laws, strict=True):
        if law.mean is None or law.std is None:
            text = f"the scheme gives it {law}, whose values are not known here"
            problems.append(Problem(text, target.name, remedy="give it a law of its own in the scheme, such as zeros"))
        elif target.mean is not None or target.var is not None:
            mean = law.mean if target.mean is None else target.mean
            laws.append(spread(mean, law.std**2 if target.var is None else target.var, distribution))
        else:
            laws.append(law)
    if problems:
        raise InitConfError(problems)
    return Arranged(arrange(replace(of, laws=tuple(laws)), won), [])


@register("bias_hyperinit", whole=True, arrange=_arrange_laws)
def bias_hyperinit(
    site: Site,
    targets: str | None = None,
    scheme: str | dict[str, Any] | None = None,
    epsilon: NonNegative = 0.0,
    input_second_moment: SecondMoment = 1.0,
    distribution: Distribution = "uniform",
) -> Law:
    """Bias-HyperInit (Beck et al. 2022, arXiv:2210.11348): the output layer has an ordinary network in its bias, and weight 0.

    What is generated is then, under every condition, a network that some scheme initialised.

    Args:
        targets: the name of one of the spec's targets; may be left out if there is one.
        scheme: that scheme: a name, a path or a mapping; left out, the spec's own settings, and its rules for roles.
        epsilon: the std of what the weight adds, as a share of that of the scheme.
        input_second_moment: as of hyperfan; where epsilon is not 0.
        distribution: of the weight's rows.

    Raises InitConfError where the output layer has no bias.
    """
    rows = rows_of(site, "bias_hyperinit")
    law = rows.of.laws[rows.index]
    if rows.part == "bias":
        return _flat(site, rows)
    if not rows.biased and law != Constant(0.0):
        raise no_bias(rows.target, f"the law {law}")
    return _added(site, law, epsilon, input_second_moment, distribution)


@register("weight_hyperinit", whole=True, arrange=_arrange_laws)
def weight_hyperinit(
    site: Site,
    targets: str | None = None,
    scheme: str | dict[str, Any] | None = None,
    input_second_moment: SecondMoment = 1.0,
    distribution: Distribution = "uniform",
) -> Law:
    """Means and variances of an ordinary initialisation: variances by the weight of the output layer, means by its bias.

    Under every condition another network; of the scheme's laws only the two moments are kept.

    Args:
        targets: the name of one of the spec's targets; may be left out if there is one.
        scheme: a name, a path or a mapping; left out, the spec's own settings, and its rules for roles.
        input_second_moment: as of hyperfan.
        distribution: of the weight's rows.

    Raises InitConfError where a mean is wanted and the output layer has no bias.
    """
    rows = rows_of(site, "weight_hyperinit")
    law = rows.of.laws[rows.index]
    if rows.part == "bias":
        return Constant(law.mean or 0.0)
    if not rows.biased and law.mean:
        raise no_bias(rows.target, f"the mean {law.mean:g}")
    return _added(site, law, 1.0, input_second_moment, distribution)


@register("residual_hyperinit", whole=True, arrange=_arrange_laws)
def residual_hyperinit(
    site: Site,
    targets: str | None = None,
    scheme: str | dict[str, Any] | None = None,
    epsilon: NonNegative = 0.1,
    input_second_moment: SecondMoment = 1.0,
    distribution: Distribution = "uniform",
    base: bool = False,
) -> Law:
    """The generated network is theta_0 + Delta(h), as in MIP (Gonzalez Ortiz et al. 2024): theta_0 ordinary, Delta small.

    Serves both: the output layer, whose bias is 0, and with `base` theta_0 itself, where that is no network of its own: all
    values in a row, or a parameter for each target.

    Args:
        targets: the name of one of the spec's targets; may be left out if there is one.
        scheme: how theta_0 starts: a name, a path or a mapping; left out, the spec's own settings, and its rules for roles.
        epsilon: the std of Delta, as a share of that of theta_0.
        input_second_moment: as of hyperfan.
        distribution: of the rows of the output layer's weight.
        base: whether this is theta_0.
    """
    rows = rows_of(site, "residual_hyperinit")
    if rows.part == "base":
        return _flat(site, rows)
    if rows.part == "bias":
        return Constant(0.0)
    return _added(site, rows.of.laws[rows.index], epsilon, input_second_moment, distribution)


def _added(site: Site, law: Law, share: float, input_second_moment: SecondMoment, distribution: str) -> Law:
    """The rows that generate values of mean 0 and a share of a law's std."""
    std = share * (law.std or 0.0)
    return spread(0.0, std**2 / scale_of(site, input_second_moment), distribution) if std else Constant(0.0)


def _flat(site: Site, rows: Rows) -> Law:
    """A target's own law, for what holds its values in a row."""
    law, row = rows.of.laws[rows.index], rows.of.zero_rows[rows.index]
    if site.shape == rows.target.shape and not isinstance(law, Blocks) and row is None:
        return law
    if law.elementwise and row is None:
        return law
    return Flat(law, rows.target.shape, row)
