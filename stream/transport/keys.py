"""The keys of a machine, as files in one folder: its own pair, and the public keys it trusts, by name.

    own.secret              0600 in a folder of 0700; written once, never overwritten; refused if others can read it
    own.public              a copy for people; the programs compute it from the secret
    own.name                the name under which other machines are told to trust it; only where one was given
    trusted/NAME.public     consumers that a rig here lets in, and rigs that a consumer here calls

Folders and files belong to the user of the process, or to root. Each file holds one Z85 key of Curve25519 (40 characters, RFC 32
of ZeroMQ) in one line. Files appear whole or not at all.
"""

from __future__ import annotations

import logging
import os
import struct
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import zmq
from zmq.utils import z85

from stream.errors import StreamError, reported_as
from stream.fsync import sync_path
from stream.host.home import expanded
from stream.host.typed import here
from stream.pair import NAME

log = logging.getLogger(__name__)

MAX_TRUSTED = 1024
MAX_FILE_BYTES = 128
"""A key and its line end take 41 bytes."""
_OTHERS_READ_OR_WRITE = 0o077
_OTHERS_WRITE = 0o022


class KeysError(StreamError):
    """Keys that are missing, damaged, open to others or cannot be written. The message says in one line what to do."""


def keys_folder(environ: Mapping[str, str]) -> Path:
    """Return the default folder of the keys: $BABYAGENT_KEYS, or babyagent/keys in the user's configuration."""
    if environ.get("BABYAGENT_KEYS"):
        return expanded(Path(environ["BABYAGENT_KEYS"]))
    if environ.get("XDG_CONFIG_HOME", "").startswith("/"):  # the XDG specification says to ignore a relative path
        return Path(environ["XDG_CONFIG_HOME"], "babyagent", "keys")
    if not environ.get("HOME"):
        raise KeysError("there is no $HOME to look for keys in: set BABYAGENT_KEYS to their folder")
    return Path(environ["HOME"], ".config", "babyagent", "keys")


def parse_key(text: str) -> str:
    """Return the Z85 key in a line. Raises ValueError for anything else."""
    key = text.strip()
    with suppress(KeyError, ValueError, struct.error):
        if len(z85.decode(key)) == 32:
            return key
    raise ValueError("expected the 40 characters of a Z85 key")


def make_keys(folder: Path) -> str:
    """Make this machine's own keys if there are none yet; return the public key. Raises KeysError."""
    _make_folder(folder)
    if not os.access(folder / "own.secret", os.F_OK):
        _write_key(folder / "own.secret", _new_secret(), 0o600, replace=False)
    public, _ = own_keys(folder)
    with suppress(KeysError):
        if _read_key(folder / "own.public", _OTHERS_WRITE) == public:
            return public
    _write_key(folder / "own.public", public, 0o644, replace=True)
    return public


def own_name(folder: Path, given: str | None = None) -> str | None:
    """Note the name that was given for this machine, and return it; without one, return the name noted before, if any.

    The folder must be there. Raises KeysError.
    """
    path = folder / "own.name"
    if given is not None:
        _write_key(path, check_name(given), 0o644, replace=True)
        return given
    if not path.is_file():
        return None
    with reported_as(KeysError, f"{path} cannot be read"), path.open("rb") as file:
        return check_name(file.read(MAX_FILE_BYTES).decode("ascii", "replace").strip())


def own_keys(folder: Path) -> tuple[str, str]:
    """Return the public and the secret key of this machine. Raises KeysError if they are missing or the secret is open."""
    if not os.access(folder / "own.secret", os.R_OK):
        raise KeysError(f"no keys can be read in {folder}: `{here('stream', 'keys', keys=folder)}` makes them")
    _check_folder(folder)
    secret = _read_key(folder / "own.secret", _OTHERS_READ_OR_WRITE)
    return zmq.curve_public(secret.encode()).decode(), secret


def trusted_keys(folder: Path) -> dict[str, str]:
    """Return the public keys by name, in the order of names; a damaged file is left out and logged.

    Raises KeysError if others could have changed them, or there are more than MAX_TRUSTED.
    """
    trusted = folder / "trusted"
    if not os.access(trusted, os.F_OK):
        return {}
    _check_folder(folder)
    _check_folder(trusted)
    with reported_as(KeysError, f"{trusted} cannot be read"):
        paths = sorted(path for path in trusted.iterdir() if path.suffix == ".public")
    if len(paths) > MAX_TRUSTED:
        raise KeysError(f"{trusted} holds {len(paths)} keys: {MAX_TRUSTED} are the most")
    keys = {}
    for path in paths:
        try:
            keys[check_name(path.stem)] = _read_key(path, _OTHERS_WRITE)
        except KeysError as error:
            log.warning("a trusted key is left out: %s", error)
    return keys


