"""The write API of a served Pi: batches, animals, moves, tags, guards, repetitions, passwords, and for whom an office writes."""

from __future__ import annotations

import re
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from farm_processes import Farm, eventually, shell

from changelog.errors import Unavailable
from changelog.position import Position
from pi import repeats

WRITTEN = (  # with spaces that do not break, joined signs, and marks that turn the way of writing
    "12\u00a0kg, 3\u202fm",
    "\U0001f469\u200d\U0001f33e",
    "\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "\u200f\u05e4\u05e8\u05d4\u200e A7",
    "e\u0301 and\ttwo\nlines",
)


@pytest.fixture(scope="module")
def farm(tmp_path_factory, seed):
    """A Pi that serves, and a server that does not run."""
    made = Farm(tmp_path_factory.mktemp("farm"), seed)
    made.pi.start()
    made.writer = made.pi.command("key", "add", "scale", "--role", "writer").stdout.strip()
    made.office = made.pi.command("key", "add", "desk", "--role", "office").stdout.strip()
    yield made
    made.close()


@pytest.fixture
def ask(farm):
    """(status, JSON) of a write by maria at the office, or with another key."""

    def ask(method, path, body=None, key=None, actor="maria", **headers):
        if key is None:
            headers["X-Actor"] = actor
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = farm.ask(method, f"/api/{path}", key or farm.office, json=body, headers=headers)
        return answer.status_code, answer.json()

    return ask


@pytest.fixture
def animal(farm):
    """The id of an animal that nobody else uses, with the tags L<id> and U<id>."""
    name = uuid.uuid4().hex[:8]
    farm.pi.sql(
        f"INSERT OR IGNORE INTO batches(id, batch_number) VALUES(1, 'B1'); INSERT INTO cattle(batch_id, cattle_id) VALUES(1, '{name}')"
    )
    animal = int(farm.pi.sql(f"SELECT id FROM cattle WHERE cattle_id='{name}'"))
    farm.pi.sql(f"UPDATE cattle SET lf_tag='L{animal}', uhf_tag='U{animal}' WHERE id={animal}")
    return animal


def pen(farm, capacity):
    """The id of a new pen."""
    number = uuid.uuid4().hex[:8]
    return int(farm.pi.sql(f"INSERT INTO pens(pen_number, capacity) VALUES('{number}', {capacity}); SELECT max(id) FROM pens"))


def head(farm):
    return int(farm.pi.sql("SELECT max(seq) FROM changelog"))


def actors(farm, after):
    return farm.pi.sql(f"SELECT DISTINCT actor FROM changelog WHERE seq>{after}").splitlines()


def test_a_batch_is_made_changed_and_deleted_and_each_reply_names_its_position(farm, ask):
    status, made = ask("POST", "batches", {"batch_number": "SPRING", "source": "Miller", "notes": "  two\nlines "})
    assert (status, made["batch"]["notes"]) == (201, "two\nlines")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", made["batch"]["induction_date"])
    assert Position.parse(made["position"]).seq == head(farm)
    batch = made["batch"]["id"]
    status, changed = ask("PATCH", f"batches/{batch}", {"induction_date": "2024-02-29", "notes": None})
    assert (status, changed["batch"]["induction_date"], changed["batch"]["notes"]) == (200, "2024-02-29", None)
    status, taken = ask("POST", "batches", {"batch_number": "SPRING"})
    assert (status, taken["field"], "SPRING already" in taken["message"]) == (409, "batch_number", True)
    assert ask("DELETE", f"batches/{batch}")[1]["deleted"]["batch_number"] == "SPRING"
    assert ask("DELETE", f"batches/{batch}")[0] == 404


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("batches", {"batch_number": "a:b"}, "batch_number"),
        ("batches", {"batch_number": " "}, "batch_number"),
        ("batches", {"notes": "no number"}, "batch_number"),
        ("batches", {"batch_number": "X", "induction_date": "2024-02-30"}, "induction_date"),
        ("batches", {"batch_number": "X", "induction_date": 7}, "induction_date"),
        ("batches", {"batch_number": "X", "source_type": "hxb"}, None),
        ("cattle", {"batch_id": 1, "cattle_id": ""}, "cattle_id"),
        ("cattle", {"batch_id": "1", "cattle_id": "x"}, "batch_id"),
        ("cattle", {"batch_id": 99999, "cattle_id": "x"}, "batch_id"),
        ("cattle", {"batch_id": 2**63, "cattle_id": "x"}, "batch_id"),
        ("cattle", {"batch_id": 1, "cattle_id": "x", "lf_tag": "ä"}, "lf_tag"),
        ("cattle", {"batch_id": 1, "cattle_id": "x", "weight": 3}, None),
        ("pens", {"pen_number": "x", "capacity": 1.5}, "capacity"),
        ("pens", {"pen_number": "x\u00a0y", "capacity": 1}, "pen_number"),
        ("pens", {"pen_number": "x", "capacity": 1, "description": "a\x1bb"}, "description"),
        ("cattle/{animal}/weights", {"weight": 300, "recorded_at": "2024-02-31T10:00:00"}, "recorded_at"),
        ("cattle/{animal}/weights", {"weight": 300, "recorded_at": "0000-01-01T10:00:00Z"}, "recorded_at"),
    ],
)
def test_what_cannot_be_stored_is_a_400_that_names_the_field(ask, animal, path, body, field):
    status, answer = ask("POST", path.format(animal=animal), body)
    assert (status, answer.get("field")) == (400, field), answer


