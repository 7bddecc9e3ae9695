"""Which shapes can be grown from which. No torch here: `plan` asks it."""

from model.config import ModelConfig

# Sizes that may grow; everything else has to be the same.
SIZES = ("n_layers", "d_model", "n_heads", "n_kv_heads", "d_ff")


def check_growth(small: ModelConfig, large: ModelConfig) -> None:
    """Raises ValueError where `large` cannot be grown from `small`, with the field in the way."""
    fixed = [name for name in type(small).model_fields if name not in (*SIZES, "dropout", "init")]
    for name in fixed:
        if getattr(small, name) != getattr(large, name):
            raise ValueError(
                f"{name}={getattr(large, name)!r} cannot be grown from {getattr(small, name)!r}: "
                f"only {', '.join(SIZES)} may; keep {name}, or start from nothing"
            )
    for name in SIZES:
        if getattr(large, name) < getattr(small, name):
            raise ValueError(
                f"{name}={getattr(large, name)} is less than {getattr(small, name)} of the model "
                "that it starts from; a model only grows"
            )
    if large.d_model % small.d_model:
        raise ValueError(
            f"d_model={large.d_model} is no multiple of {small.d_model}: a wider stream holds the "
            "old one a whole number of times, or norms would see another mean"
        )
    if large.n_heads // large.n_kv_heads < small.n_heads // small.n_kv_heads:
        raise ValueError(
            f"n_heads={large.n_heads} over n_kv_heads={large.n_kv_heads} leaves a key fewer queries"
            f" than {small.n_heads} over {small.n_kv_heads} did; raise n_heads with n_kv_heads"
        )
    if small.moe is not None or small.architecture == "encoder_decoder":
        raise ValueError("experts and encoder-decoders do not grow yet; start from nothing")
    if small.position == "alibi" and large.n_heads != small.n_heads:
        raise ValueError("the slopes of ALiBi follow the number of heads; keep n_heads")
    if small.tied_embeddings and large.d_model != small.d_model:
        raise ValueError("a table that reads and writes cannot do both in copies; keep d_model")
    if small.mup_base_width is not None and large.d_model != small.d_model:
        raise ValueError("a muP model that grows wider computes something else; keep d_model")
