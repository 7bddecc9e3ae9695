from pathlib import Path

import pytest

from sweeper.errors import UserError
from sweeper.ledger import Ledger, read, scan
from sweeper.record import Job, Record, replay


def intent(job: str, *grants: tuple[str, int]) -> dict[str, object]:
    return {"event": "intent", "job": job, "stage": "trials", "grants": grants, "world_size": 1}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.append(intent(ledger.record.next_job(), ("a", 1), ("b", 1)))
    ledger.append(intent(ledger.record.next_job(), ("b", 2)))
    return path


def test_what_was_appended_is_replayed(path: Path) -> None:
    record = read(path)
    assert [job.grants for job in record.jobs] == [(("a", 1), ("b", 1)), (("b", 2),)]
    assert Ledger(path).record == record


def test_job_names_carry_the_studys_own_id_and_count_on(path: Path) -> None:
    record = read(path)
    assert [job.name for job in record.jobs] == [
        f"swp-{record.uid}-0001",
        f"swp-{record.uid}-0002",
    ]
    assert record.next_job() == f"swp-{record.uid}-0003"


def test_two_studies_have_different_ids(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "one").record.uid != Ledger(tmp_path / "two").record.uid


def test_a_last_line_torn_at_any_byte_is_left_out_and_the_ledger_goes_on(path: Path) -> None:
    whole = path.read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    before = replay(scan(whole[:start])[0])
    for cut in range(start + 1, len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.warns(UserWarning, match="the torn last line is left out"):
            ledger = Ledger(path)
        assert ledger.record == before
        ledger.append(intent("next", ("b", 2)))
        assert read(path).jobs[:-1] == before.jobs
        assert read(path).jobs[-1].name == "next"


def test_a_changed_byte_in_the_last_line_is_found(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-30] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="torn last line"):
        assert len(read(path).jobs) == 1


def test_damage_before_the_last_line_is_refused_by_its_number(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(b"swp", b"swq") + lines[2])
    with pytest.raises(UserError, match=r"line 2 of 3 is damaged; put back a copy"):
        read(path)


def test_an_absent_ledger_is_an_empty_record(tmp_path: Path) -> None:
    assert read(tmp_path / "none") == Record()


def test_events_of_later_versions_are_passed_over() -> None:
    events = [{"event": "study", "uid": "u", "time": 1.0}, {"event": "renamed", "time": 2.0}]
    assert replay(events) == Record(uid="u", created=1.0)


def test_replay_of_any_beginning_invents_nothing(path: Path) -> None:
    events, _ = scan(path.read_bytes())
    whole: tuple[Job, ...] = replay(events).jobs
    for length in range(len(events)):
        assert replay(events[:length]).jobs == whole[: len(replay(events[:length]).jobs)]
