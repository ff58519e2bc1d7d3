"""A learner corrects the rows of recordings, which no rig has corrected; pairs keep their identities and times."""

from __future__ import annotations

from pathlib import Path

import pytest
from painted_cameras import PaintedCameras, cameras, speckles
from recorded import EPOCH, START_NS, made, names, recorded
from test_stream_calibration import pose
from test_stream_rows import two_depths

from learner.cli.doctor import examine
from learner.cli.sources import source_opener
from learner.cli.train import COMMAND
from learner.errors import SettingsError
from stream.calibration.align import Shift
from stream.calibration.file import write_calibration
from stream.calibration.rows import matched_rows, row_offset
from stream.calibration.source import AlignedSource, aligned_pair
from stream.calibration.stereo import CalibrationError
from stream.codec import decode, encode_pair
from stream.image import Image
from stream.pair import EncodedPair, Header
from stream.source import IteratorSource, Source


def encoded(seq: int, left: Image, right: Image) -> EncodedPair:
    at_ns = START_NS + seq
    return encode_pair(
        left, right, device="baby", epoch=EPOCH, seq=seq, left_ns=at_ns, right_ns=at_ns + 7, suppressed=3, quality=99
    )


def offset_of(pairs: list[EncodedPair]) -> float:
    found = [decode(pair) for pair in pairs]
    offset = row_offset([matched_rows(pair.left, pair.right) for pair in found], found[0].left.shape[0])
    assert offset is not None
    return offset.px


def opened(*words: str) -> Source:
    return source_opener(COMMAND.parse(words).process)("learner", None)


def test_the_pairs_of_a_recording_are_shifted_and_keep_identity_and_times(tmp_path: Path) -> None:
    pairs = [encoded(seq, *two_depths(11, seq)) for seq in range(3)]
    path = recorded(tmp_path / "walk.mcap", pairs)
    source = opened("--replay", str(path), "--row-shift-px", "11")
    given = source.receive(9, 0.0)
    assert offset_of(given) == pytest.approx(0, abs=0.5)
    assert names(given) == names(pairs)
    for ours, theirs in zip(given, pairs, strict=True):
        one, other = ours.header, theirs.header
        assert (one.left_ns, one.right_ns, one.suppressed) == (other.left_ns, other.right_ns, other.suppressed)
        assert one.height == other.height - 11
    assert source.backlog() == 0
    assert source.stats() is None
    source.acknowledge(source.cursor())
    source.close()
    again = source_opener(COMMAND.parse(("--replay", str(path), "--row-shift-px", "11")).process)
    assert not again("learner", source.cursor())._source._look_ahead()  # type: ignore[attr-defined]


def test_the_pairs_of_a_recording_are_rectified(tmp_path: Path) -> None:
    painted = PaintedCameras(cameras())
    path = recorded(tmp_path / "walk.mcap", [encoded(0, *painted.see(speckles(), 4.0, *pose(5, 0, 0)))])
    write_calibration(tmp_path / "rig.json", painted.calibration, {})
    assert abs(offset_of(opened("--replay", str(path), "--rectify", str(tmp_path / "rig.json")).receive(1, 0.0))) < 0.5


class Spoiled(IteratorSource):
    """Remembers what was spoiled."""

    def __init__(self, pairs: list[EncodedPair]) -> None:
        super().__init__(pairs)
        self.spoiled: list[int] = []

    def spoil(self, header: Header) -> None:
        self.spoiled.append(header.seq)


def test_what_does_not_fit_ends_it_at_the_start_and_is_left_out_and_told_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fits, small = encoded(0, *two_depths(3)), made(1, shape=(2, 8))
    source = Spoiled([fits, small, made(2)])
    aligned = AlignedSource(source, Shift(3))
    assert names(aligned.receive(9, 0.0)) == names([fits, made(2)])
    assert source.spoiled == [1]
    assert f"baby/{EPOCH[:8]}/1 is left out: a shift of 3 rows leaves nothing" in caplog.text
    with pytest.raises(CalibrationError, match="leaves nothing"):
        AlignedSource(Spoiled([small]), Shift(3)).receive(1, 0.0)
    torn = EncodedPair(fits.header, fits.left[:-9], fits.right)
    assert aligned_pair(torn, Shift(3)) is torn, "whoever trains on it counts it"
    assert aligned_pair(fits, Shift(0)) is fits


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--row-shift-px", "3"), "for --replay: a rig has these flags itself"),
        (("--replay", "x.mcap", "--row-shift-px", "3", "--rectify", "a"), "give one of them"),
    ],
)
def test_a_live_stream_is_corrected_by_its_rig(words: tuple[str, ...], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        opened(*words)


def test_the_learners_doctor_compares_rows_of_a_recording(tmp_path: Path) -> None:
    path = recorded(tmp_path / "walk.mcap", [encoded(seq, *two_depths(11, seq)) for seq in range(2)])
    words = ["--replay", str(path), "--run-dir", str(tmp_path / "run"), "--http-port", "0"]
    (found,) = [finding for finding in examine(COMMAND.parse(words)) if finding.what == "rows"]
    assert found.level == "warning"
    assert "--row-shift-px 11 corrects it" in found.text
    words += ["--row-shift-px", "11"]
    (found,) = [finding for finding in examine(COMMAND.parse(words)) if finding.what == "rows"]
    assert found.level == "ok"
    assert "in the same row" in found.text