@pytest.mark.parametrize("written", WRITTEN)
def test_notes_may_be_in_any_language(ask, animal, written):
    assert ask("PATCH", f"cattle/{animal}", {"notes": written})[1]["animal"]["notes"] == written
    assert ask("PATCH", "batches/1", {"notes": written})[1]["batch"]["notes"] == written


def test_an_animal_is_made_changed_and_deleted(farm, ask, animal):
    after = head(farm)
    status, made = ask("POST", "cattle", {"batch_id": 1, "cattle_id": "by hand", "lf_tag": "HAND1", "sex": "heifer"})
    assert (status, made["animal"]["status"], made["animal"]["sex"], made["animal"]["weight"]) == (201, "active", "heifer", None)
    one = made["animal"]["id"]
    status, changed = ask("PATCH", f"cattle/{one}", {"health_status": "lame", "status": "sold", "sex": None})
    assert (status, changed["animal"]["health_status"], changed["animal"]["status"], changed["animal"]["sex"]) == (
        200,
        "lame",
        "sold",
        None,
    )
    for body in ({"lf_tag": "x"}, {"pen_id": 1}, {"weight": 3}, {"status": None}, {"status": ""}, {}, {"expected": {}}, {"notes": "a\x00"}):
        assert ask("PATCH", f"cattle/{one}", body)[0] == 400, body
    assert ask("DELETE", f"cattle/{one}")[0] == 200
    assert actors(farm, after) == ["office:maria"]


def test_what_others_refer_to_cannot_be_deleted_and_the_answer_says_what_does(farm, ask, animal):
    ask("POST", f"cattle/{animal}/weights", {"weight": 300})
    ask("POST", f"cattle/{animal}/tags", {"lf_tag": f"again{animal}"})
    status, answer = ask("DELETE", f"cattle/{animal}")
    assert (status, "1 weights and 1 earlier pairs of tags refer to it" in answer["message"]) == (409, True)
    farm.post("hxb:REFERRED:RL1:RU1")
    batch = int(farm.pi.sql("SELECT id FROM batches WHERE batch_number='REFERRED'"))
    status, answer = ask("DELETE", f"batches/{batch}")
    assert (status, "1 animals and 1 payloads refer to it" in answer["message"]) == (409, True)


