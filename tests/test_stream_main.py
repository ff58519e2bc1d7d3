"""`python -m stream` as a person runs it: processes of their own, real rigs and learners over TCP, signals, exit codes."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from foreign import jpeg, json_mcap
from link_steps import all_received
from memory_shelf import MemoryShelf
from recorded import EPOCH, NEXT_EPOCH, START_NS, made, names, recorded, some
from stream_command import LOOPBACK, command, pairs_in, said
from waiting import WAIT_S, until

from device.spool.rules import SpoolLimits
from device.spool.spool import Spool
from stream.__main__ import PROGRAM
from stream.cli.record import consumer_name, record
from stream.cli.replay import replay
from stream.errors import ReportedError, StreamError
from stream.host.program import Stop
from stream.host.progress import Progress
from stream.identity_set import IdentitySet
from stream.live.publisher import Publisher
from stream.live.subscriber import Subscriber
from stream.pair import EncodedPair, Header
from stream.recording.receipts import Receipts
from stream.recording.source import RecordingSource
from stream.recording.writer import MAX_RIGS, RecordingWriter
from stream.source import Cursor, IteratorSource
from stream.transport.keys import make_keys, trust


def has(path: Path, count: int) -> bool:
    """Whether a recording that is being written has so many pairs; it writes what came every second."""
    return path.exists() and len(pairs_in(path)) >= count


def publish(publisher: Publisher, pairs: Sequence[EncodedPair]) -> None:
    """To whoever listens; at least one has to."""
    for pair in pairs:
        while not publisher.send(pair):
            pass


def rig(epoch: str = EPOCH, endpoint: str = LOOPBACK, *, device: str = "baby") -> Publisher:
    return Publisher(endpoint, device=device, epoch=epoch, on_full="wait", wait_s=1.0)


def test_a_stream_recorded_and_replayed_is_what_a_learner_got_live(tmp_path: Path) -> None:
    path = tmp_path / "walk.mcap"
    pairs = [made(seq, "lz4" if seq % 4 == 0 else "jpeg") for seq in range(200)]
    with (
        rig() as publisher,
        Subscriber([publisher.endpoint], end_on_bye=True) as learner,
        command("record", "--out", str(path), "--connect", publisher.endpoint, "--until-device-ends") as recorder,
    ):
        until(lambda: publisher.subscribers() == 2)
        publish(publisher, pairs)
        publisher.bye()
        live = all_received(learner)
        code, output = recorder.end()
    assert code == 0, recorder.said
    assert "200 pairs" in output
    assert live == pairs == pairs_in(path)
    with (
        command("replay", str(path), "--speed", "0", "--bind", LOOPBACK) as replayer,
        Subscriber([replayer.saying(r"at (tcp://\S+)")[1]], end_on_bye=True) as learner,
    ):
        assert all_received(learner) == live
        assert learner.stats().lost == 0
        code, output = replayer.end()
    assert code == 0
    assert output == "replayed 200 pairs, 200 of them to at least one subscriber\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_a_recording_well(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "walk.mcap"
    with rig() as publisher, command("record", "--out", str(path), "--connect", publisher.endpoint) as recorder:
        publish(publisher, some(30))
        until(lambda: has(path, 30))
        publish(publisher, [made(seq) for seq in range(30, 40)])
        until(lambda: has(path, 40))
        code, output = recorder.end(number)
    assert code == 0
    assert "40 pairs" in output
    assert pairs_in(path) == some(40)
    assert json.loads(said("info", str(path), "--json"))[0]["whole"]


def test_two_signals_in_a_row_leave_a_whole_file(tmp_path: Path) -> None:
    """`timeout 60 python -m stream record` sends two."""
    path = tmp_path / "walk.mcap"
    with rig() as publisher, command("record", "--out", str(path), "--connect", publisher.endpoint) as recorder:
        publish(publisher, some(20))
        until(lambda: has(path, 20))
        recorder.process.send_signal(signal.SIGTERM)
        code, _ = recorder.end(signal.SIGTERM)
    assert code == 0
    assert pairs_in(path) == some(20)
    assert json.loads(said("info", str(path), "--json"))[0]["whole"]


def test_a_recording_ends_after_its_duration(tmp_path: Path) -> None:
    path = tmp_path / "walk.mcap"
    words = ("record", "--out", str(path), "--duration", "0.5", "--connect", "tcp://127.0.0.1:9")
    assert said(*words) == "no pair was received, so there is no file; lost on the way: 0"
    with pytest.raises(SystemExit, match="2"):
        said("record", "--out", str(path), "--duration", "-1")


def test_a_host_that_nobody_knows_and_a_rig_that_does_not_answer_are_told(tmp_path: Path) -> None:
    connect = ("--connect", "tcp://no-such-host.invalid:5555", "--insecure")
    with command("record", "--out", str(tmp_path / "walk.mcap"), *connect) as recorder:
        recorder.saying(
            "the host no-such-host.invalid of .* is not known here .*: check its name, or use the rig's IP address"
        )
        recorder.saying("nobody answers at tcp://no-such-host.invalid:5555: start the rig")
        code, _ = recorder.end(signal.SIGINT)
    assert code == 0


def test_a_recording_of_another_tool_in_two_files_replays_as_one_device(tmp_path: Path) -> None:
    paths = [tmp_path / f"day_{number}.mcap" for number in range(2)]
    for number, path in enumerate(paths):
        at_ns = START_NS + number * 10**9
        path.write_bytes(json_mcap([(eye, at_ns, {"data": jpeg(number)}) for eye in ("left", "right")]))
    with (
        command("replay", *map(str, paths), "--speed", "0", "--bind", LOOPBACK) as replayer,
        Subscriber([replayer.saying(r"at (tcp://\S+)")[1]], end_on_bye=True) as learner,
    ):
        pairs = all_received(learner)
        assert replayer.end()[0] == 0
    assert [(pair.header.device, pair.left) for pair in pairs] == [("day_0", jpeg(0)), ("day_0", jpeg(1))]


def test_a_recording_without_a_pair_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "walk.mcap"
    with command("record", "--out", str(path), "--connect", "tcp://127.0.0.1:9") as recorder:
        recorder.saying("recording")
        code, output = recorder.end(signal.SIGINT)
    assert (code, output) == (0, "no pair was received, so there is no file; lost on the way: 0\n")
    assert list(tmp_path.iterdir()) == []


def test_a_rig_that_starts_again_goes_on_in_the_same_recording(tmp_path: Path) -> None:
    path = tmp_path / "walk.mcap"
    with rig() as publisher:
        endpoint = publisher.endpoint
        with command("record", "--out", str(path), "--connect", endpoint) as reader:
            publish(publisher, some(5))
            until(lambda: has(path, 5))
            publisher.close()
            with rig(NEXT_EPOCH, endpoint) as again:
                publish(again, some(7, epoch=NEXT_EPOCH))
                until(lambda: has(path, 12))
            code, _ = reader.end(signal.SIGINT)
    assert code == 0
    assert pairs_in(path) == some(5) + some(7, epoch=NEXT_EPOCH)


def test_a_recorder_that_is_killed_goes_on_in_another_file_without_a_loss_or_a_repetition(tmp_path: Path) -> None:
    """The rig has a spool: what was not acknowledged comes again, what was recorded is not recorded twice."""
    out = tmp_path / "walk.mcap"
    spool = Spool(tmp_path / "spool", SpoolLimits(64 << 20, free_floor_bytes=0), device="baby")
    with Publisher(LOOPBACK, device="baby", epoch=spool.epoch, shelf=spool) as publisher:
        words = ("record", "--out", str(out), "--connect", publisher.endpoint)

        def grow(first: int, last: int) -> None:
            for seq in range(first, last):
                pair = made(seq, epoch=spool.epoch)
                assert spool.append(pair)
                publisher.send(pair)

        for run_number in range(3):
            with command(*words) as recorder:
                recorder.saying("recording")
                grow(100 * run_number, 100 * run_number + 50)
                time.sleep(0.8 * run_number)
                recorder.process.kill()
            grow(100 * run_number + 50, 100 * run_number + 100)
        with command(*words) as recorder:
            until(lambda: spool.stats().backlog == 0)
            code, _ = recorder.end(signal.SIGINT)
    spool.close()
    assert code == 0
    files = sorted(tmp_path.glob("walk*.mcap"), key=lambda path: path.stat().st_mtime_ns)
    found = [pair for path in files for pair in pairs_in(path)]
    assert sorted(pair.header.seq for pair in found) == list(range(300))
    assert all(pair == made(pair.header.seq, epoch=spool.epoch) for pair in found)


def test_what_a_small_spool_evicts_while_no_recorder_runs_is_lost_in_the_recording_and_counted_once(
    tmp_path: Path,
) -> None:
    out, shelf = tmp_path / "walk.mcap", MemoryShelf()
    pairs = [made(seq) for seq in range(60)]
    with Publisher(LOOPBACK, device="baby", epoch=EPOCH, shelf=shelf) as publisher:
        words = ("record", "--out", str(out), "--connect", publisher.endpoint, "--json")
        shelf.append(pairs[:10])
        with command(*words) as recorder:
            until(lambda: shelf.held() == 0)
            recorder.process.kill()
        shelf.append(pairs[10:40])
        shelf.evict(30)
        for number in range(3):  # killed at once, ended well, and started once more
            with command(*words) as recorder:
                if number:
                    recorder.saying("recording tcp")
                    until(lambda: shelf.held() == 0)
                    code, output = recorder.end(signal.SIGINT)
                    assert (code, json.loads(output)["lost"]) == (0, 20), recorder.said
                else:
                    recorder.process.kill()
        shelf.begin(NEXT_EPOCH)  # a run of which the recorder never heard
        shelf.append(some(9, epoch=NEXT_EPOCH))
        shelf.evict(9)
        publisher.begin(NEXT_EPOCH, 9)
        shelf.append([made(9, epoch=NEXT_EPOCH)])
        with command(*words) as recorder:
            recorder.saying("recording tcp")
            until(lambda: shelf.held() == 0)
            code, output = recorder.end(signal.SIGINT)
        assert (code, json.loads(output)["lost"]) == (0, 29), recorder.said
    files = sorted(map(str, tmp_path.glob("walk*.mcap")))
    told = json.loads(said("info", *files, "--json"))
    assert [one["lost"] for one in told if one["lost"]] == [20, 9]
    assert [epoch["lost_ranges"] for one in told for epoch in one["epochs"] if epoch["lost"]] == [[[10, 30]], [[0, 9]]]
    assert [Path(one["file"]).name for one in told if not one["whole"]] == ["walk.mcap"]  # its recorder was killed
    assert "together: 21 different pairs, 29 lost" in said("info", *files)
    clean = tmp_path / "clean.mcap"
    [lossy] = [one["file"] for one in told if one["lost"] == 20]
    said("recover", lossy, str(clean))
    assert json.loads(said("info", str(clean), "--json"))[0]["lost"] == 20


def test_a_stop_while_the_earlier_files_are_read_records_nothing(tmp_path: Path) -> None:
    """Half of a cursor would count the other half as lost."""
    out, stop = recorded(tmp_path / "walk.mcap", some(5)), Stop()
    stop.set()
    with pytest.raises(InterruptedError, match="nothing was recorded"):
        PROGRAM.run(["record", "--out", str(out)], stop)
    assert list(tmp_path.iterdir()) == [out]


def test_a_recording_that_only_has_losses_to_tell_is_kept(tmp_path: Path) -> None:
    out, shelf = tmp_path / "walk.mcap", MemoryShelf()
    with Publisher(LOOPBACK, device="baby", epoch=EPOCH, shelf=shelf) as publisher:
        words = ("record", "--out", str(out), "--connect", publisher.endpoint, "--json", "--come-back")
        shelf.append(some(10))
        with command(*words) as recorder:
            until(lambda: shelf.held() == 0)
            assert recorder.end(signal.SIGINT)[0] == 0
        shelf.append([made(seq) for seq in range(10, 20)])
        shelf.evict(20)
        with command(*words) as recorder:
            until(lambda: shelf.consumers[consumer_name(out)].get(EPOCH) == 20)
            code, output = recorder.end(signal.SIGINT)
    second = tmp_path / "walk-2.mcap"
    assert (code, json.loads(output)["file"], json.loads(output)["lost"]) == (0, str(second), 10)
    assert "no pair, 10 lost" in said("info", str(second))
    assert pairs_in(second) == []


class Witness(IteratorSource):
    """A source that looks at the recording when pairs are acknowledged."""

    def __init__(self, pairs: Sequence[EncodedPair], path: Path) -> None:
        super().__init__(pairs)
        self.path = path
        self.acknowledged: list[tuple[int, int]] = []
        """How many were, and how many the file had."""

    def acknowledge(self, cursor: Cursor) -> None:
        self.acknowledged.append((cursor["given"], len(pairs_in(self.path))))


def test_pairs_are_acknowledged_when_they_are_durable_and_those_recorded_before_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "walk.mcap"
    before = IdentitySet()
    for pair in some(4):
        before.add(pair.header)
    source = Witness(some(200), path)
    ticks = iter(range(1000))
    with RecordingWriter(path) as writer:
        record(source, writer, before, Receipts(), stop=lambda: False, clock=lambda: next(ticks))
    assert pairs_in(path) == some(200)[4:]
    assert len(source.acknowledged) >= 3
    assert [given for given, durable in source.acknowledged if given > 4 + durable] == []
    assert source.acknowledged[-1] == (200, 196)


class Queue(IteratorSource):
    """A source in which pairs wait."""

    def __init__(self, waiting: list[EncodedPair]) -> None:
        super().__init__([])
        self.waiting = waiting

    def backlog(self) -> int:
        return len(self.waiting)

    def receive(self, limit: int, timeout_s: float) -> list[EncodedPair]:
        pairs, self.waiting = self.waiting[: min(limit, 7)], self.waiting[min(limit, 7) :]
        return pairs


def test_what_waits_when_it_is_to_stop_is_recorded_too(tmp_path: Path) -> None:
    path = tmp_path / "walk.mcap"
    with RecordingWriter(path) as writer:
        record(Queue(some(40)), writer, IdentitySet(), Receipts(), stop=lambda: True)
    assert pairs_in(path) == some(40)


class Flood(IteratorSource):
    """A source that remembers which of its pairs were lost."""

    def __init__(self, pairs: Sequence[EncodedPair]) -> None:
        super().__init__(pairs)
        self.lost: list[Header] = []

    def spoil(self, header: Header) -> None:
        self.lost.append(header)


def test_rigs_without_number_are_lost_and_those_before_them_are_recorded_to_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "walk.mcap"
    rigs = [made(0, device=f"rig{number}", shape=(4, 6, 3)) for number in range(MAX_RIGS)]
    more = made(0, device="more", shape=(4, 6, 3))
    source, recorded_pairs = Flood([*rigs, more, made(1, device="rig0")]), IdentitySet()
    with RecordingWriter(path) as writer:
        record(source, writer, recorded_pairs, Receipts(), stop=lambda: False)
    assert source.lost == [more.header]
    assert more.header not in recorded_pairs  # the summary counts it as lost too
    assert f"LOST pair={more.header.name}" in caplog.text
    assert f"walk.mcap has {MAX_RIGS} rigs, no file has more: begin another one" in caplog.text
    assert pairs_in(path) == [*rigs, made(1, device="rig0")]


def test_without_room_it_ends_with_one_line_and_what_was_acknowledged_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "walk.mcap"
    with (
        rig() as publisher,
        command("record", "--out", str(path), "--connect", publisher.endpoint, file_limit_bytes=100_000) as recorder,
    ):
        publish(publisher, [made(seq, shape=(48, 64, 3)) for seq in range(10)])
        until(lambda: has(path, 10))
        publish(publisher, [made(seq, shape=(48, 64, 3)) for seq in range(10, 40)])
        code, output = recorder.end()
    assert (code, output) == (1, "")
    [line] = [line for line in recorder.said if line.startswith("error")]
    assert "walk.mcap" in line
    pairs = pairs_in(path)
    assert 10 <= len(pairs) < 40
    assert f"{len(pairs)} pairs" in line
    assert pairs == [made(seq, shape=(48, 64, 3)) for seq in range(len(pairs))]


def test_the_name_by_which_spools_know_a_recording_is_bounded_and_its_own(tmp_path: Path) -> None:
    names_of = [consumer_name(tmp_path / name) for name in ("walk.mcap", "walk two.mcap", "x" * 200, "walk.mcap")]
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) for name in names_of)
    assert names_of[0] == names_of[3]
    assert len(set(names_of)) == 3


def test_a_recording_of_two_runs_replays_them_and_holes_are_lost_pairs(tmp_path: Path) -> None:
    first = [pair for pair in some(40)[2:] if pair.header.seq not in (5, 6, 30)]
    pairs = first + [pair for pair in some(40, epoch=NEXT_EPOCH)[5:] if pair.header.seq != 20]
    path = recorded(tmp_path / "walk.mcap", pairs)
    with (
        command("replay", str(path), "--speed", "0", "--bind", LOOPBACK) as replayer,
        Subscriber([replayer.saying(r"at (tcp://\S+)")[1]], end_on_bye=True) as learner,
    ):
        assert all_received(learner) == pairs
        assert learner.stats().pending == 0
        assert replayer.end()[0] == 0


def test_a_learner_is_told_when_another_run_begins() -> None:
    """Without that it would wait for what is missing there, as if the rig had a spool."""
    with (
        Publisher(LOOPBACK, device="baby", epoch=EPOCH, on_full="wait", wait_s=WAIT_S) as publisher,
        Subscriber([publisher.endpoint]) as learner,
    ):
        publish(publisher, some(3))
        publisher.begin(NEXT_EPOCH, 0)
        publish(publisher, [made(seq, epoch=NEXT_EPOCH) for seq in (0, 1, 4)])
        until(lambda: learner.stats().received == 6)
        until(lambda: learner.stats().lost == 2)


class ToldPublisher(Publisher):
    """Remembers which runs it began."""

    def begin(self, epoch: str, seq: int) -> None:
        self.begun = epoch
        super().begin(epoch, seq)


def test_a_replay_starts_each_run_over() -> None:
    with ToldPublisher(LOOPBACK, device="baby", epoch=EPOCH) as publisher, Progress() as progress:
        pairs = [*some(3), *some(2, epoch=NEXT_EPOCH)]
        assert replay(pairs, publisher, lossless=False, stop=Stop(), progress=progress) == 5
        assert publisher.begun == NEXT_EPOCH


def test_at_the_rigs_pace_it_publishes_to_whoever_listens(tmp_path: Path) -> None:
    """As live streams do it drops what a learner is too slow for, and the learner counts that."""
    path = recorded(tmp_path / "walk.mcap", [made(seq, step_ns=20_000_000) for seq in range(400)])
    with (
        command("replay", str(path), "--speed", "4", "--bind", LOOPBACK) as replayer,
        Subscriber([replayer.saying(r"at (tcp://\S+)")[1]], end_on_bye=True) as learner,
    ):
        seqs = [pair.header.seq for pair in all_received(learner)]
        lost = learner.stats().lost
        code, output = replayer.end()
    assert code == 0
    assert seqs == sorted(set(seqs))
    assert 400 - seqs[0] <= len(seqs) + lost <= 400
    assert output.startswith("replayed 400 pairs, ")


def test_with_keys_a_replay_is_recorded_by_whom_it_trusts(tmp_path: Path) -> None:
    path, copy = recorded(tmp_path / "walk.mcap", some(20)), tmp_path / "copy.mcap"
    folders = [tmp_path / "rig", tmp_path / "learner"]
    keys = [make_keys(folder) for folder in folders]
    for folder, key in zip(folders, reversed(keys), strict=True):
        trust(folder, "other", key)
    with command("replay", str(path), "--speed", "0", "--bind", LOOPBACK, "--keys", str(folders[0])) as replayer:
        words = ("record", "--out", str(copy), "--until-device-ends", "--keys", str(folders[1]))
        with command(*words, "--connect", replayer.saying(r"at (tcp://\S+)")[1]) as recorder:
            assert recorder.end()[0] == 0, recorder.said
        assert replayer.end()[0] == 0
    assert pairs_in(copy) == some(20)


def test_ctrl_c_while_a_replay_waits_for_a_learner_ends_it(tmp_path: Path) -> None:
    path = recorded(tmp_path / "walk.mcap", some(3))
    with command("replay", str(path), "--speed", "0", "--bind", LOOPBACK) as replayer:
        replayer.saying(r"at (tcp://\S+)")
        code, output = replayer.end(signal.SIGINT)
    assert (code, output) == (0, "replayed 0 pairs, 0 of them to at least one subscriber\n")


def test_with_json_each_ends_with_one_line_for_a_program(tmp_path: Path) -> None:
    path, again, clean = (tmp_path / name for name in ("walk.mcap", "again.mcap", "clean.mcap"))
    recorded(path, some(12))
    with command("replay", str(path), "--speed", "0", "--bind", LOOPBACK, "--json") as replayer:
        words = ("--out", str(again), "--until-device-ends", "--json")
        told = json.loads(said("record", "--connect", replayer.saying(r"at (tcp://\S+)")[1], *words))
        assert told == {"file": str(again), "pairs": 12, "file_bytes": again.stat().st_size, "lost": 0}
        code, output = replayer.end()
    assert (code, json.loads(output)) == (0, {"replayed": 12, "sent": 12})
    told = json.loads(said("recover", str(again), str(clean), "--json"))
    assert told == {"file": str(clean), "pairs": 12, "file_bytes": clean.stat().st_size}


@pytest.mark.parametrize(
    "words",
    [
        ("sing",),
        ("info",),
        ("info", "NOWHERE.mcap"),
        ("replay",),
        ("replay", "NOWHERE.mcap"),
        ("record", "--out", "NOWHERE/walk.mcap"),
        ("record", "--out", "walk.mcap", "--connect", "nonsense"),
        ("record", "--out", "walk.mcap", "--connect", "tcp://192.0.2.1:5555"),
        ("recover", "NOWHERE.mcap", "out.mcap"),
    ],
)
def test_a_wrong_setting_is_one_line(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BABYAGENT_KEYS", str(tmp_path / "keys"))
    with pytest.raises((ReportedError, ValueError)) as caught:
        said(*words)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_exit_codes_tell_wrong_settings_from_what_failed_on_the_way(tmp_path: Path) -> None:
    empty = tmp_path / "empty.mcap"
    empty.write_bytes(b"")
    for words, expected in ((["info", "NOWHERE.mcap"], 2), (["recover", str(empty), str(tmp_path / "out.mcap")], 1)):
        with command(*words) as reader:
            code, output = reader.end()
        assert (code, output) == (expected, "")
        assert "".join(reader.said).splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("number", "code"),
    [
        *((number, 1) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE)),
        *((number, 2) for number in (errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENAMETOOLONG)),
    ],
)
def test_a_recording_that_cannot_begin_fails_on_the_way_unless_its_name_is_wrong(
    number: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> RecordingWriter:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("stream.cli.record.RecordingWriter", refuse)
    with pytest.raises(StreamError, match=r"walk\.mcap: .*: choose another --out$") as caught:
        said("record", "--out", str(tmp_path / "walk.mcap"), "--connect", "tcp://127.0.0.1:9")
    assert caught.value.exit_code == code


@pytest.mark.parametrize("name", PROGRAM.commands)
def test_help_teaches_by_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        said(name, "--help")
    assert ended.value.code == 0
    assert f"-m stream {name} " in capsys.readouterr().out
    assert f"python -m stream {name}" in said("--help")


def test_the_keys_command_is_one_of_them(tmp_path: Path) -> None:
    assert ".venv/bin/python -m stream keys trust" in said("keys", "--keys", str(tmp_path / "keys"))


def test_recorded_pairs_are_a_source_like_any_other(tmp_path: Path) -> None:
    path = recorded(tmp_path / "walk.mcap", some(5))
    source = RecordingSource([path])
    assert names(source.receive(5, 0.0)) == [("baby", EPOCH, seq) for seq in range(5)]
