r"""The grammar of `--camera`: what follows the word that names the kind. Pure, except that `~` is the home directory.

Names are separated by commas; a comma of a name is written as `\,` and a backslash as `\\`. In addresses a comma separates only
if an address follows it, and nothing else is changed. Options stand behind a question mark, as `?key=value&key=value`.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qsl

from device.camera import CameraError
from stream.host.home import expanded

_ADDRESS = r"(?:rtsps?|https?)"
NETWORK = re.compile(rf"(?P<scheme>{_ADDRESS})(?P<layout>-sbs|-tb)?://", re.IGNORECASE)
"""How a network camera begins."""
CLASS = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\?.*)?", re.DOTALL)
"""A class of one's own: package.module:Class, and perhaps options."""
_ONE = {
    "v4l2:0,2": ", or v4l2-sbs:0 or v4l2-tb:0 for one camera with both eyes",
    "video:LEFT,RIGHT": ", or sbs:FILE or tb:FILE for one video with both eyes",
}
_TOKEN = re.compile(r"\\[\\,]|,|[^\\,]+|\\")
_BETWEEN = re.compile(rf",(?={_ADDRESS}(?:-sbs|-tb)?://)", re.IGNORECASE)
_SECRETS = (
    (
        re.compile(r"(?<=://).*@", re.DOTALL),
        "***@",
    ),  # up to the last @, because people leave @ and / in passwords as they are
    (re.compile(r"\?.*", re.DOTALL), "?***"),
    (re.compile(r"((?:passw\w*|pwd|token|secret|key|auth)\w*=)[^/&#]+", re.IGNORECASE), r"\1***"),
)


def redacted(text: str) -> str:
    """Return the text of a `--camera` without user, password and query of its addresses or options, for logs and messages."""
    if "://" not in text and not ("=" in text and CLASS.fullmatch(text)):
        return text
    parts = _BETWEEN.split(text)
    for pattern, instead in _SECRETS:
        parts = [pattern.sub(instead, part) for part in parts]
    return ",".join(parts)


def files(form: str, text: str, *, one_will_do: bool = False) -> list[str]:
    """Return the names of files and devices in `text`; raises CameraError unless there are as many as in `form`.

    form: such as "dir:LEFT,RIGHT". Where it has one name, commas need no backslash. `~` is the home directory.
    one_will_do: whether one name is enough.
    """
    expected, given = (spec.partition(":")[2] for spec in (form, text))
    if not expected:
        return []
    names = [""]
    for token in _TOKEN.findall(given):
        if token == "," and "," in expected:
            names.append("")
        else:
            names[-1] += token[1:] if len(token) == 2 and token[0] == "\\" else token
    wanted = (1, len(expected.split(","))) if one_will_do else (len(expected.split(",")),)
    if not all(names) or len(names) not in wanted:
        hint = r" (a comma in a name is written \,)" if given.count(",") > expected.count(",") else _ONE.get(form, "")
        raise CameraError(f"{redacted(text)!r} does not name what to open: expected {form}{hint}")
    for name in names:
        if NETWORK.match(name):
            raise CameraError(
                f"{redacted(text)!r}: a network camera is named by its address alone: rtsp://LEFT,rtsp://RIGHT, or "
                "rtsp-sbs://ADDRESS for one with both eyes"
            )
    return [str(expanded(Path(name))) if name.startswith("~") else name for name in names]


def one_or_two_files(form: str, text: str) -> list[str]:
    """Return the two names in `text`, or the only one; raises CameraError for others. form: with two names."""
    return files(form, text, one_will_do=True)


def addresses(form: str, text: str) -> list[str]:
    """Return the addresses in `text`; raises CameraError unless there are as many as in `form`."""
    found = _BETWEEN.split(text)
    if len(found) != form.count(",") + 1:
        raise CameraError(
            f"{redacted(text)!r} has {len(found)} of the addresses in {form}: two for two cameras, or one as rtsp-sbs:// or "
            "rtsp-tb:// (http-sbs:// and so on) for a camera with both eyes"
        )
    return [NETWORK.sub(r"\g<scheme>://", address, count=1) for address in found]


def options(text: str) -> tuple[str, dict[str, str]]:
    """Return what stands before a question mark, and the options behind it. Raises CameraError if they cannot be read."""
    name, mark, query = text.partition("?")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if mark else []
    except ValueError:
        raise CameraError(f"{redacted(text)!r}: options are ?key=value&key=value") from None
    found = dict(pairs)
    if len(found) < len(pairs):
        raise CameraError(f"{redacted(text)!r}: an option stands there twice")
    return name, found
