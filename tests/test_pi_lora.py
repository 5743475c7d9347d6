"""Payloads, and the frames in which a serial line brings them."""

from __future__ import annotations

import random

import pytest

from changelog.errors import BadRequest, TooLarge
from pi.lora import BadFrame, Frame, FrameSplitter, Reading, parse_payload

PAYLOAD = b"hxb:BATCH001:LF123:UHF456"
FRAMED = b"+RCV=50,25,hxb:BATCH001:LF123:UHF456,-99,40\r\n"


def frames(*pieces: bytes) -> list[Frame]:
    splitter = FrameSplitter()
    found = [frame for piece in pieces for frame in splitter.feed(piece)]
    return [frame for frame in found + splitter.silence() if isinstance(frame, Frame)]


def test_a_payload_becomes_a_reading_and_back():
    reading = parse_payload("hxe:BATCH001:LF123:UHF456")
    assert reading == Reading("hxe", "BATCH001", "LF123", "UHF456")
    assert str(reading) == "hxe:BATCH001:LF123:UHF456"
    assert parse_payload(b" hxb:B 1:L:U\r\n") == Reading("hxb", "B 1", "L", "U")


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ("nonsense", "1 parts"), ("", "1 parts"), ("hxb:a:b:c:d", "5 parts"), ("hxb:a:b", "3 parts"), ("abc:a:b:c", "'abc'"),
        ("HXB:a:b:c", "'HXB'"), ("hxb::b:c", "empty"), ("hxb:a:b:", "empty"),
        ("hxb:a: :c", "empty"), ("hxb:a :b:c", "spaces"), ("hxb:a\0:b:c", "ASCII"),
        ("hxb:ä:b:c", "ASCII"), ("hxb:a:b\nb:c", "ASCII"), ("\ud800", "ASCII"), (b"\xff\xfe", "ASCII"),
    ],
)  # fmt: skip
def test_what_is_no_payload_is_refused_with_its_fault(payload, said):
    with pytest.raises(BadRequest, match=said):
        parse_payload(payload)


def test_255_bytes_are_a_payload_and_256_are_too_large():
    longest = "hxb:B:L:" + "U" * 247
    assert str(parse_payload(longest)) == longest
    with pytest.raises(TooLarge, match="256 bytes"):
        parse_payload(longest + "U")


def test_bare_lines_and_radio_frames_are_found():
    assert frames(PAYLOAD + b"\r\n" + FRAMED + PAYLOAD + b"\n") == [Frame(PAYLOAD), Frame(PAYLOAD, -99, 40), Frame(PAYLOAD)]


def test_a_stream_split_at_every_byte_gives_the_same_frames():
    stream = FRAMED + PAYLOAD + b"\r\n" + b"\x80noise" + FRAMED + b"+OK\r\n" + FRAMED
    whole = frames(stream)
    assert len(whole) == 4
    assert frames(*(stream[i : i + 1] for i in range(len(stream)))) == whole
    for cut in range(len(stream)):
        assert frames(stream[:cut], stream[cut:]) == whole


def test_exactly_len_bytes_are_the_data_even_with_commas_and_newlines():
    assert frames(b"+RCV=1,11,a,\r\nb,-9,9c,-80,-3.5\r\n") == [Frame(b"a,\r\nb,-9,9c", -80, -3.5)]


def test_a_truncated_frame_does_not_swallow_the_next_one():
    splitter = FrameSplitter()
    found = splitter.feed(b"+RCV=50,240,hxb:BATCH0\r\n" + FRAMED)
    found += splitter.silence()
    assert [frame for frame in found if isinstance(frame, Frame)] == [Frame(PAYLOAD, -99, 40)]
    assert [frame.reason for frame in found if isinstance(frame, BadFrame)] == ["broken off"]


def test_half_a_line_and_silence_is_bad_and_its_rest_is_not_taken_for_a_payload():
    splitter = FrameSplitter()
    assert splitter.feed(b"hxb:B:L1:U12") == []
    assert splitter.silence() == [BadFrame(b"hxb:B:L1:U12", "broken off")]
    assert splitter.feed(b"345\r\n") == []
    assert splitter.feed(PAYLOAD + b"\r\n") == [Frame(PAYLOAD)]


def test_a_wrong_length_is_a_bad_frame_and_the_next_one_is_good():
    splitter = FrameSplitter()
    found = splitter.feed(b"+RCV=50,24,hxb:BATCH001:LF123:UHF456,-99,40\r\n" + FRAMED)
    assert found == [BadFrame(b"+RCV=50,24,hxb:BATCH001:LF123:UHF456,-99,40\r\n", "length does not fit"), Frame(PAYLOAD, -99, 40)]


@pytest.mark.parametrize("next_one", [FRAMED, PAYLOAD + b",-9,9\r\n"])
def test_a_wrong_length_that_leads_to_the_tail_of_a_later_frame_swallows_none(next_one):
    tail = next_one.index(b",-9")
    between = b"hxb:B1,-99,40\r\n" + PAYLOAD + b"\r\n" + FRAMED
    lie = b"+RCV=50,%d," % (len(between) + tail)
    found = FrameSplitter().feed(lie + between + next_one + PAYLOAD + b"\r\n")
    assert found[0] == BadFrame(lie + b"hxb:B1,-99,40\r\n", "length does not fit")
    assert found[1:3] == [Frame(PAYLOAD), Frame(PAYLOAD, -99, 40)] and found[-1] == Frame(PAYLOAD) and len(found) == 5


def test_noise_without_end_is_bounded_and_the_line_recovers():
    splitter = FrameSplitter()
    bad = [frame for _ in range(300) for frame in splitter.feed(b"\xaa" * 100)]
    assert [frame.reason for frame in bad] == ["no end of line"]
    assert len(splitter._buffer) < 1_000
    assert splitter.feed(b"\n" + PAYLOAD + b"\n") == [Frame(PAYLOAD)]


def test_any_noise_between_frames_loses_no_whole_frame_after_a_line_end():
    rng = random.Random(5)
    splitter, good, sent = FrameSplitter(), 0, 0
    for number in range(2_000):
        noise = rng.randbytes(rng.randint(0, 60)) + rng.choice((b"+RCV=", b"+RCV=7,40,", b"+RCV=a", b"", b"hxb:")) + b"\r\n"
        stream = noise + (FRAMED if number % 2 else PAYLOAD + b"\r\n")
        cut = rng.randint(0, len(stream))
        found = splitter.feed(stream[:cut]) + splitter.feed(stream[cut:]) + splitter.silence()
        good += sum(isinstance(frame, Frame) and frame.payload == PAYLOAD for frame in found)
        sent += 1
    assert good == sent


NOISE = (b"+RCV=" + bytes(13), b"+RCV=1,9,", b"+RCV=x", b"+", b"+RC", bytes(700), b"\xaa" * 1_299 + b"+R", b"+RCV=1,300,")


@pytest.mark.parametrize("noise", NOISE)
def test_a_good_frame_right_behind_noise_is_heard_wherever_the_bytes_are_cut(noise: bytes) -> None:
    stream = noise + b"+RCV=1,%d,%s,-71,9\r\n" % (len(PAYLOAD), PAYLOAD)
    for cut in range(len(stream) + 1):
        splitter = FrameSplitter()
        found = splitter.feed(stream[:cut]) + splitter.feed(stream[cut:]) + splitter.silence()
        assert Frame(PAYLOAD, -71, 9) in found, cut
        assert not splitter.feed(b"") and not splitter._buffer
