"""Serve the built site as a public host would: gzip, types, caching, a page for what is missing."""

from __future__ import annotations

import contextlib
import functools
import gzip
import http.server
import re
import sys
import threading
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

# Named here, for Python reads the others from the machine, which may know them otherwise.
TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".ico": "image/x-icon",
    ".ipynb": "application/x-ipynb+json",
    ".js": "text/javascript",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".woff2": "font/woff2",
    ".xml": "application/xml",
}
COMPRESSED = re.compile(r"text/|.*[/+](json|xml)$")  # the others are already
CACHING = "max-age=600"  # what GitHub Pages says of every file


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port of 127.0.0.1, on threads, saying nothing.

    Its files are read when they are asked for, so the folder may be filled afterwards, by a build
    that has to know the address.

    Yields:
        The origin, such as http://127.0.0.1:34567, without a slash at its end.
    """
    handler = functools.partial(_Handler, directory=str(folder))
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a browser may leave at any time
            super().handle_error(request, client_address)


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # one connection for many files, as browsers expect
    disable_nagle_algorithm = True  # or each answer on such a connection waits 40 ms

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, with_body: bool) -> None:
        path, _, query = self.path.partition("?")
        found = Path(self.translate_path(path))
        if found.is_dir() and not path.endswith("/"):
            self._redirect(f"{path}/{'?' if query else ''}{query}")
            return
        file = found / "index.html" if path.endswith("/") else found
        if file.is_file():
            self._send(HTTPStatus.OK, file, with_body)
        else:
            self._send(HTTPStatus.NOT_FOUND, Path(self.directory, "404.html"), with_body)

    def _redirect(self, location: str) -> None:
        self.send_response(HTTPStatus.MOVED_PERMANENTLY)
        self.send_header("Location", "/" + location.lstrip("/"))  # //host would lead elsewhere
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, status: HTTPStatus, file: Path, with_body: bool) -> None:
        body = file.read_bytes() if file.is_file() else b"404: not found"
        kind = TYPES.get(file.suffix, "application/octet-stream")
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8" if kind[:5] == "text/" else kind)
        self.send_header("Cache-Control", CACHING)
        if COMPRESSED.match(kind):
            self.send_header("Vary", "Accept-Encoding")
            if accepts_gzip(self.headers.get("Accept-Encoding", "")):
                self.send_header("Content-Encoding", "gzip")
                body = gzip.compress(body)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)


def accepts_gzip(header: str) -> bool:
    """Read the header Accept-Encoding: is gzip in it, and not refused by a weight of 0?"""
    weights = {}
    for part in header.lower().replace(" ", "").split(","):
        name, _, weight = part.partition(";q=")
        weights[name] = weight or "1"
    return not re.fullmatch(r"0(\.0*)?", weights.get("gzip", weights.get("*", "0")))
