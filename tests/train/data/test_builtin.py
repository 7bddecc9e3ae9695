"""The built-in corpus: the text of the pinned wheels."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from train.data import builtin
from train.data.builtin import BUILD_FILES, GENERATED_FOLDER, MAX_FILE_BYTES, SOURCES
from train.data.documents import Intake

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"

TIMED = """
import time
from train.data import builtin
start = time.process_time()
print(builtin.digest(builtin.entries()), time.process_time() - start)
"""


@pytest.fixture(scope="module")
def entries() -> list[builtin.Entry]:
    return builtin.entries()


def test_every_package_of_the_corpus_is_pinned_to_one_version():
    pinned = re.findall(r'^\s*"([a-z]+)==[0-9.]+",', PYPROJECT.read_text(), re.MULTILINE)
    assert set(builtin.PACKAGES) <= set(pinned)


def test_the_digest_is_the_same_twice_and_takes_a_moment(entries: list[builtin.Entry]):
    # `plan` asks for it and has a second. A process of its own, as `plan` is: in a long one of
    # tests the collector takes its share.
    done = subprocess.run([sys.executable, "-c", TIMED], capture_output=True, text=True, check=True)
    found, seconds = done.stdout.split()
    assert found == builtin.digest(entries)
    assert float(seconds) < 0.8


def test_the_digest_follows_every_file(entries: list[builtin.Entry]):
    assert builtin.digest(entries) != builtin.digest(entries[:-1])


def test_the_listed_files_are_there_and_of_a_known_kind(entries: list[builtin.Entry]):
    assert {entry.kind for entry in entries} == {"python", "cpp", "prose", "tests"}
    assert not BUILD_FILES & {entry.name for entry in entries}
    assert not any(entry.name.startswith(GENERATED_FOLDER) for entry in entries)
    for entry in entries[::500]:
        assert (entry.root / entry.name).stat().st_size <= MAX_FILE_BYTES


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("torch/nn/modules/linear.py", "python"),
        ("torch/include/ATen/ATen.h", "cpp"),
        ("numpy/tests/test_lazyloading.py", "tests"),
        ("scipy/conftest.py", "tests"),
        ("torch/testing/_comparison.py", "python"),
        ("torch/lib/libtorch.so", None),
        ("../../../bin/deepspeed", None),
        ("numpy-2.4.6.dist-info/licenses/LICENSE.md", None),
        ("README", None),
    ],
)
def test_the_kind_of_a_file_follows_from_its_name(name: str, kind: str | None):
    assert builtin._kind(name) == kind


def test_reading_fills_every_source_with_little_more_than_it_asks():
    intake = Intake(150_000)
    pairs = builtin.read(intake)
    assert set(intake.bytes) == set(SOURCES)
    assert all(150_000 <= n < 150_000 + MAX_FILE_BYTES for n in intake.bytes.values())
    assert len(pairs) > 20
    assert len({document.text for document in intake.documents}) == len(intake.documents)


def test_a_file_that_was_edited_after_installation_is_counted_and_left_out(tmp_path: Path):
    (tmp_path / "edited.py").write_text("x = 1\n")
    intake = Intake(1_000)
    entry = builtin.Entry(sha256="A" * 43, name="edited.py", kind="python", root=tmp_path)
    assert builtin._read_entry(entry, intake) is None
    assert intake.tally.dropped == {"changed since it was installed": 1}


def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(ValueError, match="needs 'no-such-wheel', not installed; install"):
        builtin._installed("no-such-wheel")
