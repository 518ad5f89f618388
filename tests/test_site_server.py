"""The server of the built site answers as a public host would."""

from __future__ import annotations

import gzip
import http.client
import socket
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from site_server import accepts_gzip, serve

PAGE = b"<p>a page, and a page, and a page, and a page, and a page</p>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A built site of two pages beside a file that is not for everybody."""
    site = tmp_path / "site"
    (site / "lesson").mkdir(parents=True)
    (site / "empty").mkdir()
    (site / "index.html").write_bytes(b"<p>home</p>")
    (site / "lesson/index.html").write_bytes(PAGE)
    (site / "404.html").write_bytes(b"<p>no such page</p>")
    (tmp_path / "secret.html").write_bytes(b"secret")
    return site


@pytest.fixture
def origin(folder: Path) -> Iterator[str]:
    with serve(folder) as address:
        yield address


def connect(origin: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(origin).netloc, timeout=10)


def ask(origin: str, path: str, **headers: str) -> tuple[HTTPResponse, bytes]:
    connection = connect(origin)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET", path, headers=names)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def test_a_folder_is_its_page(origin: str) -> None:
    assert ask(origin, "/")[1] == b"<p>home</p>"
    answer, body = ask(origin, "/lesson/?from=here")
    assert (answer.status, body) == (200, PAGE)


def test_a_folder_without_its_slash_leads_to_the_one_with_it(origin: str) -> None:
    for path, location in (
        ("/lesson", "/lesson/"),
        ("/lesson?q=1", "/lesson/?q=1"),
        ("//lesson", "/lesson/"),
    ):
        answer, body = ask(origin, path)
        assert (answer.status, answer.headers["Location"], body) == (301, location, b"")


@pytest.mark.parametrize(
    "path",
    ["/nowhere", "/nowhere/", "/empty/", "/index.html/", "/../secret.html", "/%2e%2e/secret.html"],
)
def test_what_is_not_there_is_the_404_page_with_its_status(origin: str, path: str) -> None:
    answer, body = ask(origin, path)
    assert (answer.status, body) == (404, b"<p>no such page</p>")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"


def test_a_site_without_a_404_page_says_404_all_the_same(folder: Path, origin: str) -> None:
    (folder / "404.html").unlink()
    answer, body = ask(origin, "/nowhere")
    assert (answer.status, body) == (404, b"404: not found")


def test_text_is_compressed_for_those_who_ask(origin: str) -> None:
    answer, body = ask(origin, "/lesson/", Accept_Encoding="gzip, deflate, br")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(body) == PAGE
    plain, body = ask(origin, "/lesson/")
    assert "Content-Encoding" not in plain.headers
    assert body == PAGE
    # a cache between the two must keep both
    assert answer.headers["Vary"] == plain.headers["Vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        ("gzip", True),
        ("br, GZIP;q=0.5", True),
        ("*", True),
        ("", False),
        ("br, deflate", False),
        ("gzip;q=0", False),
        ("gzip; q=0.0, *", False),
        ("*;q=0, gzip", True),
        ("x-gzip-like", False),
    ],
)
def test_gzip_is_accepted_where_the_browser_says_so(header: str, accepted: bool) -> None:
    assert accepts_gzip(header) is accepted


@pytest.mark.parametrize(
    ("name", "kind", "compressed"),
    [
        ("a.css", "text/css; charset=utf-8", True),
        ("a.js", "text/javascript; charset=utf-8", True),
        ("a.json", "application/json", True),
        ("a.svg", "image/svg+xml", True),
        ("a.ipynb", "application/x-ipynb+json", True),
        ("a.xml", "application/xml", True),
        ("a.woff2", "font/woff2", False),
        ("a.png", "image/png", False),
        ("a.inv", "application/octet-stream", False),
    ],
)
def test_each_file_has_its_type_and_text_alone_is_compressed(
    folder: Path, origin: str, name: str, kind: str, compressed: bool
) -> None:
    (folder / name).write_bytes(PAGE)  # after the server has started, as a build would
    answer, body = ask(origin, f"/{name}", Accept_Encoding="gzip")
    assert answer.headers["Content-Type"] == kind
    assert answer.headers["Cache-Control"] == "max-age=600"
    assert (answer.headers["Content-Encoding"] == "gzip") is compressed
    assert (gzip.decompress(body) if compressed else body) == PAGE


@pytest.mark.parametrize("path", ["/lesson/", "/nowhere"])
def test_the_head_of_an_answer_is_the_answer_without_its_body(origin: str, path: str) -> None:
    whole, body = ask(origin, path)
    connection = connect(origin)
    connection.request("HEAD", path)
    head = connection.getresponse()
    assert (head.status, head.read()) == (whole.status, b"")
    assert head.headers["Content-Length"] == str(len(body))
    # a body that was sent all the same would be read as the next answer
    connection.request("GET", path)
    assert connection.getresponse().read() == body
    connection.close()


def test_one_connection_carries_several_files_while_another_keeps_silent(origin: str) -> None:
    parts = urlsplit(origin)
    with socket.create_connection((parts.hostname, parts.port)):
        connection = connect(origin)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"<p>home</p>"
        first = connection.sock
        assert first is not None
        connection.request("GET", "/lesson/")
        assert connection.getresponse().read() == PAGE
        assert connection.sock is first
        connection.close()


def test_it_says_nothing_and_ends_with_its_context(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with serve(folder) as origin:
        assert not origin.endswith("/")
        ask(origin, "/")
        ask(origin, "/nowhere")
    with pytest.raises(ConnectionRefusedError):
        ask(origin, "/")
    assert capfd.readouterr() == ("", "")


def test_a_browser_that_leaves_in_the_middle_is_no_error(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "big.png").write_bytes(bytes(20_000_000))  # more than a socket holds
    with serve(folder) as origin:
        connection = connect(origin)
        connection.request("GET", "/big.png")
        connection.getresponse().close()
        connection.close()
        assert ask(origin, "/")[0].status == 200
    assert capfd.readouterr() == ("", "")
