"""Key files: private, whole, bounded, never overwritten; and the commands a person types to exchange them."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from stream.cli.keys import COMMAND
from stream.host.program import Stop
from stream.transport.keys import (
    MAX_TRUSTED,
    KeysError,
    forget,
    keys_folder,
    make_keys,
    own_keys,
    parse_key,
    trust,
    trusted_keys,
)
from stream.transport.security import Security

KEY, OTHER_KEY = (zmq.curve_public(letter * 40).decode() for letter in (b"a", b"b"))
NOT_KEYS = ("", " ", KEY[:-1], KEY + "x", KEY[:-1] + '"', KEY[:-1] + "\n#", "#" * 40, "é" * 40, "0" * 39 + "\0")


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def refusal(text: str) -> str:
    """What a person would read: one line."""
    assert "\n" not in text
    return text


def test_keys_are_where_the_environment_says() -> None:
    assert keys_folder({"BABYAGENT_KEYS": "k", "XDG_CONFIG_HOME": "/x", "HOME": "/h"}) == Path("k")
    assert keys_folder({"XDG_CONFIG_HOME": "/x", "HOME": "/h"}) == Path("/x/babyagent/keys")
    assert keys_folder({"XDG_CONFIG_HOME": "x", "HOME": "/h"}) == Path("/h/.config/babyagent/keys")
    assert keys_folder({"HOME": "/h"}) == Path("/h/.config/babyagent/keys")
    with pytest.raises(KeysError, match="BABYAGENT_KEYS"):
        keys_folder({})


def test_new_keys_are_a_pair_and_private(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "keys"
    public = make_keys(folder)
    assert own_keys(folder)[0] == public == zmq.curve_public(own_keys(folder)[1].encode()).decode()
    assert (folder / "own.public").read_text() == f"{public}\n"
    assert public[0].isalnum()  # it can be typed after a command without looking like a flag
    assert (permissions(folder), permissions(folder / "own.secret")) == (0o700, 0o600)
    assert sorted(path.name for path in folder.iterdir()) == ["own.public", "own.secret"]


def test_a_secret_is_never_overwritten_and_its_public_copy_is_made_again(tmp_path: Path) -> None:
    public, secret = make_keys(tmp_path / "keys"), own_keys(tmp_path / "keys")[1]
    for wrong in (None, "", OTHER_KEY):
        copy = tmp_path / "keys" / "own.public"
        copy.unlink() if wrong is None else copy.write_text(wrong)
        assert make_keys(tmp_path / "keys") == public
        assert (own_keys(tmp_path / "keys")[1], copy.read_text()) == (secret, f"{public}\n")


def test_keys_that_are_there_are_only_read(tmp_path: Path) -> None:
    public = make_keys(tmp_path / "keys")
    written_ns = (tmp_path / "keys").stat().st_mtime_ns
    assert make_keys(tmp_path / "keys") == public
    assert (tmp_path / "keys").stat().st_mtime_ns == written_ns


def test_a_damaged_secret_is_said_and_kept(tmp_path: Path) -> None:
    make_keys(tmp_path / "keys")
    for text in NOT_KEYS:
        (tmp_path / "keys" / "own.secret").write_text(text)
        with pytest.raises(KeysError, match="does not hold a key") as caught:
            make_keys(tmp_path / "keys")
        refusal(str(caught.value))
        assert (tmp_path / "keys" / "own.secret").read_text() == text


def test_processes_that_make_keys_at_once_agree_on_one_pair(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from stream.transport.keys import make_keys\n"
        "print('ready', flush=True); sys.stdin.readline(); print(make_keys(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "k")]
    makers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    for maker in makers:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "ready\n"
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("go\n")
        maker.stdin.flush()
    printed = {maker.communicate()[0] for maker in makers}
    assert printed == {f"{own_keys(tmp_path / 'k')[0]}\n"}
    assert sorted(path.name for path in (tmp_path / "k").iterdir()) == ["own.public", "own.secret"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o602])
def test_a_secret_that_others_can_reach_is_refused_until_it_is_closed(tmp_path: Path, mode: int) -> None:
    make_keys(tmp_path / "keys")
    (tmp_path / "keys" / "own.secret").chmod(mode)
    with pytest.raises(KeysError, match=r"open to others.*chmod 600 .*own\.secret") as caught:
        Security.load(tmp_path / "keys")
    subprocess.run(shlex.split(refusal(str(caught.value)).split("`")[1]), check=True)
    Security.load(tmp_path / "keys")


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
@pytest.mark.parametrize("inside", ["", "trusted"])
def test_a_folder_where_others_can_put_keys_is_refused(tmp_path: Path, inside: str, mode: int) -> None:
    make_keys(tmp_path / "keys")
    trust(tmp_path / "keys", "baby", KEY)
    (tmp_path / "keys" / inside).chmod(mode)
    with pytest.raises(KeysError, match=r"written by others.*chmod 700") as caught:
        Security.load(tmp_path / "keys")
    refusal(str(caught.value))


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder or file, or a link itself, another user's."""
    try:
        os.chown(path, 12345, -1, follow_symlinks=False)
    except PermissionError:  # only root may give away; others become another user themselves
        monkeypatch.setattr(os, "geteuid", lambda: 12345)


