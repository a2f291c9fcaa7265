"""A server that is none of ours: it answers everything with the same bytes."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

ANSWERS: Final[Mapping[str, tuple[int, str, bytes]]] = {
    "page": (200, "text/html", b"<html>Welcome to nginx</html>"),
    "nothing": (204, "application/json", b""),
    "null": (200, "application/json", b"null"),
    "object": (200, "application/json", b"{}"),
    "list": (200, "application/json", b"[]"),
    "words": (200, "application/json", b'["a", {"b": []}, 3]'),
    "number": (200, "application/json", b"17"),
    "escapes": (200, "application/json", b'{"message": "\\u001b[2J", "name": "\\ud800"}'),
    "brackets": (200, "application/json", b"[" * 100_000),
    "bytes": (200, "application/json", bytes(range(256))),
    "elsewhere": (302, "text/plain", b"moved"),
    "error": (500, "text/plain", b"Internal Server Error"),
    "refusal of a terminal": (404, "application/json", b'{"message": "\\u001b[2J", "help": "\\u001b]0;x\\u0007"}'),
    "refusal": (403, "application/json", b'{"message": ["not", "text"]}'),
}


@contextmanager
def garbage(kind: str) -> Iterator[str]:
    """Run such a server; yields its address."""
    status, content_type, body = ANSWERS[kind]

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            if status == 302:
                self.send_header("Location", "/elsewhere")
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if status != 204:
                self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815 - as the library calls them

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
