"""Prepared data on disk, made once and cached under its content address.

HOME/data/DATA_ID/
    tokenizer.json              byte-level BPE
    SOURCE.SPLIT.bin            flat token ids, <|endoftext|> after each document
    pairs.SPLIT.jsonl           prompt, response
    preferences.SPLIT.jsonl     prompt, chosen, rejected
    manifest.json               counts, drops, hashes
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from train.config import DataConfig, Frozen, data_id
from train.data import pairs, tokenizer
from train.data.curate import SPLITS, Curated, Split, check_mixture, curate, digest, with_digest
from train.data.documents import Document
from train.data.mixture import apportion
from train.data.pairs import Pair, Preference
from train.data.tokenizer import END_OF_TEXT, Tokenizer
from train.runlog import write_atomic

MANIFEST = "manifest.json"
TOKENIZER_SAMPLE_BYTES = 4_000_000
ENCODE_DOCUMENTS = 256
Report = Callable[[str], None]


class SplitCounts(Frozen):
    """What one source has in one split; `bytes` are those of the text, separators not counted."""

    documents: int
    bytes: int
    tokens: int


class Manifest(Frozen):
    """What was prepared, and what was left out. `bytes_per_token` is over both splits."""

    data: DataConfig
    dtype: str
    tokenizer_sha256: str
    sources: dict[str, dict[Split, SplitCounts]]
    bytes_per_token: dict[str, float]
    pairs: dict[Split, int]
    preferences: dict[Split, int]
    dropped: dict[str, int]
    changed: dict[str, int]


@dataclass(frozen=True)
class PreparedData:
    """A finished data folder."""

    folder: Path
    manifest: Manifest


def prepare(config: DataConfig, home: Path, report: Report = lambda line: None) -> PreparedData:
    """The data of a config, made if it is not there; any number of processes may ask at once.

    Raises ValueError for a corpus that cannot be used or is not the one that was planned with.
    """
    if not config.digest:
        config = with_digest(config)
    folder = home / "data" / data_id(config)
    if (prepared := load(folder)) is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f".{folder.name}.lock"), report):
            if (prepared := load(folder)) is None:
                prepared = _prepare(config, folder, report)
    check_mixture(config.mixture, prepared.manifest.sources)
    return prepared


def load(folder: Path) -> PreparedData | None:
    """The prepared data of a folder, or None where it is absent, unfinished or damaged."""
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
        manifest = Manifest.model_validate_json(text)
        for source, splits in manifest.sources.items():
            for split, counts in splits.items():
                expected = counts.tokens * np.dtype(manifest.dtype).itemsize
                if tokens_path(folder, source, split).stat().st_size != expected:
                    return None
    except (FileNotFoundError, ValueError):
        return None
    return PreparedData(folder, manifest)


def tokens_path(folder: Path, source: str, split: Split) -> Path:
    return folder / f"{source}.{split}.bin"


@contextmanager
def _locked(path: Path, report: Report) -> Iterator[None]:
    """Hold a lock that ends with the process, also when it is killed."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("waiting for the process that prepares this data")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _prepare(config: DataConfig, folder: Path, report: Report) -> PreparedData:
    """Build beside the final place and rename: what a killed process leaves has another name."""
    found = digest(config)
    if found != config.digest:
        raise ValueError(
            f"corpus={config.corpus!r} changed since the study was planned: its digest is"
            f" {found[:12]}, planned was {config.digest[:12]}; restore the text (for 'builtin' the"
            " pinned packages), or plan a new study with it"
        )
    for left in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(left)
    made = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    made.mkdir()
    try:
        manifest = _build(config, made, report)
        if folder.exists():
            shutil.rmtree(folder)
        made.replace(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return PreparedData(folder, manifest)


def _build(config: DataConfig, folder: Path, report: Report) -> Manifest:
    report("reading and cleaning text")
    curated = curate(config)
    report("training the tokenizer")
    sample = tokenizer_sample(curated.documents["train"], TOKENIZER_SAMPLE_BYTES)
    words = tokenizer.train(sample, config.vocab_size, config.sentinels)
    words.save(folder / tokenizer.FILE)
    dtype = token_dtype(config.vocab_size)
    sources = _write_sources(folder, curated, words, dtype, report)
    report("writing pairs")
    n_pairs, n_preferences = _write_pairs(folder, curated)
    manifest = Manifest(
        data=config,
        dtype=dtype,
        tokenizer_sha256=hashlib.sha256((folder / tokenizer.FILE).read_bytes()).hexdigest(),
        sources=sources,
        bytes_per_token={source: _compression(splits) for source, splits in sources.items()},
        pairs=n_pairs,
        preferences=n_preferences,
        dropped=dict(sorted(curated.tally.dropped.items())),
        changed=dict(sorted(curated.tally.changed.items())),
    )
    write_atomic(folder / MANIFEST, manifest.model_dump_json(indent=1))
    return manifest


def token_dtype(vocab_size: int) -> str:
    """The smallest unsigned type that holds every id of a vocabulary."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def tokenizer_sample(documents: Iterable[Document], max_bytes: int) -> Iterator[str]:
    """Whole documents from each source by its size, up to the one that passes its share."""
    by_source: dict[str, list[str]] = {}
    for document in documents:
        by_source.setdefault(document.source, []).append(document.text)
    sizes = [sum(len(text.encode()) for text in texts) for texts in by_source.values()]
    quotas = apportion([float(n) for n in sizes], min(sum(sizes), max_bytes))
    for texts, quota in zip(by_source.values(), quotas.tolist(), strict=True):
        for text in texts:
            if quota <= 0:
                break
            quota -= len(text.encode())
            yield text


def _write_sources(
    folder: Path, curated: Curated, words: Tokenizer, dtype: str, report: Report
) -> dict[str, dict[Split, SplitCounts]]:
    texts: dict[str, dict[Split, list[str]]] = {}
    for split, documents in curated.documents.items():
        for document in documents:
            by_split = texts.setdefault(document.source, {name: [] for name in SPLITS})
            by_split[split].append(document.text)
    counts: dict[str, dict[Split, SplitCounts]] = {}
    for source, by_split in sorted(texts.items()):
        report(f"encoding {source}")
        counts[source] = {
            split: _write_tokens(tokens_path(folder, source, split), found, words, dtype)
            for split, found in by_split.items()
        }
    return counts


def _write_tokens(path: Path, texts: list[str], words: Tokenizer, dtype: str) -> SplitCounts:
    tokens = 0
    with path.open("wb") as file:
        for start in range(0, len(texts), ENCODE_DOCUMENTS):
            for ids in words.encode_batch(texts[start : start + ENCODE_DOCUMENTS]):
                file.write(np.array([*ids, END_OF_TEXT], dtype=dtype).tobytes())
                tokens += len(ids) + 1
        file.flush()
        os.fsync(file.fileno())
    n_bytes = sum(len(text.encode()) for text in texts)
    return SplitCounts(documents=len(texts), bytes=n_bytes, tokens=tokens)


def _compression(splits: dict[Split, SplitCounts]) -> float:
    return sum(n.bytes for n in splits.values()) / sum(n.tokens for n in splits.values())


def _write_pairs(folder: Path, curated: Curated) -> tuple[dict[Split, int], dict[Split, int]]:
    """Write both kinds of pairs; returns how many there are of each, by split."""
    preferred = {split: pairs.preferences(found) for split, found in curated.pairs.items()}
    for split in SPLITS:
        _write_rows(folder / f"pairs.{split}.jsonl", curated.pairs[split])
        _write_rows(folder / f"preferences.{split}.jsonl", preferred[split])
    return (
        {split: len(curated.pairs[split]) for split in SPLITS},
        {split: len(preferred[split]) for split in SPLITS},
    )


def _write_rows(path: Path, rows: Sequence[Pair] | Sequence[Preference]) -> None:
    write_atomic(path, "".join(json.dumps(asdict(row)) + "\n" for row in rows))
