"""What an attempt says of its code, its data and its machine."""

import json
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from trainings import train

from train.config import data_id
from train.origin import ORIGIN, capped, origin
from train.runlog import RunDir


@pytest.mark.slow
def test_an_attempt_names_all_that_it_ran_with_and_no_value_of_its_environment(
    make_run: Callable[..., RunDir],
) -> None:
    run = make_run(seed=80, tokens=3 * 512)
    assert train(run, SWEEPER_CODE="abc", SOME_TOKEN="hunter2") == 0
    text = (run.path / "env.json").read_text()
    said = json.loads(text)
    assert said["packages"]["torch"] == version("torch")
    assert said["packages"]["pluggy"] == version("pluggy")
    assert said["snapshot"] == "abc"
    assert said["data"]["id"] == data_id(run.spec().data)
    assert len(said["data"]["tokenizer_sha256"]) == 64
    assert {"SOME_TOKEN", "PATH"} <= set(said["environment"])
    assert "hunter2" not in text
    assert str(run.path) in said["arguments"]
    assert said["cpus"] == os.cpu_count()


def test_a_copy_says_what_it_was_copied_from(tmp_path: Path) -> None:
    (tmp_path / ORIGIN).write_text('{"commit": "c0ffee", "diff": "+one"}')
    assert origin(tmp_path) == {"commit": "c0ffee", "diff": "+one"}
    (tmp_path / ORIGIN).write_text("{torn")
    assert origin(tmp_path) == {"commit": "", "diff": ""}
    assert len(origin(Path(__file__).parent)["commit"]) == 40


def test_a_long_difference_is_cut_and_says_so() -> None:
    assert capped("abc", 3) == "abc"
    assert capped("abcde", 3) == "abc\n[cut: 2 of 5 characters are left out]\n"