@pytest.mark.parametrize("what", ["", "own.secret", "trusted"])
def test_keys_that_belong_to_another_user_are_refused(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_keys(tmp_path / "keys")
    trust(tmp_path / "keys", "baby", KEY)
    Security.load(tmp_path / "keys")
    give_away(tmp_path / "keys" / what, monkeypatch)
    with pytest.raises(KeysError, match=r"belongs to another user .*chown") as caught:
        Security.load(tmp_path / "keys")
    refusal(str(caught.value))


@pytest.mark.parametrize("linked", ["folder", "link"])
def test_trusted_keys_in_the_folder_or_behind_the_link_of_another_user_are_refused(
    tmp_path: Path, linked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_keys(tmp_path / "keys")
    trust(tmp_path / "other", "mallory", KEY)
    (tmp_path / "keys" / "trusted").symlink_to(tmp_path / "other" / "trusted")
    assert list(trusted_keys(tmp_path / "keys")) == ["mallory"]
    give_away(tmp_path / ("other" if linked == "folder" else "keys") / "trusted", monkeypatch)
    for refused in (lambda: trusted_keys(tmp_path / "keys"), lambda: trust(tmp_path / "keys", "eve", KEY)):
        with pytest.raises(KeysError, match="belongs to another user"):
            refused()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a single file to another user")
def test_a_trusted_file_of_another_user_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust(tmp_path, "baby", KEY)
    trust(tmp_path, "mallory", KEY)
    give_away(tmp_path / "trusted" / "mallory.public", monkeypatch)
    assert list(trusted_keys(tmp_path)) == ["baby"]
    assert "mallory.public belongs to another user" in caplog.text


def test_keys_that_are_not_there_are_asked_for_with_the_command_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match=f"python -m stream keys --keys {tmp_path}"):
        Security.load(tmp_path)
    with pytest.raises(KeysError, match="no keys"):
        Security.load(tmp_path / "none")


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "keys"):
        with pytest.raises(KeysError, match=r"cannot be made.*choose another one with --keys") as caught:
            make_keys(folder)
        refusal(str(caught.value))


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """As a process without rights: the superuser may write everywhere."""
    code = (
        "import os, sys; from pathlib import Path; from stream.transport.keys import KeysError, make_keys\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"
        "try: make_keys(Path(sys.argv[1]))\n"
        "except KeysError as error: print(error)"
    )
    (tmp_path / "k").mkdir(mode=0o500)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "k")], capture_output=True, text=True, check=True)
    assert "choose another" in refusal(done.stdout.rstrip("\n"))


def test_a_secret_shows_in_no_representation(tmp_path: Path) -> None:
    make_keys(tmp_path / "keys")
    assert own_keys(tmp_path / "keys")[1] not in repr(Security.load(tmp_path / "keys"))