def test_a_pen_takes_as_many_active_animals_as_its_capacity(farm, ask, animal):
    full = pen(farm, 1)
    farm.pi.sql(f"INSERT INTO cattle(batch_id, cattle_id, pen_id, status) VALUES(1, 'gone{full}', {full}, 'exported')")
    status, moved = ask("POST", f"cattle/{animal}/move", {"pen_id": full})
    assert (status, moved["animal"]["pen_id"]) == (200, full)
    before = head(farm)
    assert ask("POST", f"cattle/{animal}/move", {"pen_id": full})[0] == 200, "it stands there already"
    assert head(farm) == before
    other = ask("POST", "cattle", {"batch_id": 1, "cattle_id": f"other{full}"})[1]["animal"]["id"]
    status, answer = ask("POST", f"cattle/{other}/move", {"pen_id": full})
    assert (status, answer["capacity"], answer["animals"], answer["field"]) == (409, 1, 1, "pen_id")
    assert "its capacity is 1, and 1 active animals stand in it" in answer["message"]
    ask("PATCH", f"cattle/{other}", {"status": "exported"})
    assert ask("POST", f"cattle/{other}/move", {"pen_id": full})[0] == 200, "who is not active takes no place"
    assert ask("PATCH", f"cattle/{other}", {"status": "active"})[0] == 409, "nor does it come back into a pen that is full"
    assert ask("POST", f"cattle/{animal}/move", {"pen_id": None})[1]["animal"]["pen_id"] is None
    assert ask("PATCH", f"cattle/{other}", {"status": "active"})[0] == 200
    for body in ({"pen_id": 99999}, {"pen_id": "1"}, {"pen_id": True}, {}):
        assert ask("POST", f"cattle/{animal}/move", body)[0] == 400, body


def test_of_many_who_move_at_once_only_so_many_find_a_place(farm, ask, animal):
    small = pen(farm, 3)
    farm.fill(12, batch=f"MANY{small}")
    animals = farm.pi.sql(f"SELECT c.id FROM cattle c JOIN batches b ON b.id=batch_id WHERE batch_number='MANY{small}'").split()
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda each: ask("POST", f"cattle/{each}/move", {"pen_id": small})[0], animals))
    assert sorted(answers) == [200] * 3 + [409] * 9
    assert farm.pi.sql(f"SELECT count(*) FROM cattle WHERE pen_id={small}") == "3"


def test_other_tags_make_the_old_pair_history_and_a_tag_is_on_one_animal_only(farm, ask, animal):
    status, paired = ask("POST", f"cattle/{animal}/tags", {"uhf_tag": f"new{animal}"})
    assert (status, paired["animal"]["lf_tag"], paired["animal"]["uhf_tag"]) == (200, f"L{animal}", f"new{animal}")
    history = f"SELECT lf_tag, uhf_tag, updated_by FROM pair_history WHERE cattle_id={animal}"
    assert farm.pi.sql(history) == f"L{animal}|U{animal}|maria"
    ask("POST", f"cattle/{animal}/tags", {"uhf_tag": f"new{animal}"})
    assert farm.pi.sql(history).count("\n") == 0, "the same pair again is no change"
    other = ask("POST", "cattle", {"batch_id": 1, "cattle_id": f"wears{animal}", "lf_tag": f"taken{animal}"})[1]["animal"]["id"]
    status, answer = ask("POST", f"cattle/{animal}/tags", {"lf_tag": f"taken{animal}", "uhf_tag": f"x{animal}"})
    assert (status, answer["animal"], answer["field"]) == (409, f"wears{animal}", "lf_tag")
    assert f"is on animal wears{animal}" in answer["message"]
    assert ask("POST", f"cattle/{other}/tags", {"lf_tag": None})[1]["animal"]["lf_tag"] is None
    assert ask("POST", f"cattle/{animal}/tags", {"lf_tag": f"taken{animal}"})[0] == 200


