"""The verb `presets`: shapes of published models, and what they count."""

import json
from typing import Annotated

import typer
from rich.table import Table

from model.counts import (
    flops_per_token,
    kv_cache_bytes,
    params_active,
    params_non_embedding,
    params_total,
)
from model.presets import PRESETS
from sweeper.arguments import console_here, say

COLUMNS = ("layers", "d_model", "heads", "kv", "d_ff", "params", "FLOPs/token", "KV bytes/token")


def presets(
    as_json: Annotated[bool, typer.Option("--json", help="Configs and counts as JSON.")] = False,
) -> None:
    """List published models: shape, parameters, training FLOPs and cache bytes a token.

    Their kind, at every size of a ladder: `from model.presets import traits` in a study file, and
    Recipe(model=traits("llama-3-8b"), ...).
    """
    if as_json:
        print(json.dumps({name: _content(name) for name in PRESETS}))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("preset", no_wrap=True)
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for name in PRESETS:
        table.add_row(name, *_cells(name))
    console_here().print(table)
    say(console_here(), ["params are all that are stored; KV bytes are those of 16-bit numbers"])


def _cells(name: str) -> list[str]:
    model = PRESETS[name]
    layers = "+".join(str(n) for n in (model.n_encoder_layers, model.n_layers) if n)
    sizes = (model.d_model, model.n_heads, model.n_kv_heads, model.d_ff)
    counts = (params_total(model), flops_per_token(model), kv_cache_bytes(model, 1))
    return [layers, *map(str, sizes), f"{counts[0]:,}", f"{counts[1]:.3g}", f"{counts[2]:,}"]


def _content(name: str) -> dict[str, object]:
    model = PRESETS[name]
    return {
        "model": model.model_dump(mode="json"),
        "params_total": params_total(model),
        "params_non_embedding": params_non_embedding(model),
        "params_active": params_active(model),
        "flops_per_token": flops_per_token(model),
        "kv_cache_bytes_per_token": kv_cache_bytes(model, 1),
    }
