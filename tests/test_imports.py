"""The arrows between rooms, `model <- train <- sweeper -> analysis`, and where torch may be."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "model": {"model"},
    "train": {"train", "model"},
    "analysis": {"analysis"},
    "sweeper": {"sweeper", "train", "model", "analysis"},
    "studies": {"sweeper.study", "sweeper.recipe", "train.config", "model.config"},
}
OURS = {"model", "train", "sweeper", "analysis", "studies", "tests"}
# The one module of sweeper whose functions run inside a job.
RUNS_IN_JOBS = Path("sweeper/worker.py")
WITHOUT_TORCH = (
    "sweeper",
    "analysis",
    "model.config",
    "train.config",
    "train.cost",
    "train.layout_search",
    "train.runlog",
)


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides which room it enters"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def modules(room: str) -> list[str]:
    names = (path.relative_to(ROOT).with_suffix("").parts for path in sources(room))
    return [".".join(parts).removesuffix(".__init__") for parts in names]


@pytest.mark.parametrize("room", ["model", "train", "analysis", "sweeper"])
def test_a_room_imports_only_the_rooms_its_arrows_point_to(room: str) -> None:
    for path in sources(room):
        ours = {name.partition(".")[0] for name in imports(path)} & OURS
        assert ours <= ALLOWED[room], f"{path.relative_to(ROOT)} imports {ours - ALLOWED[room]}"


def test_studies_import_declarations_and_configs_alone() -> None:
    for path in sources("studies"):
        entered = {name for name in imports(path) if name.partition(".")[0] in OURS}
        for name in entered:
            known = any(f"{name}.".startswith(f"{module}.") for module in ALLOWED["studies"])
            assert known, f"{path.name} imports {name}"


def test_the_manager_enters_training_only_by_its_records_and_its_configs() -> None:
    records = {"train.runlog", "train.logmarks", "train.origin"}
    allowed = records | {"train.choices", "train.config", "train.cost", "train.data.curate"}
    allowed |= {"train.start", "train.lineage", "train.replay_files"}
    for path in sources("sweeper"):
        if path.relative_to(ROOT) == RUNS_IN_JOBS:
            continue
        entered = {name for name in imports(path) if name.startswith("train.")}
        for name in entered:
            assert any(f"{name}.".startswith(f"{module}.") for module in allowed), f"{path}: {name}"


def test_every_package_initialiser_is_empty() -> None:
    found = [path for room in ALLOWED for path in sources(room) if path.name == "__init__.py"]
    assert found
    assert [path for path in found if path.read_text(encoding="utf-8")] == []


def test_sweeper_and_analysis_are_imported_without_torch() -> None:
    names = [name for room in WITHOUT_TORCH for name in modules(room) or [room]]
    assert "sweeper.launch" in names
    program = "import importlib, sys\n"
    program += f"for name in {names!r}: importlib.import_module(name)\n"
    program += "print([name for name in ('torch', 'deepspeed') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