def test_two_who_edit_at_once_do_not_overwrite_each_other(farm, ask, animal):
    seen = {"notes": None}
    assert ask("PATCH", f"cattle/{animal}", {"notes": "mine", "expected": seen}, actor="ann")[0] == 200
    before = head(farm)
    status, answer = ask("PATCH", f"cattle/{animal}", {"notes": "yours", "expected": seen}, actor="bob")
    assert (status, answer["present"]["notes"], answer["field"]) == (409, "mine", "notes")
    assert "notes is 'mine' now" in answer["message"]
    assert head(farm) == before
    other_column = {"sex": "cow", "expected": {"sex": None}}
    assert ask("PATCH", f"cattle/{animal}", other_column, actor="bob")[0] == 200, "what one changes does not stop the other elsewhere"
    assert ask("PATCH", f"cattle/{animal}", {"notes": "ours", "expected": {"notes": "mine"}}, actor="bob")[0] == 200
    target = pen(farm, 5)
    assert ask("POST", f"cattle/{animal}/move", {"pen_id": target, "expected": {"pen_id": 4711}})[0] == 409
    assert ask("POST", f"cattle/{animal}/tags", {"lf_tag": "q", "expected": {"lf_tag": "p"}})[0] == 409
    for wrong in ({"nonsense": 1}, [], "x"):
        assert ask("PATCH", f"cattle/{animal}", {"notes": "x", "expected": wrong})[0] == 400, wrong


def test_odd_values_that_a_shell_left_in_a_row_break_no_reply(farm, ask, animal):
    farm.pi.sql(f"UPDATE cattle SET notes=CAST(x'ff41' AS TEXT), sex=x'00ff', weight='heavy' WHERE id={animal}")
    status, answer = ask("PATCH", f"cattle/{animal}", {"health_status": "fine"})
    assert (status, answer["animal"]["notes"]) == (200, "\ufffdA")
    assert ask("POST", f"cattle/{animal}/weights", {"weight": 300})[0] == 201


def test_an_office_says_for_whom_it_writes_and_nobody_else_may(farm, ask, animal):
    after = head(farm)
    ask("PATCH", f"cattle/{animal}", {"notes": "1"}, actor="Jos%C3%A9%20P%25")
    ask("PATCH", f"cattle/{animal}", {"notes": "2"}, key=farm.office)
    ask("PATCH", f"cattle/{animal}", {"notes": "3"}, key=farm.writer)
    assert actors(farm, after) == ["office:José P%", "api:desk", "api:scale"]
    status, answer = ask("PATCH", f"cattle/{animal}", {"notes": "4"}, key=farm.writer, X_Actor="maria")
    assert (status, "role office" in answer["message"]) == (403, True)
    for wrong in ("", "%20", "%ff", "a%0Ab", "%20a", "x" * 81):
        assert ask("PATCH", f"cattle/{animal}", {"notes": "5"}, actor=wrong)[0] == 400, wrong
    assert ask("POST", f"cattle/{animal}/weights", {"weight": 301.5})[0] == 201
    assert farm.pi.sql(f"SELECT recorded_by FROM weight_records WHERE cattle_id={animal}") == "maria"


def test_a_key_is_told_who_it_is_and_whether_it_may_write(farm):
    copy = farm.pi.command("key", "add", "copy", "--role", "replica").stdout.strip()
    for key, expected in ((farm.office, ("office", True)), (copy, ("replica", False)), (farm.writer, ("writer", True))):
        answer = farm.ask("GET", "/api/key", key).json()
        assert (answer["role"], answer["writes"]) == expected


def test_a_repetition_is_written_once_and_gets_the_first_answer(farm, ask, animal):
    key = uuid.uuid4().hex
    weights = f"SELECT count(*) FROM weight_records WHERE cattle_id={animal}"
    first = ask("POST", f"cattle/{animal}/weights", {"weight": 310}, Idempotency_Key=key)
    assert first[0] == 201
    assert ask("POST", f"cattle/{animal}/weights", {"weight": 310}, Idempotency_Key=key) == first
    assert farm.pi.sql(weights) == "1"
    status, answer = ask("POST", f"cattle/{animal}/weights", {"weight": 311}, Idempotency_Key=key)
    assert (status, answer["outcome"]) == (409, "written")
    assert ask("POST", f"cattle/{animal}/weights", {"weight": 310}, key=farm.writer, Idempotency_Key=key)[0] == 201, "another key's own"
    assert ask("POST", f"cattle/{animal}/weights", {"weight": 1}, Idempotency_Key="short")[0] == 400


