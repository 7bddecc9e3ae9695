"""Public results of real runs, where the machine has them."""

import os
from pathlib import Path

import polars as pl
import pytest


def folder() -> Path:
    """The folder of public results; skips the test where there is none."""
    place = os.environ.get("SWEEPER_REFERENCE_DATA")
    if not place:
        pytest.skip("SWEEPER_REFERENCE_DATA is not set: no public results to compare with")
    return Path(place)


def _numbered(table: pl.DataFrame) -> pl.DataFrame:
    return table.with_row_index("i", offset=1).with_columns(
        pl.format("row {}", "i").alias("run_id")
    )


def llama3() -> pl.DataFrame:
    """Llama 3, fig. 2, digitised; the figure gives tokens, so params are C / (6 D)."""
    table = pl.read_csv(
        folder() / "llama3_isoflop_digitized_133.csv",
        schema_overrides={"compute_budget": pl.Float64},
    )
    named = table.select(
        budget="compute_budget", tokens="training_tokens", loss="validation_loss"
    ).with_columns(params=pl.col("budget") / 6 / pl.col("tokens"))
    return _numbered(named)


def chinchilla(*, outliers: bool = True) -> pl.DataFrame:
    """Hoffmann et al.'s fig. 4 as Epoch AI extracted it: 245 rows, or the 240 they kept."""
    table = _numbered(pl.read_csv(folder() / "chinchilla_epoch_245.csv"))
    kept = table if outliers else table.filter(~pl.col("epoch_excluded_outlier"))
    return kept.rename({"isoflop_budget": "budget"})
