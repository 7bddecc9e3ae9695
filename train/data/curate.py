"""From raw text to clean, deduplicated documents in two splits: what one DataConfig names."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_args

from train.config import DataConfig
from train.data import builtin, pairs
from train.data.documents import (
    JSONL_SUFFIX,
    Document,
    Intake,
    Tally,
    content_hash,
    folder_digest,
    jsonl_texts,
    pieces,
    read_text,
    source_of,
    text_files,
)
from train.data.pairs import Pair
from train.data.python_source import parse

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = get_args(Split)
Item = TypeVar("Item", Document, Pair)


@dataclass(frozen=True)
class Curated:
    """Documents and instruction pairs by split, in content-hash order, and what was dropped."""

    documents: dict[Split, tuple[Document, ...]]
    pairs: dict[Split, tuple[Pair, ...]]
    tally: Tally


def digest(config: DataConfig) -> str:
    """Hash of the raw text that a config names.

    Raises ValueError for a corpus that is missing or holds no text, and for a mixture that names a
    source it does not have.
    """
    if config.corpus == "builtin":
        check_mixture(config.mixture, builtin.SOURCES)
        return builtin.digest(builtin.entries())
    folder = Path(config.corpus)
    check_mixture(config.mixture, sorted({source_of(path) for path in text_files(folder)[0]}))
    return folder_digest(folder)


def with_digest(config: DataConfig) -> DataConfig:
    """The config with the digest of its text filled in; raises as `digest` does."""
    return DataConfig.model_validate(config.model_dump() | {"digest": digest(config)})


def check_mixture(mixture: dict[str, float], sources: Iterable[str]) -> None:
    """Raises ValueError where a mixture names a source that is not among `sources`."""
    unknown = sorted(set(mixture) - set(sources))
    if unknown:
        raise ValueError(
            f"mixture names {', '.join(map(repr, unknown))}, but the corpus has the sources"
            f" {', '.join(map(repr, sources))}; use only these"
        )


def curate(config: DataConfig) -> Curated:
    """Read, clean, deduplicate and split a corpus; raises ValueError where nothing is left."""
    intake = Intake(config.bytes_per_source)
    if config.corpus == "builtin":
        found = builtin.read(intake)
    else:
        found = read_folder(Path(config.corpus), intake)
    if not intake.documents:
        reasons = ", ".join(f"{n} {why}" for why, n in sorted(intake.tally.dropped.items()))
        raise ValueError(
            f"corpus={config.corpus!r} has no readable text left ({reasons}); it needs UTF-8 text"
        )
    held_out = choose_validation(intake.documents, config.validation_fraction)
    if not held_out:
        raise ValueError(
            f"corpus={config.corpus!r} has one document a source, and none can be held out for"
            " validation; add documents"
        )
    ordered = sorted(intake.documents, key=lambda document: content_hash(document.text))
    return Curated(
        documents=_by_split(ordered, held_out),
        pairs=_by_split(pairs.unique(found), held_out),
        tally=intake.tally,
    )


def read_folder(folder: Path, intake: Intake) -> list[Pair]:
    """Fill the sources of a user's folder: first-level subfolders, or `text` for files at the top.

    Files are taken in an order that follows a hash of their names, so that a source that is larger
    than its bytes is sampled and not cut off. Returns the pairs of the Python files read.
    """
    found: list[Pair] = []
    dropped = intake.tally.dropped
    paths, dropped["unknown suffix"] = text_files(folder)
    for path in sorted(paths, key=lambda path: content_hash(ascii(str(path)))):
        source, name = source_of(path), str(path)
        if intake.full(source):
            dropped["source already full"] += 1
        elif path.suffix.lower() == JSONL_SUFFIX:
            for line, text in enumerate(jsonl_texts(folder / path, dropped)):
                if intake.full(source):
                    dropped["source already full"] += 1
                    break
                _offer_pieces(intake, source, f"{name}:{line}", text)
        elif (text := read_text(folder / path, dropped)) is not None:
            if path.suffix.lower() == ".py":
                intake.offer(source, name, text)
                module = parse(text)
                found += pairs.function_pairs(module, name) if module else ()
            else:
                _offer_pieces(intake, source, name, text)
    return found


def _offer_pieces(intake: Intake, source: str, name: str, text: str) -> None:
    for number, piece in enumerate(pieces(text)):
        intake.offer(source, f"{name}#{number}", piece)


def choose_validation(documents: Iterable[Document], fraction: float) -> set[str]:
    """Names to hold out: in content-hash order, as long as every source comes nearer its share.

    A name is held out whole, with its documents of all sources. A source whose documents are all
    too long for that gives its shortest; a source with a single name keeps it for training.
    """
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    totals: Counter[str] = Counter()
    for document in sorted(documents, key=lambda document: content_hash(document.text)):
        n_bytes = len(document.text.encode())
        sizes[document.name][document.source] += n_bytes
        totals[document.source] += n_bytes
    chosen: set[str] = set()
    held: Counter[str] = Counter()
    for name, by_source in sizes.items():
        if all(held[s] + n / 2 <= fraction * totals[s] for s, n in by_source.items()):
            chosen.add(name)
            held.update(by_source)
    for source in sorted(totals.keys() - held.keys()):
        candidates = [(n[source], name) for name, n in sizes.items() if source in n]
        if len(candidates) > 1:
            chosen.add(min(candidates)[1])
    return chosen


def _by_split(items: Iterable[Item], held_out: set[str]) -> dict[Split, tuple[Item, ...]]:
    splits: dict[Split, list[Item]] = {split: [] for split in SPLITS}
    for item in items:
        splits["validation" if item.name in held_out else "train"].append(item)
    return {split: tuple(found) for split, found in splits.items()}