def test_a_double_click_is_written_once(farm, ask, animal):
    key = uuid.uuid4().hex
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, "POST", f"cattle/{animal}/weights", {"weight": 320}, Idempotency_Key=key) for _ in range(8)]
        answers = [each.result() for each in asked]
    assert all(answer == answers[0] for answer in answers)
    assert farm.pi.sql(f"SELECT count(*) FROM weight_records WHERE cattle_id={animal}") == "1"


def test_what_was_refused_may_be_corrected_under_the_same_key(farm, ask, animal):
    key = uuid.uuid4().hex
    full = pen(farm, 0)
    assert ask("POST", f"cattle/{animal}/move", {"pen_id": full}, Idempotency_Key=key)[0] == 409
    assert ask("POST", f"cattle/{animal}/move", {"pen_id": pen(farm, 1)}, Idempotency_Key=key)[0] == 200


def test_a_repetition_is_known_after_a_power_cut(farm, ask, animal):
    known, cut, unsure = (uuid.uuid4().hex for _ in range(3))
    weights = f"SELECT count(*) FROM weight_records WHERE cattle_id={animal}"
    first = ask("POST", f"cattle/{animal}/weights", {"weight": 330}, Idempotency_Key=known)
    farm.pi.kill9()
    # What a cut between the two commits leaves: that it was tried, and where the log ended then.
    position = farm.pi.sql("SELECT value||'/'||(SELECT max(seq)||'/'||nonce FROM changelog) FROM changelog_meta WHERE name='epoch'")
    for key in (cut, unsure):
        shell(farm.pi.data / "pi.db", f"INSERT INTO requests(id, digest, before) VALUES('desk/{key}', x'00', '{position}')")
    farm.pi.start()
    assert ask("POST", f"cattle/{animal}/weights", {"weight": 330}, Idempotency_Key=known) == first
    assert farm.pi.sql(weights) == "1"
    assert ask("POST", f"cattle/{animal}/weights", {"weight": 331}, Idempotency_Key=cut)[0] == 201, "nothing of maria's came after it"
    status, answer = ask("POST", f"cattle/{animal}/weights", {"weight": 332}, Idempotency_Key=unsure)
    assert (status, answer["outcome"]) == (409, "unknown")
    assert farm.pi.sql(weights) == "2"


def test_a_locked_pi_db_is_a_503_and_nothing_is_written(farm, ask, animal):
    lock = "BEGIN IMMEDIATE; SELECT 'locked'; SELECT writefile('{}', 'x');"
    held = farm.pi.data / "held"
    with subprocess.Popen(["sqlite3", str(farm.pi.data / "pi.db")], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as typed:
        typed.stdin.write(lock.format(held) + "\n")
        typed.stdin.flush()
        eventually(held.exists)
        status, answer = ask("POST", f"cattle/{animal}/weights", {"weight": 340}, Idempotency_Key=uuid.uuid4().hex)
        typed.stdin.close()
    assert (status, answer["written"]) == (503, False)
    assert farm.pi.sql(f"SELECT count(*) FROM weight_records WHERE cattle_id={animal}") == "0"


def test_only_so_many_requests_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(repeats, "KEPT", 5)
    (tmp_path / "pi.db").touch()
    memory, here = repeats.Repeats(tmp_path / "pi.db"), Position("0" * 32, 1, 1)
    for number in range(12):
        memory.answer(f"k/{number}", b"d", lambda: here, lambda since: (200, {}))
    assert shell(tmp_path / "pi.db", "SELECT id FROM requests ORDER BY number").split() == ["k/7", "k/8", "k/9", "k/10", "k/11"]


def test_a_try_that_certainly_failed_does_not_hide_one_that_may_have_been_written(tmp_path):
    (tmp_path / "pi.db").touch()
    memory, here, tried = repeats.Repeats(tmp_path / "pi.db"), Position("0" * 32, 7, 1), []

    def write(since):
        tried.append(since)
        raise errors.pop(0)

    errors = [Unavailable("refused", written=False), Unavailable("may be"), Unavailable("refused", written=False), Unavailable("may be")]
    while errors:
        with pytest.raises(Unavailable):
            memory.answer("k/1", b"d", lambda: here, write)
    assert tried == [None, None, here, here]
