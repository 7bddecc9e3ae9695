"""Reading a folder of text, cleaning documents, and counting what is left out."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data.curate import read_folder
from train.data.documents import (
    PIECE_CHARS,
    Intake,
    clean,
    folder_digest,
    pieces,
    text_files,
)

LONG_ENOUGH = "a sentence that is long enough to be kept "


def read(folder: Path, bytes_per_source: int = 1_000_000) -> Intake:
    intake = Intake(bytes_per_source)
    read_folder(folder, intake)
    return intake


@given(st.text())
def test_cleaning_a_clean_text_changes_nothing(text: str):
    changed: Counter[str] = Counter()
    once = clean(text, Counter())
    assert clean(once, changed) == once
    assert not changed.total()


@given(st.text())
def test_a_clean_text_has_no_control_character_and_no_trailing_space(text: str):
    lines = clean(text, Counter()).split("\n")
    assert not any(line.endswith((" ", "\t")) for line in lines)
    assert not any(ord(char) < 32 and char != "\t" for line in lines for char in line)


def test_each_kind_of_repair_is_counted_once_a_document():
    changed: Counter[str] = Counter()
    assert clean("\ufeffone\r\ntwo\x07  \r\nthree", changed) == "one\ntwo\nthree"
    assert changed == {"newlines": 1, "control characters": 1, "trailing whitespace": 1}


@given(st.lists(st.sampled_from(["word", " ", "\n", "ü" * 9, "x" * 20_000]), max_size=40))
def test_pieces_are_bounded_and_join_to_the_text(parts: list[str]):
    text = "".join(parts)
    cut = list(pieces(text))
    assert "".join(cut) == text
    assert all(len(piece) <= PIECE_CHARS for piece in cut)


def test_pieces_of_a_long_text_end_at_line_ends():
    cut = list(pieces("a line of some words\n" * 3_000))
    assert len(cut) > 1
    assert all(piece.endswith("\n") for piece in cut[:-1])


def test_exact_duplicates_are_kept_once_and_counted():
    intake = Intake(1_000)
    for name in ("first", "second", "third"):
        intake.offer("text", name, LONG_ENOUGH)
    assert [document.name for document in intake.documents] == ["first"]
    assert intake.tally.dropped["exact duplicate"] == 2


def test_a_full_source_takes_no_more_and_the_others_go_on():
    intake = Intake(60)
    for number in range(4):
        intake.offer("a", str(number), f"{LONG_ENOUGH}{number}")
    intake.offer("b", "other", LONG_ENOUGH)
    assert Counter(document.source for document in intake.documents) == {"a": 2, "b": 1}
    assert intake.tally.dropped["source already full"] == 2


def test_sources_are_the_first_subfolders_and_text_for_files_at_the_top(corpus: Path):
    sources = Counter(document.source for document in read(corpus).documents)
    assert sources == {"stories": 40, "program": 40, "text": 1}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"caf\xe9 in Latin-1, which is not what was asked for", "not UTF-8"),
        (b"\x89PNG\x00\x00 named as if it were a text, but it is not", "binary"),
        ("in UTF-16, with a zero byte at each letter".encode("utf-16"), "binary"),
        (b"short", "shorter than 32 characters"),
        (b"", "shorter than 32 characters"),
    ],
)
def test_a_bad_file_is_counted_by_reason_and_the_others_are_read(
    corpus: Path, content: bytes, reason: str
):
    (corpus / "stories" / "bad.txt").write_bytes(content)
    intake = read(corpus)
    assert intake.tally.dropped[reason] == 1
    assert len(intake.documents) == 81


def test_a_broken_link_and_a_pipe_are_counted_unreadable(corpus: Path):
    (corpus / "gone.txt").symlink_to(corpus / "nothing.txt")
    os.mkfifo(corpus / "pipe.txt")
    (corpus / "gone.jsonl").symlink_to(corpus / "nothing.jsonl")
    assert read(corpus).tally.dropped["unreadable"] == 3
    assert len(folder_digest(corpus)) == 64


def test_lines_of_jsonl_are_documents_and_bad_lines_are_counted(tmp_path: Path):
    lines = [json.dumps({"text": f"{LONG_ENOUGH}{n}"}).encode() for n in range(3)]
    bad = [b"{torn", b"[1, 2]", b'{"text": 3}', b"\xff", b"[" * 100_000]
    surrogate = b'{"text": "half a pair \\ud800 of surrogates, in a long line"}'
    (tmp_path / "lines.jsonl").write_bytes(b"\n".join([*lines, *bad, b"", surrogate]))
    intake = read(tmp_path)
    assert len(intake.documents) == 3
    assert +intake.tally.dropped == {
        "line is not JSON": 2,
        "line without a 'text' field": 2,
        "not UTF-8": 2,
    }


def test_a_jsonl_larger_than_its_source_is_read_only_so_far(tmp_path: Path):
    lines = (json.dumps({"text": f"{LONG_ENOUGH}{n}"}) for n in range(1_000))
    (tmp_path / "lines.jsonl").write_text("\n".join(lines))
    intake = read(tmp_path, bytes_per_source=1_000)
    assert 1_000 <= intake.bytes["text"] < 1_100
    assert intake.tally.dropped["source already full"] == 1


def test_a_missing_folder_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="does not exist; name a folder of text, or 'builtin'"):
        text_files(tmp_path / "nowhere")


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path):
    (tmp_path / "book.txt").write_text(LONG_ENOUGH)
    with pytest.raises(ValueError, match="is not a folder"):
        text_files(tmp_path / "book.txt")


def test_an_empty_folder_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"holds no text \(0 other files\); put \.txt"):
        text_files(tmp_path)


def test_a_folder_of_pictures_is_refused_with_their_number(tmp_path: Path):
    (tmp_path / "cat.png").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match="1 other files"):
        text_files(tmp_path)


def test_hidden_files_and_folders_are_passed_over(corpus: Path):
    (corpus / ".git").mkdir()
    (corpus / ".git" / "notes.txt").write_text(LONG_ENOUGH)
    (corpus / ".draft.txt").write_text(LONG_ENOUGH)
    assert not [path for path in text_files(corpus)[0] if "." in {part[0] for part in path.parts}]


def test_a_linked_folder_is_read_and_a_link_in_a_circle_ends(corpus: Path, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "far.txt").write_text(LONG_ENOUGH)
    (corpus / "linked").symlink_to(elsewhere)
    (corpus / "circle").symlink_to(corpus)
    assert Path("linked/far.txt") in text_files(corpus)[0]
    assert len(text_files(corpus)[0]) == 82


def test_the_digest_follows_names_and_content_and_nothing_else(corpus: Path):
    before = folder_digest(corpus)
    story = corpus / "stories" / "0.txt"
    os.utime(story, (0, 0))
    (corpus / "picture.png").write_bytes(b"not text")
    assert folder_digest(corpus) == before
    story.rename(story.with_name("renamed.txt"))
    renamed = folder_digest(corpus)
    (corpus / "stories" / "1.txt").write_text("other words")
    assert len({before, renamed, folder_digest(corpus)}) == 3
