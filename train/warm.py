"""What the processes of a job share when it has trained its first run: imports, paid for once."""

from importlib import import_module
from typing import Any

from deepspeed.runtime import compiler


def _as_written(*_: Any, **__: Any) -> Any:
    return lambda function: function


def warm_up() -> None:
    """Import what the first step of every run would, in the process that all of them are forked of.

    DeepSpeed's own Muon, which is not used here (train.optim), is decorated for torch.compile: that
    alone would bring in the compiler's back end, a quarter of a job's start. The front end comes
    with the first step of any optimizer.
    """
    decorated = compiler.compile
    compiler.compile = _as_written
    try:
        import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = decorated
    import_module("torch._dynamo")
