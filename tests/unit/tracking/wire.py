"""A wire between a client and a server that can fail."""

from __future__ import annotations

import http.client
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from mlflow_server import Server


class Wire:
    """A proxy before a server. mode: 'good', '500' (asks nobody), 'lost' (asks, keeps the answer).

    lost: requests that the server has carried out and the client was not told of.
    """

    def __init__(self, server: Server) -> None:
        self.mode = "good"
        self.lost = 0
        self.refused = 0
        wire = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *arguments: object) -> None: ...

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if wire.mode == "500":
                    wire.refused += 1
                    self.send_response(500)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                way = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
                way.request(self.command, self.path, body, dict(self.headers))
                got = way.getresponse()
                content = got.read()
                way.close()
                if wire.mode == "lost" and self.command == "POST":
                    wire.lost += 1
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(got.status)
                for name in ("Content-Type", "ETag"):
                    if value := got.headers.get(name):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
