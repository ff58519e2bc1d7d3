"""`python -m stream` with recordings: what they hold, which rig is replayed, and what is recovered of a cut one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from link_steps import all_received
from recorded import EPOCH, NEXT_EPOCH, made, recorded, some
from stream_command import LOOPBACK, command, pairs_in, said

from stream.__main__ import PROGRAM
from stream.errors import StreamError
from stream.host.program import Stop
from stream.live.subscriber import Subscriber


def test_of_several_rigs_the_one_to_replay_is_chosen(tmp_path: Path) -> None:
    both = [pair for seq in range(9) for pair in (made(seq), made(seq, device="toddler"))]
    path = str(recorded(tmp_path / "walk.mcap", both))
    with (
        command("replay", path, "--speed", "0", "--bind", LOOPBACK, "--device", "toddler") as replayer,
        Subscriber([replayer.saying(r"at (tcp://\S+)")[1]], end_on_bye=True) as learner,
    ):
        assert all_received(learner) == some(9, device="toddler")
        assert replayer.end()[0] == 0
    with pytest.raises(StreamError, match="--device baby"):
        said("replay", path, "--speed", "1000", "--bind", LOOPBACK)
    with pytest.raises(StreamError, match="no pair of nobody"):
        said("replay", path, "--device", "nobody", "--bind", LOOPBACK)


def test_info_tells_what_a_recording_holds(tmp_path: Path) -> None:
    pairs = [pair for pair in some(12) if pair.header.seq != 5] + some(3, "lz4", device="toddler", epoch=NEXT_EPOCH)
    path = recorded(tmp_path / "walk.mcap", pairs)
    [told] = json.loads(said("info", str(path), "--json"))
    assert (told["pairs"], told["whole"], told["cut"], told["skipped"]) == (14, True, False, 0)
    assert told["file_bytes"] == path.stat().st_size
    assert told["image_bytes"] == sum(len(pair.left) + len(pair.right) for pair in pairs)
    baby, toddler = told["epochs"]
    assert (baby["device"], baby["epoch"], baby["pairs"]) == ("baby", EPOCH, 11)
    assert (baby["first_seq"], baby["last_seq"], baby["missing"]) == (0, 11, 1)
    assert baby["seconds"] == pytest.approx(1.1)
    assert baby["kinds"] == {"jpeg 32x24 colour": 11}
    assert toddler["kinds"] == {"lz4 32x24 colour": 3}
    text = said("info", str(path), str(path))
    assert text.count("14 pairs") == 2
    assert "1 missing" in text
    assert "2023-11-14 22:13:20 UTC" in text
    assert "whole" in text


@pytest.mark.parametrize("name", ["info", "replay"])
@pytest.mark.parametrize(
    "flags", [("--left", "/eye"), ("--sbs", "/both"), ("--tolerance-ms", "5"), ("--levels", "0", "9")]
)
def test_flags_for_recordings_of_other_tools_are_refused_for_ours(
    name: str, flags: tuple[str, ...], tmp_path: Path
) -> None:
    path = recorded(tmp_path / "walk.mcap", some(3))
    with pytest.raises(StreamError, match=r"walk\.mcap: it was recorded by this project .* leave out --left"):
        said(name, str(path), *flags)


def test_a_cut_recording_is_told_and_recovered_into_a_whole_one(tmp_path: Path) -> None:
    whole = recorded(tmp_path / "walk.mcap", [made(seq, shape=(160, 200, 3)) for seq in range(60)])
    cut, out = tmp_path / "cut.mcap", tmp_path / "out.mcap"
    cut.write_bytes(whole.read_bytes()[:-1_000_000])
    assert "not whole: its end is missing" in said("info", str(cut))
    pairs = pairs_in(cut)
    assert 20 <= len(pairs) < 60
    assert f"{len(pairs)} pairs" in said("recover", str(cut), str(out))
    assert pairs_in(out) == pairs
    assert said("info", str(out)).endswith("  whole")


def test_recover_writes_over_nothing_and_says_where_there_is_nothing_to_recover(tmp_path: Path) -> None:
    whole = recorded(tmp_path / "walk.mcap", some(3))
    empty, out = tmp_path / "empty.mcap", tmp_path / "out.mcap"
    with pytest.raises(StreamError, match=r"walk\.mcap: File exists"):
        said("recover", str(whole), str(whole))
    assert pairs_in(whole) == some(3)
    empty.write_bytes(whole.read_bytes()[:100])
    with pytest.raises(OSError, match="no pair can be read"):
        said("recover", str(empty), str(out))
    assert not out.exists()


def test_a_stop_leaves_no_half_recovered_file(tmp_path: Path) -> None:
    whole = recorded(tmp_path / "walk.mcap", some(3))
    stop = Stop()
    stop.set()
    with pytest.raises(InterruptedError):
        PROGRAM.run(["recover", str(whole), str(tmp_path / "out.mcap")], stop)
    assert list(tmp_path.iterdir()) == [whole]
