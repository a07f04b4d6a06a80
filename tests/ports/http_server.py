"""An HTTP server. Prints its port first.

GET /bytes/SIZE/SEED answers with random bytes, and with their SHA-256 in the header `sha256`.
POST / answers with the SHA-256 of the body.
GET /echo upgrades to a WebSocket, which sends back each message.
"""

import base64
import hashlib
import random
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/echo":
            return self.echo()
        _, _, size, seed = self.path.split("/")
        self.answer(random.Random(seed).randbytes(int(size)))

    def do_POST(self):
        digest, left = hashlib.sha256(), int(self.headers["content-length"])
        while left > 0:
            data = self.rfile.read(min(left, 65536))
            if not data:
                return
            digest.update(data)
            left -= len(data)
        self.answer(digest.hexdigest().encode())

    def answer(self, body):
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header("sha256", hashlib.sha256(body).hexdigest())
        self.end_headers()
        self.wfile.write(body)

    def echo(self):
        key = self.headers["sec-websocket-key"] + GUID
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.send_response(101)
        self.send_header("connection", "upgrade")
        self.send_header("upgrade", "websocket")
        self.send_header("sec-websocket-accept", accept)
        self.end_headers()
        self.wfile.flush()
        while True:
            head = self.rfile.read(2)
            length, extended = head[1] & 127, b""
            if length >= 126:
                extended = self.rfile.read(2 if length == 126 else 8)
                length = int.from_bytes(extended, "big")
            mask = self.rfile.read(4) * (length // 4 + 1)
            masked = int.from_bytes(self.rfile.read(length), "big")
            data = masked ^ int.from_bytes(mask[:length], "big")
            # A frame of a server has no mask. A close frame is answered like any other.
            frame = bytes([head[0], head[1] & 127]) + extended + data.to_bytes(length, "big")
            self.wfile.write(frame)
            if head[0] & 15 == 8:
                self.close_connection = True
                return

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 200


server = Server(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