def trust(folder: Path, name: str, key: str) -> None:
    """Trust a public key under a name. Raises KeysError if it is no key, or if the name already has another key."""
    path = folder / "trusted" / f"{check_name(name)}.public"
    try:
        key = parse_key(key)
    except ValueError as error:
        raise KeysError(f"{key!r} is not a key ({error}): copy it whole, in single quotes") from error
    _make_folder(folder)
    _make_folder(folder / "trusted")
    known = trusted_keys(folder)
    if known.get(name, key) != key:
        command = here("stream", "keys", "forget", name, keys=folder)
        raise KeysError(f"{name} is trusted with another key: `{command}` first")
    if len(known) >= MAX_TRUSTED and name not in known:
        raise KeysError(f"{MAX_TRUSTED} keys are trusted, which is the most: forget one first")
    _write_key(path, key, 0o644, replace=True)


def forget(folder: Path, name: str) -> None:
    """Stop trusting a name. Raises KeysError if it is not trusted."""
    path = folder / "trusted" / f"{check_name(name)}.public"
    if not os.access(path, os.F_OK):
        raise KeysError(
            f"no key is trusted as {name}: `{here('stream', 'keys', 'list', keys=folder)}` shows the trusted ones"
        )
    with reported_as(KeysError, f"{path} cannot be removed"):
        path.unlink()
        sync_path(path.parent)


def check_name(name: str) -> str:
    """Return the name, of a device or a consumer. Raises KeysError if it cannot be one."""
    if not NAME.fullmatch(name):
        raise KeysError(f"{name!r} cannot be a name: expected 1 to 64 of A-Z a-z 0-9 . _ -, a letter or digit first")
    return name


def _new_secret() -> str:
    """Return a secret whose public key can be typed after a command: it does not begin like a flag or a comment."""
    while True:
        public, secret = (key.decode() for key in zmq.curve_keypair())
        if public[0].isalnum():
            return secret


def _read_key(path: Path, forbidden_mode: int) -> str:
    """Read a key from a file, which is bounded and, by the mode of the opened file, not open to others."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # non-blocking: opening a pipe of this name would wait
    with reported_as(KeysError, f"{path} cannot be read"), os.fdopen(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        text = file.read(MAX_FILE_BYTES + 1)
    _check_owner(path, status)
    if status.st_mode & forbidden_mode:
        right = "600" if forbidden_mode == _OTHERS_READ_OR_WRITE else "644"
        raise KeysError(f"{path} is open to others: type `chmod {right} {path}`, or make new keys if they saw it")
    with suppress(ValueError):
        if len(text) <= MAX_FILE_BYTES:
            return parse_key(text.decode("ascii"))
    raise KeysError(f"{path} does not hold a key of 40 characters: put it back from a copy, or remove it")


def _check_folder(folder: Path) -> None:
    """Check that others cannot put keys of their own into a folder."""
    with reported_as(KeysError, f"{folder} cannot be read"):
        status, link = folder.stat(), folder.lstat()
    _check_owner(folder, link)  # whoever owns a link decides where it leads
    _check_owner(folder, status)
    if status.st_mode & _OTHERS_WRITE:
        raise KeysError(f"{folder} can be written by others: type `chmod 700 {folder}`, then look through its keys")


def _check_owner(path: Path, status: os.stat_result) -> None:
    """Check that a folder or file belongs to this user, or to root, who can change everything anyway."""
    if status.st_uid not in (0, os.geteuid()):
        raise KeysError(
            f"{path} belongs to another user (number {status.st_uid}), who can change it: run as that user, or make it "
            "your own with chown and look through its keys"
        )


def _make_folder(folder: Path) -> None:
    with reported_as(KeysError, f"{folder} cannot be made", ": choose another one with --keys"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_folder(folder)


def _write_key(path: Path, key: str, mode: int, *, replace: bool) -> None:
    """Write a key file that is complete from its first moment. Without `replace` an existing file stays."""
    with reported_as(KeysError, f"{path} cannot be written", ": choose another folder with --keys"):
        descriptor, draft = tempfile.mkstemp(prefix=".", suffix=".new", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                os.fchmod(file.fileno(), mode)
                file.write(f"{key}\n")
                file.flush()
                os.fsync(file.fileno())
            if replace:
                Path(draft).replace(path)
            else:
                with suppress(FileExistsError):  # another process has made keys first; they are valid
                    path.hardlink_to(draft)
        finally:
            Path(draft).unlink(missing_ok=True)
        sync_path(path.parent)
