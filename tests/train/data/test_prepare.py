"""Preparing data: once, by content address, whatever is killed or runs at the same time."""

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from train.config import DataConfig, data_id
from train.data import tokenizer
from train.data.curate import SPLITS, curate, with_digest
from train.data.prepare import (
    PreparedData,
    load,
    prepare,
    token_dtype,
    tokenizer_sample,
    tokens_path,
)

PROGRAM = """
import sys
from pathlib import Path
from train.config import DataConfig
from train.data.prepare import prepare
config = DataConfig.model_validate_json(sys.argv[1])

def report(line):
    print(line, flush=True)
    if line.startswith(sys.argv[3]):
        sys.stdin.read()

prepare(config, Path(sys.argv[2]), report)
print("done", flush=True)
"""


def start(config: DataConfig, home: Path, hold_at: str) -> subprocess.Popen[str]:
    """Prepare in a process of its own, which stops at a line of its report until stdin closes."""
    command = [sys.executable, "-c", PROGRAM, config.model_dump_json(), str(home), hold_at]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], start_of_line: str) -> None:
    assert process.stdout is not None
    while not (line := process.stdout.readline()).startswith(start_of_line):
        assert line, f"the process ended before it said {start_of_line!r}"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def config(corpus: Path) -> DataConfig:
    fields = {"corpus": str(corpus), "vocab_size": 270, "validation_fraction": 0.1}
    return with_digest(DataConfig.model_validate(fields))


def test_the_folder_is_the_content_address(config: DataConfig, tmp_path: Path):
    assert prepare(config, tmp_path).folder == tmp_path / "data" / data_id(config)


def test_a_config_without_a_digest_finds_the_same_data(config: DataConfig, tmp_path: Path):
    first = prepare(config, tmp_path)
    second = prepare(DataConfig.model_validate(config.model_dump() | {"digest": ""}), tmp_path)
    assert second == first


def test_prepared_data_is_not_made_again_even_when_its_text_is_gone(
    config: DataConfig, corpus: Path, tmp_path: Path
):
    first = prepare(config, tmp_path)
    corpus.rename(tmp_path / "moved")
    lines: list[str] = []
    assert prepare(config, tmp_path, lines.append) == first
    assert lines == []


def test_two_homes_get_the_same_bytes(config: DataConfig, tmp_path: Path):
    first, second = (prepare(config, tmp_path / home).folder for home in ("one", "two"))
    assert content(first) == content(second)


def test_token_files_hold_the_documents_of_their_split(config: DataConfig, tmp_path: Path):
    prepared = prepare(config, tmp_path)
    words = tokenizer.load(prepared.folder)
    curated = curate(config)
    for source, splits in prepared.manifest.sources.items():
        for split, counts in splits.items():
            ids = np.fromfile(tokens_path(prepared.folder, source, split), prepared.manifest.dtype)
            texts = words.decode(ids.tolist()).split("<|endoftext|>")
            expected = [doc.text for doc in curated.documents[split] if doc.source == source]
            assert texts == [*expected, ""]
            assert counts.documents == len(expected)
            assert counts.bytes == sum(len(text.encode()) for text in expected)
            assert counts.tokens == len(ids)


def test_the_manifest_counts_what_was_dropped_and_the_pairs(config: DataConfig, tmp_path: Path):
    corpus = Path(config.corpus)
    (corpus / "broken.txt").write_bytes(b"\xff" * 50)
    (corpus / "copy.md").write_bytes((corpus / "note.md").read_bytes())
    prepared = prepare(with_digest(config), tmp_path)
    manifest = prepared.manifest
    assert manifest.dropped["not UTF-8"] == 1
    assert manifest.dropped["exact duplicate"] == 1
    assert sum(manifest.pairs.values()) == 40
    for split in SPLITS:
        lines = (prepared.folder / f"preferences.{split}.jsonl").read_text().splitlines()
        assert len(lines) == manifest.preferences[split]
        assert all({"prompt", "chosen", "rejected"} == set(json.loads(line)) for line in lines)


@pytest.mark.parametrize(
    ("vocab_size", "dtype"), [(512, "uint16"), (65_536, "uint16"), (65_537, "uint32")]
)
def test_tokens_are_stored_in_the_smallest_type_that_holds_them(vocab_size: int, dtype: str):
    assert token_dtype(vocab_size) == dtype
    assert np.iinfo(dtype).max >= vocab_size - 1


def test_the_tokenizer_learns_from_training_text_by_size(prepared: PreparedData):
    curated = curate(prepared.manifest.data)
    documents = curated.documents["train"]
    sample = list(tokenizer_sample(documents, max_bytes=200_000))
    assert not {document.text for document in curated.documents["validation"]} & set(sample)
    source_of = {document.text: document.source for document in documents}
    taken = Counter[str]()
    for text in sample:
        taken[source_of[text]] += len(text.encode())
    longest = max(len(document.text.encode()) for document in documents)
    whole = sum(splits["train"].bytes for splits in prepared.manifest.sources.values())
    for source, splits in prepared.manifest.sources.items():
        share = 200_000 * splits["train"].bytes / whole
        assert share - 1 <= taken[source] < share + longest


def test_text_that_changed_since_planning_is_refused(config: DataConfig, tmp_path: Path):
    (Path(config.corpus) / "note.md").write_text("Other words stand in the note now, and more.\n")
    with pytest.raises(ValueError, match=r"changed since the study was planned.*plan a new study"):
        prepare(config, tmp_path)
    assert list((tmp_path / "data").glob("[!.]*")) == []


def test_a_vocabulary_that_cannot_be_filled_leaves_nothing_behind(
    config: DataConfig, tmp_path: Path
):
    greedy = DataConfig.model_validate(config.model_dump() | {"vocab_size": 50_000})
    with pytest.raises(ValueError, match="vocab_size=50000 is more than the text can fill"):
        prepare(greedy, tmp_path)
    assert [path.suffix for path in (tmp_path / "data").iterdir()] == [".lock"]


def test_a_damaged_token_file_is_noticed_and_made_again(config: DataConfig, tmp_path: Path):
    prepared = prepare(config, tmp_path)
    before = content(prepared.folder)
    damaged = tokens_path(prepared.folder, "stories", "train")
    damaged.write_bytes(damaged.read_bytes()[:-100])
    assert load(prepared.folder) is None
    assert content(prepare(config, tmp_path).folder) == before


def test_two_processes_at_once_prepare_once(config: DataConfig, tmp_path: Path):
    first = start(config, tmp_path, hold_at="training")
    wait_for(first, "training")
    second = start(config, tmp_path, hold_at="never")
    wait_for(second, "waiting for the process that prepares this data")
    assert load(tmp_path / "data" / data_id(config)) is None
    assert first.communicate(timeout=60)[0].endswith("done\n")
    assert second.communicate(timeout=60)[0] == "done\n"
    assert (first.returncode, second.returncode) == (0, 0)
    assert load(tmp_path / "data" / data_id(config)) is not None


@pytest.mark.parametrize("moment", ["reading", "training", "encoding", "writing"])
def test_a_preparer_killed_midway_leaves_nothing_that_counts(
    config: DataConfig, tmp_path: Path, moment: str
):
    folder = tmp_path / "data" / data_id(config)
    with start(config, tmp_path, hold_at=moment) as process:
        wait_for(process, moment)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert list(folder.parent.glob(".*.tmp"))
    assert load(folder) is None
    prepared = prepare(config, tmp_path)
    assert content(prepared.folder) == content(prepare(config, tmp_path / "clean").folder)
    assert not list(folder.parent.glob(".*.tmp"))
