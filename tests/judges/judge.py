"""Shows how Python reads the path of a request target.

`read` reads a JSON list of targets from standard input; `serve PORT` is an upstream.
"""

import json
import sys
import urllib.parse
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer


class Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = json.dumps({"target": self.path, "readings": readings(self.path)}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def served_file(target):
    """Returns the file that http.server would serve, as a path below its root."""
    handler = Handler.__new__(Handler)
    handler.directory = ""
    return "/" + handler.translate_path(target).lstrip("/")


def attempt(decode, target):
    try:
        return decode(target)
    except ValueError:
        return None


def readings(target):
    decoders = [
        lambda target: urllib.parse.unquote(urllib.parse.urlsplit(target).path),
        lambda target: urllib.parse.unquote(target.split("?")[0], errors="strict"),
        served_file,
    ]
    return [attempt(decode, target) for decode in decoders]


if sys.argv[1] == "read":
    json.dump([readings(target) for target in json.load(sys.stdin)], sys.stdout)
else:
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
