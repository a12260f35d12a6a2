"""Local servers that write down what they understood of each request, one JSON object a line.

`whole` says whether the body came to its end. Octets are code points. Each answers `200` with the
request's own `X-Case` as `X-Saw`, so that a visitor can tell whose answer it reads.
"""

import asyncio
import json
import socket
import struct

import strict

NODE = r"""
const fs = require("fs"), http = require("http");
const [port, log] = process.argv.slice(1);
const options = { maxHeaderSize: 400000 };
http.createServer(options, (request, response) => {
  const blocks = [], raw = request.rawHeaders, fields = [];
  for (let at = 0; at < raw.length; at += 2) fields.push([raw[at], raw[at + 1]]);
  const tell = (whole) => fs.appendFileSync(log, JSON.stringify({ method: request.method,
    target: request.url, fields, body: Buffer.concat(blocks).toString("latin1"), whole }) + "\n");
  request.on("data", (block) => blocks.push(block));
  request.on("error", () => tell(false));
  request.on("end", () => {
    tell(true);
    response.setHeader("X-Saw", request.headers["x-case"] || "-");
    response.end("seen\n");
  });
}).listen(Number(port), "127.0.0.1");
"""

WSGI = r"""
import json, os
LOG = os.open(os.environ["LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def app(environ, start_response):
    seen = {"method": environ["REQUEST_METHOD"], "target": environ["RAW_URI"], "whole": False, "body": ""}
    seen["fields"] = [[name[5:], value] for name, value in environ.items() if name.startswith("HTTP_")]
    seen["fields"] += [[name, environ[name]] for name in ("CONTENT_TYPE",) if name in environ]
    try:
        body = environ["wsgi.input"].read()
        seen["body"] = body.decode("latin1")
        seen["whole"] = len(body) == int(environ.get("CONTENT_LENGTH") or len(body))
    finally:
        os.write(LOG, json.dumps(seen).encode() + b"\n")
    body = b"seen\n"
    start_response("200 OK", [("X-Saw", environ.get("HTTP_X_CASE", "-")),
                              ("Content-Length", str(len(body)))])
    return [body]
"""

ASGI = r"""
import json, os
LOG = os.open(os.environ["LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    query = scope["query_string"].decode("latin1")
    fields = [[name.decode("latin1"), value.decode("latin1")] for name, value in scope["headers"]]
    seen = {"method": scope["method"], "fields": fields, "whole": False,
            "target": scope["raw_path"].decode("latin1") + (f"?{query}" if query else "")}
    body, told = b"", {"more_body": True}
    while told.get("more_body"):
        told = await receive()
        if told["type"] == "http.disconnect":
            break
        body += told.get("body", b"")
    else:
        seen["whole"] = True
    seen["body"] = body.decode("latin1")
    os.write(LOG, json.dumps(seen).encode() + b"\n")
    if not seen["whole"]:
        return
    case = next((value for name, value in fields if name == "x-case"), "-")
    await send({"type": "http.response.start", "status": 200, "headers": [
        (b"x-saw", case.encode("latin1")), (b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"seen\n"})
"""

# A web server that understands a request and says so to a recorder, in its own words.
NGINX = """
daemon off; pid nginx.pid; worker_processes 1; error_log stderr crit;
events { worker_connections 1024; }
http {
    access_log off; client_body_temp_path temp; proxy_temp_path temp; fastcgi_temp_path temp;
    uwsgi_temp_path temp; scgi_temp_path temp;
    ignore_invalid_headers off; underscores_in_headers on; merge_slashes off; keepalive_requests 100000;
    client_header_buffer_size 64k; large_client_header_buffers 8 400k; client_max_body_size 100m;
    gzip on;
    upstream behind { server 127.0.0.1:%(behind)d; keepalive 16; }
    server {
        listen 127.0.0.1:%(port)d;
        location = /page.html { root .; }
        location / {
            proxy_pass http://behind;
            proxy_http_version 1.1;
            proxy_pass_header Server;
            proxy_set_header Host $http_host;
            proxy_set_header Connection "";
        }
    }
}
"""


# Seconds until what belongs to no answer comes, on a connection that is idle by then.
LATE = 0.1


class Recorder:
    """Reads what a gateway passes on, strictly, and writes it down as the others do."""

    def __init__(self, log):
        self.log, self.faults, self.server = log, [], None

    async def listen(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, limit=1 << 20)
        return self.server.sockets[0].getsockname()[1]

    def tell(self, message):
        method, target = message.first
        seen = {"method": method, "target": target, "fields": message.fields,
                "body": message.body.decode("latin1"), "whole": message.whole,
                "trailers": message.trailers}
        with self.log.open("a") as log:
            log.write(json.dumps(seen) + "\n")

    async def serve(self, reader, writer):
        message = None
        try:
            while message := await strict.request(reader):
                try:
                    await strict.body_of(reader, message, until_close=False)
                finally:
                    self.tell(message)
                saw = message.get("x-case", "-")
                body = b"" if message.first[0] == "HEAD" else b"seen\n"
                writer.write(b"HTTP/1.1 200 OK\r\nX-Saw: " + saw.encode("latin1")
                             + b"\r\nContent-Length: 5\r\n\r\n" + body)
                await writer.drain()
        except strict.Malformed as why:
            self.faults.append(f"passed on: {why} (of {message and message.get('x-case')})")
        except (strict.Cut, ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


class Speaker:
    """A local server that says the octets of a case, whole, one by one or the last ones late, and then does as it says."""

    def __init__(self, cases):
        self.cases, self.server = cases, None

    async def listen(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, limit=1 << 20)
        return self.server.sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        try:
            while message := await strict.request(reader):
                await strict.body_of(reader, message, until_close=False)
                _, kind, number, *_ = message.first[1].split("/")
                if kind == "probe":
                    writer.write(b"HTTP/1.1 200 OK\r\nX-Saw: probe\r\nContent-Length: 5\r\n\r\nprobe")
                elif not await self.say(writer, self.cases[int(number)], kind):
                    return
                await writer.drain()
        except (strict.Malformed, strict.Cut, OSError, asyncio.IncompleteReadError,
                asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def say(self, writer, case, kind):
        """Whether the connection goes on."""
        end = writer.get_extra_info("socket")
        if kind == "bytes":
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(len(case.raw)):
                if writer.transport.is_closing():
                    return False
                writer.write(case.raw[at:at + 1])
                await asyncio.sleep(0)
        elif kind == "late":
            writer.write(case.raw[:-case.extra])
            await asyncio.sleep(LATE)
            writer.write(case.raw[-case.extra:])
        else:
            writer.write(case.raw)
        await writer.drain()
        if case.then == "reset":
            # What was sent is to be read first, for a reset throws away what was not.
            await asyncio.sleep(0.2)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return case.then == "stay"
