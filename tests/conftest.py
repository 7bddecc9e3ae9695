"""The rows of benchmarks, whichever room measures them."""

from typing import Any

import pytest

from tests.benchmarks import ROWS, Bench


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(request.config)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The rows of a benchmark, after its tests."""
    for row in config.stash.get(ROWS, []):
        terminalreporter.write_line(row)
