"""The weights over HTTP: whole, asked for by ETag, whatever replaces them meanwhile; and the clients that the guide shows."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from http_client import get
from waiting import WAIT_S

from benchmarks.shared.machine import free_port
from learner.http import weights
from learner.http.access import Access
from learner.http.app import app_for
from learner.http.server import served
from stream.fsync import replace_file

GUIDE = (Path(__file__).parents[1] / "docs" / "weights.md").read_text()
TOKEN = "correct-horse-battery-staple"


@pytest.fixture(scope="module", params=[None, TOKEN], ids=["loopback", "token"])
def token(request: pytest.FixtureRequest) -> str | None:
    found: str | None = request.param
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, token: str | None) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def port(folder: Path, token: str | None) -> Iterator[int]:
    access = Access("127.0.0.1", free_port(), token)
    with served(app_for(access, weights.routes(folder)), access):
        yield access.port


@pytest.fixture
def credentials(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def tag_of(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()}"'


def test_a_file_comes_whole_with_the_hash_of_its_bytes_as_its_etag(
    folder: Path, port: int, credentials: dict[str, str]
) -> None:
    replace_file(folder / "student.json", b'{"steps": 3}\n')
    answer = get(port, "/weights/student.json", **credentials)
    assert (answer.status, answer.text) == (200, '{"steps": 3}\n')
    assert answer.headers["etag"] == tag_of(b'{"steps": 3}\n')
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-cache"


def test_the_list_of_files_is_read_by_people_and_by_programs(
    folder: Path, port: int, credentials: dict[str, str]
) -> None:
    replace_file(folder / "teacher.safetensors", b"x" * 20_000)
    replace_file(folder / "secret.txt", b"not served")
    seen = get(port, "/weights/", **credentials)
    assert seen.headers["content-type"].startswith("text/html")
    assert '<a href="teacher.safetensors">teacher.safetensors</a>, 20.0 kB, written 20' in seen.text
    assert "secret" not in seen.text
    listed = {
        each["name"]: each for each in json.loads(get(port, "/weights/", Accept="application/json", **credentials).text)
    }
    assert listed["teacher.safetensors"]["bytes"] == 20_000
    assert get(port, "/weights", **credentials).headers["location"].endswith("/weights/")


@pytest.mark.parametrize("known", ["{tag}", '"other", {tag}', "W/{tag}", "*"])
def test_who_has_it_already_gets_no_body_until_there_is_another(
    folder: Path, port: int, credentials: dict[str, str], known: str
) -> None:
    replace_file(folder / "student.md", b"old")
    asked = {**credentials, "If-None-Match": known.format(tag=tag_of(b"old"))}
    answer = get(port, "/weights/student.md", **asked)
    assert (answer.status, answer.text, answer.headers["etag"]) == (304, "", tag_of(b"old"))
    replace_file(folder / "student.md", b"new")
    assert get(port, "/weights/student.md", **asked).status == (304 if known == "*" else 200)
    assert get(port, "/weights/student.md", **credentials).headers["etag"] == tag_of(b"new")


def test_only_regular_files_of_the_folder_itself_are_served(
    tmp_path: Path, folder: Path, port: int, credentials: dict[str, str]
) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "folder.json").mkdir()
    replace_file(folder / "student.json", b"1")
    leading_out = {"out.json": tmp_path / "secret", "up.json": Path("../secret"), "dir.json": tmp_path / "folder.json"}
    leading_out |= {"none.json": tmp_path / "none", "self.json": folder / "self.json", "zero.json": Path("/dev/zero")}
    for name, target in leading_out.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe.json")
    (folder / "folder.json").mkdir()
    (folder / "latest.json").symlink_to("student.json")
    try:
        for name in (*leading_out, "pipe.json", "folder.json"):
            assert get(port, f"/weights/{name}", **credentials).status == 404, name
        assert get(port, "/weights/latest.json", **credentials).text == "1"
    finally:
        for name in (*leading_out, "pipe.json", "latest.json"):
            (folder / name).unlink()
        (folder / "folder.json").rmdir()


def test_head_tells_size_and_etag_alone(folder: Path, port: int, credentials: dict[str, str]) -> None:
    replace_file(folder / "student.onnx", b"12345")
    answer = get(port, "/weights/student.onnx", method="HEAD", **credentials)
    assert (answer.status, answer.text) == (200, "")
    assert (answer.headers["content-length"], answer.headers["etag"]) == ("5", tag_of(b"12345"))


def test_what_is_being_sent_stays_what_it_was_when_it_is_replaced(
    folder: Path, port: int, credentials: dict[str, str]
) -> None:
    """Larger than what the sockets' buffers take, so that most of it is read after the replacement."""
    old, new = os.urandom(32 << 20), os.urandom(1 << 20)
    path = folder / "teacher.safetensors"
    replace_file(path, old)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    connection.request("GET", "/weights/teacher.safetensors", headers=credentials)
    answer = connection.getresponse()
    begun = answer.read(1000)
    replace_file(path, new)
    assert begun + answer.read() == old
    assert answer.headers["ETag"] == tag_of(old)
    connection.close()
    assert get(port, "/weights/teacher.safetensors", method="HEAD", **credentials).headers["etag"] == tag_of(new)


