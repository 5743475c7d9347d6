"""The serial reader on a real pseudo-terminal, and the simulated radio."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tty
from contextlib import contextmanager
from pathlib import Path

import pytest
import serial
from pi_parts import make_farm, rows, running_writer, shell, wait_until

from changelog.errors import Unavailable
from pi.serial_reader import SerialReader

SIMULATOR = Path(__file__).parent.parent / "scripts" / "simulate_lora.py"


class Radio:
    """A pseudo-terminal behind a link, which can be unplugged and plugged in again."""

    def __init__(self, link: Path) -> None:
        self.link = link
        self.plug_in()

    def plug_in(self) -> None:
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)
        self.link.symlink_to(os.ttyname(self.slave))

    def unplug(self) -> None:
        self.link.unlink()
        os.close(self.slave)
        os.close(self.master)

    def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            os.write(self.master, piece)


@contextmanager
def running_reader(port, writer):
    reader = SerialReader(str(port), 115_200, writer)
    reader.start()
    try:
        yield reader
    finally:
        reader.stop()


@pytest.fixture
def path(tmp_path):
    return make_farm(tmp_path)


@pytest.fixture
def radio(tmp_path):
    radio = Radio(tmp_path / "lora")
    yield radio
    radio.unplug()


@pytest.fixture
def reader(path, radio):
    with running_writer(path) as writer, running_reader(radio.link, writer) as reader:
        wait_until(lambda: reader.statistics.connected)
        yield reader


def test_lines_and_frames_become_payloads_with_signal_strength_and_actor(path, radio, reader):
    radio.say(b"hxb:B1:L1:U1\r\n", b"+RCV=50,12,hxb:B1", b":L2:U2,-99,4\r", b"\n+RCV=50,12,hxb:B1:L3:U3,-50,7.5\r\nhxb:B1:L4:U4\n")
    wait_until(lambda: rows(path, "SELECT count(*) FROM lora_payload_buffer") == [4])
    assert rows(path, "SELECT raw_payload, rssi, snr, status FROM lora_payload_buffer ORDER BY id") == [
        ("hxb:B1:L1:U1", None, None, "processed"),
        ("hxb:B1:L2:U2", -99.0, 4.0, "processed"),
        ("hxb:B1:L3:U3", -50.0, 7.5, "processed"),
        ("hxb:B1:L4:U4", None, None, "processed"),
    ]
    assert rows(path, "SELECT DISTINCT actor FROM changelog WHERE tbl='cattle'") == [f"lora:{radio.link}"]
    assert (reader.statistics.frames, reader.statistics.bad.total()) == (4, 0)


def test_bad_frames_are_counted_by_reason_and_kept_in_the_log(path, radio, reader, caplog):
    radio.say(b"\xff\xfe\x00\r\n", b"nonsense\r\n", b"+RCV=1,99,short,-1,1\r\n", b"hxb:B1:L1:U1\r\n")
    wait_until(lambda: rows(path, "SELECT count(*) FROM cattle") == [1])
    assert reader.statistics.bad.total() == 3
    assert "bytes=fffe00" in caplog.text
    assert b"nonsense".hex() in caplog.text


def test_a_flood_of_noise_is_counted_but_not_all_of_it_logged(path, radio, reader, caplog):
    for _ in range(20):
        radio.say(b"\xff\r\n" * 100)
    radio.say(b"hxb:B1:L1:U1\r\n")
    wait_until(lambda: rows(path, "SELECT count(*) FROM cattle") == [1])
    assert reader.statistics.bad.total() == 2_000
    assert sum("bad frame" in record.message for record in caplog.records) < 100


def test_half_a_line_then_silence_is_a_bad_frame(path, radio, reader):
    radio.say(b"hxb:B1:L1:U12")
    wait_until(lambda: reader.statistics.bad["broken off"] == 1)
    radio.say(b"345\r\n", b"hxb:B1:L2:U2\r\n")
    wait_until(lambda: rows(path, "SELECT lf_tag FROM cattle") == ["L2"])


def test_an_unplugged_line_is_opened_again_when_it_is_back_and_said_once(path, radio, reader, caplog):
    radio.say(b"hxb:B1:L1:U1\r\n")
    wait_until(lambda: rows(path, "SELECT count(*) FROM cattle") == [1])
    radio.unplug()
    wait_until(lambda: not reader.statistics.connected)
    radio.plug_in()
    wait_until(lambda: reader.statistics.connected)
    radio.say(b"hxb:B1:L2:U2\r\n")
    wait_until(lambda: rows(path, "SELECT count(*) FROM cattle") == [2])
    assert sum("serial line away" in record.message for record in caplog.records) == 1


def test_the_line_is_taken_for_us_alone(radio, reader):
    with pytest.raises(serial.SerialException, match="exclusively"):
        serial.Serial(str(radio.link), exclusive=True)


def test_frames_that_come_in_two_pieces_cut_at_any_byte_are_all_stored_once(path, radio, reader):
    sent = 0
    for kind in ("hxb:B1:L{0}:U{0}", "+RCV=50,{1},hxb:B1:L{0}:U{0},-99,4"):
        cut = 1
        while cut < len(line := f"{kind.format(f'{sent:03}', 16)}\r\n".encode()):
            radio.say(line[:cut], line[cut:])
            sent, cut = sent + 1, cut + 1
    wait_until(lambda: reader.statistics.frames == sent)
    wait_until(lambda: rows(path, "SELECT count(*), sum(times_received) FROM lora_payload_buffer") == [(sent, sent)])
    assert reader.statistics.bad.total() == 0


def test_a_line_that_never_ends_takes_no_memory_and_no_log_and_the_next_frame_is_heard(path, radio, reader, caplog):
    before = int(Path("/proc/self/statm").read_text().split()[1])
    for _ in range(500):
        radio.say(b"\xaa\x55:" * 1_000)
    radio.say(b"\nhxb:B1:L1:U1\r\n")
    wait_until(lambda: rows(path, "SELECT count(*) FROM cattle") == [1])
    assert reader.statistics.bad.total() < 5 and sum("bad frame" in record.message for record in caplog.records) < 5
    assert int(Path("/proc/self/statm").read_text().split()[1]) - before < 1_000  # pages


def test_noise_that_looks_like_payloads_is_counted_under_few_names(path, radio, reader, caplog):
    for number in range(3_000):
        radio.say(b"x%d:B1:L1:U1\r\n" % number)
    wait_until(lambda: reader.statistics.bad.total() == 3_000)
    assert len(reader.statistics.bad) == 1
    assert sum("bad frame" in record.message for record in caplog.records) < 100


def test_a_database_that_refuses_every_payload_does_not_fill_the_log(path, radio, reader, caplog):
    shell(path, "CREATE TRIGGER no BEFORE INSERT ON lora_payload_buffer BEGIN SELECT RAISE(ABORT, 'not today'); END")
    radio.say(*(b"hxb:B1:L%d:U%d\r\n" % (number, number) for number in range(500)))
    wait_until(lambda: reader.statistics.failed == 500)
    assert 0 < sum("payload not stored" in record.message for record in caplog.records) < 10
    shell(path, "DROP TRIGGER no")
    radio.say(b"hxb:B1:L1000:U1\r\n")
    wait_until(lambda: rows(path, "SELECT lf_tag FROM cattle") == ["L1000"])


def test_a_line_that_is_unplugged_in_the_middle_of_a_frame_counts_it_and_keeps_what_came_before(path, radio, reader):
    radio.say(b"hxb:B1:L1:U1\r\n", b"+RCV=50,12,hxb:B1")
    wait_until(lambda: rows(path, "SELECT count(*) FROM cattle") == [1])
    radio.unplug()
    wait_until(lambda: not reader.statistics.connected)
    assert reader.statistics.bad == {"broken off": 1}
    radio.plug_in()
    wait_until(lambda: reader.statistics.connected)
    radio.say(b"hxb:B1:L2:U2\r\n")
    wait_until(lambda: rows(path, "SELECT lf_tag FROM cattle ORDER BY id") == ["L1", "L2"])


def test_what_finds_no_place_in_the_queue_is_counted_and_logged_once(path, radio, caplog):
    class Full:
        has_farm = True

        def submit(self, job, actor):
            raise Unavailable("too many writes are waiting for the disk")

    with running_reader(radio.link, Full()) as reader:
        wait_until(lambda: reader.statistics.connected)
        radio.say(b"hxb:B1:L1:U1\r\n" * 30)
        wait_until(lambda: reader.statistics.overflow == 30)
    assert sum("payload lost" in record.message for record in caplog.records) == 1


def test_a_slow_disk_does_not_stop_the_reading(path, radio, reader):
    with subprocess.Popen(["sqlite3", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        shell.stdin.write("BEGIN IMMEDIATE; SELECT 'locked';\n")
        shell.stdin.flush()
        shell.stdout.readline()
        radio.say(*(b"hxb:B1:L%d:U%d\r\n" % (number, number) for number in range(100)))
        wait_until(lambda: reader.statistics.frames == 100)
        assert rows(path, "SELECT count(*) FROM cattle") == [0]
        shell.stdin.write("ROLLBACK;\n.quit\n")
        shell.stdin.flush()
    wait_until(lambda: rows(path, "SELECT count(*) FROM cattle") == [100])


def test_the_simulated_radio_is_heard_whole_and_cleans_up(path, tmp_path):
    link = tmp_path / "simulated"
    with running_writer(path) as writer:
        command = [sys.executable, str(SIMULATOR), "--link", str(link), "--rate", "400", "--count", "200", "--seed", "7", "--noise"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as simulator:
            assert "a simulated radio speaks on" in simulator.stdout.readline()
            with running_reader(link, writer) as reader:
                assert simulator.wait(30) == 0
                wait_until(lambda: not reader.statistics.connected)
                heard = reader.statistics.frames
        wait_until(lambda: rows(path, "SELECT sum(times_received) FROM lora_payload_buffer") == [heard])
    assert 150 < heard <= 200, "only what was said before the line was opened may be missing"
    assert not link.is_symlink()
    assert rows(path, "SELECT count(*) FROM lora_payload_buffer WHERE rssi NOTNULL")[0] > 10
    assert rows(path, "SELECT count(*) FROM lora_payload_buffer WHERE times_received>1")[0] > 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_simulated_radio_ends_cleanly_on_a_signal(tmp_path, number):
    link = tmp_path / "simulated"
    with subprocess.Popen([sys.executable, str(SIMULATOR), "--link", str(link)], stdout=subprocess.PIPE, text=True) as simulator:
        simulator.stdout.readline()
        assert link.is_symlink()
        simulator.send_signal(number)
        assert simulator.wait(5) == 0
    assert not link.is_symlink()
