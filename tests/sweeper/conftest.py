import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The fakes lie beside the tests; jobs import them by name as well.
sys.path.insert(0, str(Path(__file__).parent))

from command_line import STUDY, CommandLine
from observing import CONTROLLER, TASK, processes
from slurm_cluster import SlurmCluster
from slurm_files import missing_for_slurm

from sweeper.study import Study
from sweeper.study_file import load


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of text that is the same everywhere: every test reads this and nothing larger."""
    folder = tmp_path_factory.mktemp("corpus")
    for page in range(40):
        lines = [f"def f{page}_{i}(x):\n    return x * {i} + {page}\n" for i in range(60)]
        (folder / f"page{page}.py").write_text("\n".join(lines))
    return folder


@pytest.fixture
def study_path(corpus: Path, tmp_path: Path) -> Path:
    path = tmp_path / "small.py"
    path.write_text(STUDY.format(corpus=str(corpus)))
    return path


@pytest.fixture
def study(study_path: Path) -> Study:
    return load(study_path)


@pytest.fixture
def command(study_path: Path, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path / "home", study_path)


@pytest.fixture
def quick(command: CommandLine) -> Iterator[CommandLine]:
    """A command line whose jobs are gone at the end of the test, whatever became of it."""
    yield command
    for module in (CONTROLLER, TASK):
        for process in processes(command.home, module):
            process.kill()


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A Slurm that all tests share; they ask for `slurm`."""
    reason = missing_for_slurm()
    if reason:
        assert not os.environ.get("SWEEPER_REQUIRE_SLURM"), reason
        pytest.skip(reason)
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
def slurm(slurm_cluster: SlurmCluster) -> Iterator[SlurmCluster]:
    """A real Slurm with four idle nodes; what a test breaks or submits is mended and cancelled."""
    yield slurm_cluster
    slurm_cluster.healthy()
