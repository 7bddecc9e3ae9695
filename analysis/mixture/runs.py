"""The runs of a mixing study: `weight/DOMAIN` and `loss/DOMAIN` columns, and what is kept out."""

from collections.abc import Sequence

import polars as pl

from analysis.law import Excluded, NotEnough, scientific

SUM_TOLERANCE = 0.05
COLUMNS_NEEDED = {"weight": 2, "loss": 1}


def named(points: pl.DataFrame, kind: str) -> list[str]:
    """The columns KIND/DOMAIN, in their order; raises NotEnough for too few."""
    found = [name for name in points.columns if name.startswith(f"{kind}/")]
    if len(found) < COLUMNS_NEEDED[kind]:
        raise NotEnough(
            f"{len(found)} columns {kind}/DOMAIN, {COLUMNS_NEEDED[kind]} are needed; the columns "
            f"are {', '.join(points.columns) or 'none'}; name them {kind}/web, {kind}/code, ..."
        )
    return found


def _refusal(weights: Sequence[str], losses: Sequence[str], state: pl.Expr) -> pl.Expr:
    """Why a run carries no evidence, or null."""

    def unless(good: pl.Expr, reason: pl.Expr | str) -> pl.Expr:
        why = pl.lit(reason) if isinstance(reason, str) else reason
        return pl.when(~good.fill_null(False)).then(why)

    def number(name: str, good: pl.Expr, rule: str) -> pl.Expr:
        return unless(pl.col(name).is_finite() & good, f"{name} is no {rule}")

    total = pl.sum_horizontal(weights)
    why = pl.format(f"weights sum to {{}}, not to 1 within {SUM_TOLERANCE:.0%}", total.round(3))
    return pl.coalesce(
        unless(state == "DONE", pl.concat_str(pl.lit("state "), state)),
        *(number(name, pl.col(name) >= 0, "number from 0 to 1") for name in weights),
        unless((total - 1).abs() <= SUM_TOLERANCE, why),
        *(number(name, pl.col(name) > 0, "finite positive number") for name in losses),
    )


def usable(
    points: pl.DataFrame, weights: list[str], losses: list[str]
) -> tuple[pl.DataFrame, tuple[Excluded, ...]]:
    """The runs that carry evidence, each once, and those that do not."""
    rows = points.with_columns(pl.col(*weights, *losses).cast(pl.Float64, strict=False))
    if "run_id" not in rows.columns:
        rows = rows.with_columns(pl.format("row {}", pl.int_range(1, pl.len() + 1)).alias("run_id"))
    rows = rows.with_columns(pl.col("run_id").cast(pl.String))
    rows = rows.unique("run_id", keep="first", maintain_order=True)
    state = pl.col("state").fill_null("PLANNED") if "state" in rows.columns else pl.lit("DONE")
    rows = rows.with_columns(_refusal(weights, losses, state).alias("refusal"))
    refused = rows.filter(pl.col("refusal").is_not_null()).select("run_id", "refusal")
    return rows.filter(pl.col("refusal").is_null()), tuple(
        Excluded(run_id, reason) for run_id, reason in refused.iter_rows()
    )


def require(rows: pl.DataFrame, weights: list[str], excluded: Sequence[Excluded]) -> None:
    """Raise NotEnough for too few mixtures, or for runs of several sizes."""
    mixtures, needed = len(rows.unique(weights)), len(weights) + 2
    if mixtures < needed:
        first = f" ({excluded[0].run_id}: {excluded[0].reason})" if excluded else ""
        raise NotEnough(
            f"{mixtures} usable mixtures of {len(weights)} domains, {needed} are needed; "
            f"{len(excluded)} runs are kept out{first}; add runs on other mixtures"
        )
    for name in (name for name in ("params", "tokens") if name in rows.columns):
        sizes = rows[name].cast(pl.Float64, strict=False).drop_nulls().to_numpy()
        if len(sizes) and sizes.max() > 1.1 * sizes.min():
            raise NotEnough(
                f"{name} goes from {scientific(sizes.min())} to {scientific(sizes.max())}, but a "
                f"mixing law holds at one size; keep the rows of one {name}"
            )