@pytest.mark.parametrize(
    "name", ["../config.json", "..%2fconfig.json", ".student.safetensors", "student.txt", "nothing.onnx", "a" * 300]
)
def test_nothing_else_is_served_and_it_says_what_there_is(
    folder: Path, port: int, credentials: dict[str, str], name: str
) -> None:
    (folder.parent / "config.json").write_text("{}")
    (folder / ".student.safetensors").write_text("a draft")
    (folder / "student.txt").write_text("not weights")
    replace_file(folder / "student.json", b"{}")
    answer = get(port, f"/weights/{name}", **credentials)
    assert answer.status == 404
    if "/" not in name and "%2f" not in name:
        assert "there are: student.json" in answer.text


def test_where_there_is_a_token_it_is_needed(folder: Path, port: int, token: str | None) -> None:
    replace_file(folder / "student.json", b"{}")
    assert get(port, "/weights/student.json").status == (200 if token is None else 401)


@pytest.fixture
def fetch() -> Callable[..., str]:
    known: dict[str, Any] = {}
    exec(GUIDE.partition("```python\n")[2].partition("```")[0], known)
    found: Callable[..., str] = known["fetch"]
    return found


def test_the_guides_python_takes_what_is_new_and_nothing_else(
    folder: Path, port: int, token: str | None, tmp_path: Path, fetch: Callable[..., str]
) -> None:
    url, path = f"http://127.0.0.1:{port}/weights/student.safetensors", tmp_path / "student.safetensors"
    replace_file(folder / "student.safetensors", b"first")
    etag = fetch(url, str(path), token=token or "")
    assert (path.read_bytes(), etag) == (b"first", tag_of(b"first"))
    path.unlink()
    assert fetch(url, str(path), etag, token or "") == etag
    assert not path.exists(), "not sent again"
    replace_file(folder / "student.safetensors", b"second")
    assert fetch(url, str(path), etag, token or "") == tag_of(b"second")
    assert path.read_bytes() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["student.safetensors"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_guides_curl_takes_what_is_new_and_keeps_the_rest(
    folder: Path, port: int, token: str | None, tmp_path: Path
) -> None:
    command = GUIDE.partition("```sh\n")[2].partition("```")[0].replace(":9632", f":{port}").strip()
    header = re.search(r'--header "Authorization: Bearer \$TOKEN"', GUIDE)
    assert header
    if token is not None:
        command = command.replace("--silent", f"--silent {header[0]}")
    for content in (b"first", b"first", b"second"):
        replace_file(folder / "teacher.safetensors", content)
        subprocess.run(command, shell=True, check=True, cwd=tmp_path, env={**os.environ, "TOKEN": token or ""})
        assert (tmp_path / "teacher.safetensors").read_bytes() == content
        assert not (tmp_path / "teacher.part").exists()