def test_trusted_keys_come_back_by_name_until_they_are_forgotten(tmp_path: Path) -> None:
    assert trusted_keys(tmp_path / "keys") == {}
    trust(tmp_path / "keys", "baby", KEY)
    trust(tmp_path / "keys", "a-2.b_C", OTHER_KEY)
    trust(tmp_path / "keys", "baby", f" {KEY}\n")  # again, as it was pasted
    assert trusted_keys(tmp_path / "keys") == {"a-2.b_C": OTHER_KEY, "baby": KEY}
    forget(tmp_path / "keys", "baby")
    assert trusted_keys(tmp_path / "keys") == {"a-2.b_C": OTHER_KEY}
    with pytest.raises(KeysError, match="no key is trusted as baby"):
        forget(tmp_path / "keys", "baby")


def test_a_name_keeps_its_key_until_it_is_forgotten(tmp_path: Path) -> None:
    trust(tmp_path, "baby", KEY)
    with pytest.raises(KeysError, match="forget baby"):
        trust(tmp_path, "baby", OTHER_KEY)
    assert trusted_keys(tmp_path) == {"baby": KEY}


@pytest.mark.parametrize("name", ["", ".", "..", "../own", "a/b", "-a", ".a", "a" * 65, "a b", "a\n", "ä"])
def test_what_cannot_be_a_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeysError, match="cannot be a name") as caught:
        trust(tmp_path / "k", name, KEY)
    refusal(str(caught.value))
    with pytest.raises(KeysError, match="cannot be a name"):
        forget(tmp_path / "k", name)
    assert not (tmp_path / "k").exists()


@pytest.mark.parametrize("key", NOT_KEYS)
def test_what_is_no_key_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(KeysError, match="is not a key") as caught:
        trust(tmp_path / "k", "baby", key)
    refusal(str(caught.value))
    assert not (tmp_path / "k").exists()


def test_a_damaged_trusted_file_costs_itself_and_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trust(tmp_path, "baby", KEY)
    folder = tmp_path / "trusted"
    (folder / "cut.public").write_text(KEY[:20])
    (folder / "large.public").write_text(f"{KEY}\n" + 1000 * "\n")
    (folder / "a name.public").write_text(KEY)
    (folder / "open.public").write_text(KEY)
    (folder / "open.public").chmod(0o666)
    (folder / "gone.public").symlink_to(folder / "nowhere")
    (folder / "folder.public").mkdir()
    os.mkfifo(folder / "pipe.public", 0o600)  # reading it would wait for ever
    (folder / "notes.txt").write_text("no key, and none of our business")
    assert trusted_keys(tmp_path) == {"baby": KEY}
    assert [
        name for name in ("cut", "large", "a name", "open", "gone", "folder", "pipe") if name not in caplog.text
    ] == []
    assert "notes" not in caplog.text


def test_more_trusted_keys_than_can_be_held_are_refused(tmp_path: Path) -> None:
    trust(tmp_path, "baby", KEY)
    for number in range(MAX_TRUSTED - 1):
        (tmp_path / "trusted" / f"{number}.public").write_text(KEY)
    assert len(trusted_keys(tmp_path)) == MAX_TRUSTED
    with pytest.raises(KeysError, match="forget one"):
        trust(tmp_path, "one-more", KEY)
    trust(tmp_path, "baby", KEY)
    (tmp_path / "trusted" / "one-more.public").write_text(KEY)
    with pytest.raises(KeysError, match=f"{MAX_TRUSTED} are the most"):
        trusted_keys(tmp_path)


@given(st.binary(max_size=200) | st.text(max_size=60).map(lambda text: text.encode()))
def test_any_bytes_in_a_key_file_are_a_key_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("keys")
    make_keys(folder)
    (folder / "own.secret").write_bytes(content)
    try:
        _, secret = own_keys(folder)
    except KeysError as error:
        refusal(str(error))
        assert (folder / "own.secret").read_bytes() == content
    else:
        assert content.strip() == secret.encode()


@given(st.binary(min_size=32, max_size=32), st.sampled_from(["", " ", "\n", "\r\n"]))
def test_every_32_bytes_are_a_key_and_no_character_of_it_can_be_left_out(data: bytes, around: str) -> None:
    key = z85.encode(data).decode()
    assert parse_key(f"{around}{key}{around}") == key
    for at in (0, 20, 39):
        with pytest.raises(ValueError, match="Z85"):
            parse_key(key[:at] + key[at + 1 :])


