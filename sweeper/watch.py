"""What a person sees while a study runs: a live table on a terminal, else a line a change."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from model.counts import flops_per_token, params_active
from sweeper.runs import Progress, RunView, own_flops, progress
from sweeper.speed import Speed, calibrate
from train.config import RunSpec, steps, steps_by
from train.runlog import RunDir

STYLES = {
    "DONE": "green",
    "RUNNING": "cyan",
    "DIVERGED": "yellow",
    "FAILED": "red",
    "QUEUED": "dim",
    "PLANNED": "dim",
}
REFRESH_SECONDS = 1.0


@dataclass(frozen=True)
class Summary:
    """How far all runs are together, in FLOPs; how many are left, and the seconds they need."""

    flops: float
    total_flops: float
    seconds_left: float
    left: int


def summarise(
    views: Iterable[RunView], running: Mapping[str, Progress], speed: Speed, workers: int
) -> Summary:
    """Progress and time left over all runs; pure. Running runs by their own speed."""
    done = total = 0.0
    left: list[float] = []
    for run in views:
        flops = own_flops(run.spec)
        total += flops
        if run.finished:
            done += flops
        elif at := running.get(run.run_id):
            tokens = max(0, run.spec.tokens - at.tokens)
            done += max(0.0, flops - tokens * flops_per_token(run.spec.model))
            left.append(tokens / max(at.tokens_per_second, 1e-9))
        else:
            left.append(speed.seconds(run.spec))
    # All workers share the rest, but the longest run is one worker's.
    seconds = max(sum(left) / workers, max(left, default=0.0))
    return Summary(done, total, seconds, len(left))


def duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def label(spec: RunSpec) -> str:
    """What a run is for: its trial, those that branch from it, or the promoted stage."""
    if spec.leaves:
        return "trunk"
    return f"trial {spec.trial}" if spec.trial >= 0 else f"promoted {spec.stage}"


def size(spec: RunSpec) -> str:
    """Active parameters and shape: `24,840 (32x2)`."""
    model = spec.model
    return f"{params_active(model):,} ({model.d_model}x{model.n_layers})"


class Display:
    """Shows runs on a console; a context manager, so that a terminal is left as it was."""

    def __init__(self, console: Console, title: str, speed: Speed) -> None:
        self.console = console
        self.title = title
        self.speed = speed
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._shown: dict[str, str] = {}
        self._drawn = 0.0
        self._noted = ""

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """One line that stays."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """What is going on now, where there are no runs to show yet."""
        if self._live.is_started:
            self._live.update(Text.assemble((self.title, "bold"), f"  {text}"), refresh=True)
        elif text != self._noted:
            self.say(text)
        self._noted = text

    def update(self, views: Mapping[str, RunView], runs: Path, workers: int) -> None:
        """Show all runs as they stand, at most once a second on a terminal."""
        changed = [run for run in views.values() if self._shown.get(run.run_id) != run.state]
        now = time.monotonic()
        if not changed and (not self._live.is_started or now - self._drawn < REFRESH_SECONDS):
            return
        self._drawn = now
        first = not self._shown.keys() & views.keys()
        self._shown.update({run.run_id: run.state for run in changed})
        running = progress_of(views.values(), runs)
        results = [run.result for run in views.values() if run.result is not None]
        measured = calibrate(results)
        speed = measured if measured.runs else self.speed
        summary = summarise(views.values(), running, speed, workers)
        if self._live.is_started:
            self._live.update(self._table(list(views.values()), running, summary), refresh=True)
        elif first and summary.left:
            self.say(f"{counts(views.values())}; about {duration(summary.seconds_left)} left")
        elif not first:
            for run in changed:
                if run.attempts:
                    self.say(_change(run, views, summary))

    def _table(
        self, views: Sequence[RunView], running: Mapping[str, Progress], summary: Summary
    ) -> RenderableType:
        head = Text.assemble(
            (self.title, "bold"), "  ", counts(views), f"  {duration(summary.seconds_left)} left"
        )
        bar = ProgressBar(total=summary.total_flops, completed=summary.flops, width=60)
        return Group(head, bar, runs_table([r for r in views if r.state == "RUNNING"], running))


def runs_table(views: Iterable[RunView], running: Mapping[str, Progress]) -> Table:
    """One row a run: what it is for, its size, how far it is."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("run", "budget", "params", "step", "loss", "tokens/s"):
        table.add_column(name, justify="left" if name == "run" else "right")
    for run in views:
        table.add_row(*_row(run.spec, running.get(run.run_id)))
    return table


def progress_of(views: Iterable[RunView], runs: Path) -> dict[str, Progress]:
    """How far each running run is, by id; a run before its first step is left out."""
    found: dict[str, Progress] = {}
    for run in views:
        if run.state == "RUNNING":
            at = progress(RunDir(runs / run.run_id), run.attempts)
            if at is not None:
                found[run.run_id] = at
    return found


def counts(views: Iterable[RunView]) -> Text:
    counts = Counter(run.state for run in views)
    parts = [
        (f"{counts[state]} {state.lower()}", STYLES[state]) for state in STYLES if counts[state]
    ]
    return Text(", ").join(Text(text, style) for text, style in parts)


def _row(spec: RunSpec, at: Progress | None) -> tuple[str, ...]:
    here = ("", "")
    if at:
        here = (f"{steps_by(spec, at.tokens):,}/{steps(spec):,}", f"{at.loss:.3f}")
    speed = f"{at.tokens_per_second:,.0f}" if at else "starting"
    return (label(spec), f"{spec.budget:.3g}", size(spec), *here, speed)


def _change(run: RunView, views: Mapping[str, RunView], summary: Summary) -> str:
    loss = run.result.nats_per_token if run.result else None
    ended = sum(other.finished for other in views.values())
    what = f"{label(run.spec)}: {size(run.spec)} at {run.spec.budget:.3g} FLOPs {run.state}"
    if loss is not None:
        what += f", {loss:.4f} nats/token"
    if run.message:
        what += f": {run.message}"
    left = f", about {duration(summary.seconds_left)} left" if ended < len(views) else ""
    return f"{what} ({ended} of {len(views)} ended{left})"
