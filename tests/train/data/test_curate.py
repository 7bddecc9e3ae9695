"""One config to documents in two splits."""

import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import train.data.curate as curate_module
from train.config import DataConfig
from train.data.curate import choose_validation, curate, digest, with_digest
from train.data.documents import Document


def config(folder: Path, **fields: object) -> DataConfig:
    return DataConfig.model_validate({"corpus": str(folder), **fields})


def test_no_document_of_validation_is_in_train():
    found = curate(DataConfig(bytes_per_source=100_000, validation_fraction=0.1))
    train, held_out = (
        {document.text for document in found.documents[split]} for split in ("train", "validation")
    )
    assert held_out
    assert not train & held_out


def test_everything_from_one_file_stands_in_one_split():
    found = curate(DataConfig(bytes_per_source=100_000, validation_fraction=0.1))
    splits = defaultdict(set)
    for split, documents in found.documents.items():
        for item in (*documents, *found.pairs[split]):
            splits[item.name].add(split)
    assert {len(names) for names in splits.values()} == {1}


def test_no_prompt_and_no_response_of_validation_is_in_train(corpus: Path):
    pairs = curate(config(corpus, validation_fraction=0.2)).pairs
    assert pairs["validation"]
    assert not {p.prompt for p in pairs["train"]} & {p.prompt for p in pairs["validation"]}
    assert not {p.response for p in pairs["train"]} & {p.response for p in pairs["validation"]}


@given(
    st.dictionaries(
        st.text("abcdef", min_size=1),
        st.tuples(st.sampled_from("xyz"), st.integers(1, 400)),
        min_size=1,
        max_size=60,
    ),
    st.floats(0.01, 0.49),
)
def test_every_source_with_two_documents_is_in_both_splits_or_nothing_is_too_large(
    files: dict[str, tuple[str, int]], fraction: float
):
    documents = [Document(source, name, name * n) for name, (source, n) in files.items()]
    chosen = choose_validation(documents, fraction)
    for source in "xyz":
        of_source = [document for document in documents if document.source == source]
        held = [document for document in of_source if document.name in chosen]
        assert (0 < len(held) < len(of_source)) if len(of_source) > 1 else not held
        share = fraction * sum(len(document.text) for document in of_source)
        assert len(held) <= 1 or sum(len(document.text) for document in held) <= 2 * share


def test_the_split_does_not_depend_on_the_order_of_documents():
    documents = [Document("text", f"{n}", f"document number {n}" * 20) for n in range(50)]
    assert choose_validation(documents, 0.1) == choose_validation(documents[::-1], 0.1)


def test_one_long_book_is_split_in_two(tmp_path: Path):
    lines = (f"line {n} of a book that is much longer than a piece\n" for n in range(6_000))
    (tmp_path / "book.txt").write_text("".join(lines))
    sizes = Counter(
        {split: len(found) for split, found in curate(config(tmp_path)).documents.items()}
    )
    assert sizes["validation"] == 1
    assert sizes["train"] > 10


def test_a_corpus_of_one_short_document_is_refused(tmp_path: Path):
    (tmp_path / "note.txt").write_text("a single note, which cannot be learned and held out too")
    with pytest.raises(ValueError, match="none can be held out for validation; add documents"):
        curate(config(tmp_path))


def test_a_corpus_of_unreadable_files_is_refused_with_its_reasons(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xfd not UTF-8, whatever it may be")
    (tmp_path / "b.txt").write_bytes(b"\x00" * 100)
    (tmp_path / "c.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"\(1 binary, 1 not UTF-8, 1 unknown suffix\)"):
        curate(config(tmp_path))


def test_a_corpus_without_python_gives_no_pairs(tmp_path: Path):
    for n in range(4):
        (tmp_path / f"{n}.txt").write_text(f"document {n} has words, but not one function in it")
    assert curate(config(tmp_path)).pairs == {"train": (), "validation": ()}


def test_the_digest_of_a_config_fills_its_field(corpus: Path):
    filled = with_digest(config(corpus))
    assert filled.digest == digest(filled)
    assert len(filled.digest) == 64


@pytest.mark.parametrize("name", ["builtin", "folder"])
def test_a_mixture_with_an_unknown_source_is_refused(name: str, corpus: Path):
    folder = "builtin" if name == "builtin" else str(corpus)
    with pytest.raises(ValueError, match="mixture names 'poems', but the corpus has the sources"):
        digest(DataConfig(corpus=folder, mixture={"poems": 1.0}))


def test_curation_is_the_same_in_processes_with_other_hash_seeds(corpus: Path):
    program = (
        "import sys, hashlib; from train.config import DataConfig\n"
        "from train.data.curate import curate\n"
        "found = curate(DataConfig(corpus=sys.argv[1], validation_fraction=0.2))\n"
        "print(hashlib.sha256(repr((found.documents, found.pairs)).encode()).hexdigest())\n"
    )
    outputs = {
        subprocess.check_output(
            [sys.executable, "-c", program, str(corpus)], env={"PYTHONHASHSEED": seed}, text=True
        )
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_nothing_in_the_room_imports_torch():
    room = Path(curate_module.__file__).parent
    modules = [f"train.data.{path.stem}" for path in room.glob("[a-z]*.py")]
    program = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert len(modules) >= 10
    subprocess.run([sys.executable, "-c", program], check=True)
