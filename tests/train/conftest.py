"""A corpus and runs small enough to train within seconds."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

# Programs and helpers lie beside the tests.
sys.path.insert(0, str(Path(__file__).parent))

from trainings import corpus, small_run

from train.config import RunSpec
from train.data.prepare import prepare
from train.runlog import RunDir


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one prepared corpus in it."""
    home = tmp_path_factory.mktemp("home")
    prepare(corpus(), home)
    return home


@pytest.fixture
def make_run(home: Path) -> Callable[..., RunDir]:
    """Creates the run directory of a small RunSpec; keywords replace its fields."""
    return partial(small_run, home)


@pytest.fixture(scope="session")
def make_spec(home: Path) -> RunSpec:
    """A small RunSpec by itself."""
    return small_run(home).spec()


@pytest.fixture(scope="module")
def make_shared_run(home: Path) -> Callable[..., RunDir]:
    """The same for what the tests of a module share."""
    return partial(small_run, home)
