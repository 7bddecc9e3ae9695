"""The section of a report on ablations: effects, compute multipliers, interactions."""

from collections.abc import Sequence

from analysis.ablation import figures as ablation_figures
from analysis.ablation.effects import Effect
from analysis.ablation.multiplier import Multiplier
from analysis.law import scientific
from analysis.report import page
from analysis.report.evidence import Ablation, Evidence

EFFECT_COLUMNS = ("axis", "level", "difference", "low", "high", "p", "n", "verdict")


def section(evidence: Evidence) -> str:
    """What the levels of the axes do; empty where the study varies none."""
    found = evidence.ablation
    if found is None:
        return ""
    noise = next((e.noise for e in found.effects if e.noise is not None), None)
    scatter = f"one run scatters by {noise:.4f}" if noise is not None else "noise is not known"
    sentence = (
        f"Differences to the baseline, paired by seed and budget, with 95 % intervals; {scatter}; "
        "the verdict is at 5 % after Holm's correction. Measured at "
        f"{', '.join(map(scientific, found.budgets))} FLOPs: what helps there need not help at the "
        "target."
    )
    return page.section(
        "Ablations",
        _forest(found.effects, evidence.metric, "ablations"),
        page.paragraph(sentence),
        page.diagnostics(d for effect in found.effects for d in effect.diagnostics),
        _effects(found.effects),
        _multipliers(found),
        _interactions(found, evidence.metric),
    )


def _forest(effects: Sequence[Effect], metric: str, name: str) -> str:
    known = [effect for effect in effects if effect.difference is not None]
    if not known:
        return ""
    data = ablation_figures.ablation_data(known)
    figure = ablation_figures.ablation_figure(data, metric)
    return page.figure(figure, name, (run for effect in known for run in effect.run_ids))


def _effects(effects: Sequence[Effect]) -> str:
    if not effects:
        return page.paragraph("No level but the baseline's has been tried.")
    return page.table(ablation_figures.ablation_data(effects).select(EFFECT_COLUMNS).to_dicts())


def _multipliers(found: Ablation) -> str:
    """What levels are worth in FLOPs, and what that is expected to be at the target."""
    if not found.multipliers:
        why = "all runs are at one budget, which shows no trend to carry to the target"
        return page.paragraph(f"There is no compute multiplier: {why}.")
    data = ablation_figures.multiplier_data(found.multipliers)
    sentence = (
        "The compute multiplier: how many times its FLOPs the baseline must spend for the loss of "
        "the level; above 1 the level is worth having. Bands are 95 % intervals over every trend "
        f"that the runs allow; the star is {scientific(found.target)} FLOPs."
    )
    for one in found.multipliers:
        if one.crossover is not None:
            sentence += (
                f" {one.axis} = {one.level} {one.verdict}: its multiplier passes 1 at "
                f"{scientific(one.crossover)} FLOPs."
            )
    return (
        page.heading("Compute multipliers")
        + (
            page.figure(
                ablation_figures.multiplier_figure(data),
                "multipliers",
                (run for one in found.multipliers for run in one.run_ids),
            )
            if len(data)
            else ""
        )
        + page.paragraph(sentence)
        + page.table([_multiplier(one) for one in found.multipliers])
        + page.diagnostics(d for one in found.multipliers for d in one.diagnostics)
    )


def _multiplier(one: Multiplier) -> dict[str, str | float | None]:
    at = one.target
    return {
        "axis": one.axis,
        "level": one.level,
        "at the target": at.multiplier if at else None,
        "low": at.low if at else None,
        "high": at.high if at else None,
        "P(better)": None if one.p_better is None else f"{one.p_better:.2f}",
        "crosses 1 at": one.crossover,
        "verdict": one.verdict,
    }


def _interactions(found: Ablation, metric: str) -> str:
    if not found.interactions:
        return ""
    sentence = (
        "Axes varied together: the effect of each level averaged over the levels of the other axes "
        "and, as a x b, what both changes do beyond the sum of each alone; "
        "Holm's correction is over all of them."
    )
    return (
        page.heading("Interactions")
        + _forest(found.interactions, metric, "interactions")
        + page.paragraph(sentence)
        + _effects(found.interactions)
        + page.diagnostics(d for effect in found.interactions for d in effect.diagnostics)
    )