def printed(words: list[str]) -> str:
    return COMMAND.execute(words, "python -m stream keys", Stop()).text


def typed(line: str) -> list[str]:
    """The words after `python -m stream keys`, as a shell takes a printed line apart."""
    command, words = line.split("-m stream keys ")
    assert command.split() == [".venv/bin/python"]
    echo = ["sh", "-c", f"printf '%s\\n' {words}"]
    return subprocess.run(echo, capture_output=True, text=True, check=True).stdout.splitlines()


def test_typing_what_is_printed_makes_two_machines_trust_each_other(tmp_path: Path) -> None:
    rig, learner = (["--keys", str(tmp_path / name)] for name in ("rig", "learner"))
    on_rig = printed(rig).splitlines()
    on_learner = printed([*typed(on_rig[-1]), *learner]).splitlines()
    printed([*typed(on_learner[-1]), *rig])
    assert list(trusted_keys(tmp_path / "rig").values()) == [make_keys(tmp_path / "learner")]
    assert list(trusted_keys(tmp_path / "learner").values()) == [make_keys(tmp_path / "rig")]
    assert printed(rig).splitlines() == on_rig  # the same keys, every time


def test_a_key_that_begins_with_a_dash_is_trusted_as_it_is_printed(tmp_path: Path) -> None:
    key = "-c.m=.ut/DVBnYp]nS<pwe0:AD]a/U9t=h7HFi)-"
    for at, name in enumerate(("before", "after")):
        folder = ["--keys", str(tmp_path / name)]
        words = ["trust", "old", key]
        printed([*words, *folder] if at else [words[0], *folder, *words[1:]])
        assert trusted_keys(tmp_path / name) == {"old": key}


def test_a_rig_is_invited_under_its_own_name(tmp_path: Path) -> None:
    assert " trust rig7 " in printed(["--keys", str(tmp_path), "--own-name", "rig7"])
    assert " trust rig7 " in printed(["trust", "learner", KEY, "--keys", str(tmp_path), "--own-name", "rig7"])
    assert " trust rig7 " in printed(["--keys", str(tmp_path)])  # it is remembered
    assert " trust rig8 " in printed(["--keys", str(tmp_path), "--own-name", "rig8"])
    with pytest.raises(KeysError, match="cannot be a name"):
        printed(["--keys", str(tmp_path), "--own-name", "-"])
    (tmp_path / "own.name").write_bytes(b"\xff" * 1000)
    with pytest.raises(KeysError, match="cannot be a name"):
        printed(["--keys", str(tmp_path)])


def test_a_remedy_names_the_folder_of_the_keys(tmp_path: Path) -> None:
    folder = tmp_path / "my keys"
    make_keys(folder)
    trust(folder, "rig", KEY)
    with pytest.raises(KeysError) as caught:
        trust(folder, "rig", OTHER_KEY)
    command = str(caught.value).split("`")[1]
    assert shlex.split(command)[-4:] == ["forget", "rig", "--keys", str(folder)]
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert "rig is forgotten" in done.stdout


def test_the_command_lists_and_forgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BABYAGENT_KEYS", str(tmp_path / "keys"))
    assert printed(["list"]) == "no key is trusted yet"
    printed(["trust", "baby", KEY])
    assert printed(["list"]) == f"baby {KEY}"
    assert "must be started again" in printed(["forget", "baby"])
    assert trusted_keys(tmp_path / "keys") == {}
    with pytest.raises(KeysError, match="cannot be a name"):
        printed(["trust", "../baby", KEY])
    with pytest.raises(SystemExit) as caught:
        printed(["burn"])
    assert caught.value.code == 2


def test_a_host_name_that_is_no_name_is_made_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for host, name in (("rig 1.local", "rig-1.local"), ("", "NAME"), ("..", "NAME"), ("x" * 80, "x" * 64)):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        assert printed(["--keys", str(tmp_path)]).split()[-2] == name
