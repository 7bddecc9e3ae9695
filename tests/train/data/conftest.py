"""One small prepared corpus for the tests that only read it."""

from pathlib import Path

import pytest

from train.config import DataConfig
from train.data.prepare import PreparedData, prepare


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """The built-in corpus at 100 kB a source, with a tenth held out."""
    config = DataConfig(bytes_per_source=100_000, validation_fraction=0.1, vocab_size=300)
    return prepare(config, tmp_path_factory.mktemp("home"))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A user's folder: a subfolder of stories, a subfolder of Python, and a note at the top."""
    folder = tmp_path / "corpus"
    (folder / "stories").mkdir(parents=True)
    (folder / "program").mkdir()
    for n in range(40):
        story = f"Once upon a time, {n} wolves met {n * n} sheep, and the moon was number {n}.\n"
        (folder / "stories" / f"{n}.txt").write_text(story * 3)
        (folder / "program" / f"m{n}.py").write_text(
            f"def area_{n}(width, height={n}):\n"
            f'    """Return the area of rectangle number {n}.\n\n    Longer words."""\n'
            f"    return width * height * {n}\n"
        )
    (folder / "note.md").write_text("# A note\n\nIt stands at the top of the folder, alone.\n")
    return folder
