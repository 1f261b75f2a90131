"""A hub in a thread: the answers that the real client asks for when it fetches a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

HUB, COMMIT = "owner/tiny", "c0ffee" * 6 + "c0de"


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a hub whose one model is the folder's files, at one commit."""
    files = {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
    listed = {"id": HUB, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
    tree = [{"type": "file", "path": n, "size": len(b), "oid": sha256(b).hexdigest()[:40]} for n, b in files.items()]
    answers = {f"/api/models/{HUB}/revision/{revision}": json.dumps(listed).encode() for revision in (COMMIT, "main")}
    answers[f"/api/models/{HUB}/tree/{COMMIT}"] = json.dumps(tree).encode()
    answers |= {f"/{HUB}/resolve/{COMMIT}/{name}": content for name, content in files.items()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(urlsplit(self.path).path)
            self.send_response(404 if answer is None else 200)
            self.send_header("ETag", f'"{sha256(answer or b"").hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(answer or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(answer or b"")

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *arguments) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
