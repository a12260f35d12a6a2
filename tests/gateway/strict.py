"""A reader of HTTP/1.1 that takes the grammar of RFC 9112 and nothing else.

It stands at both outer ends of the tunnel: it reads what the gateway passes on to a local server, and
what a visitor gets. Whatever it cannot read is a fault of the gateway, which writes both anew. It
shares nothing with the parsers that it judges.
"""

import asyncio
import re

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
VALUE = rb"(?:[\x21-\x7e\x80-\xff](?:[ \t\x21-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?"
FIELD = re.compile(rb"(%s):[ \t]*(%s)[ \t]*" % (TOKEN, VALUE))
# What a gateway sends on, of whatever version the request was. A fragment is no part of a target.
REQUEST = re.compile(rb"(%s) ([\x21\x22\x24-\x7e\x80-\xff]+) HTTP/1\.1" % TOKEN)
STATUS = re.compile(rb"HTTP/1\.1 ([1-9][0-9][0-9]) ([\t \x21-\x7e\x80-\xff]*)")
SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})((?:;%s(?:=(?:%s|\"[^\"\x00-\x08\x0a-\x1f\x7f]*\"))?)*)"
                  % (TOKEN, TOKEN))
BODILESS = {204, 304}


class Malformed(Exception):
    """What was read is not in the grammar."""


class Cut(Exception):
    """The connection ended, or was reset, before the message did. Holds what came of the body."""

    def __init__(self, body=b""):
        super().__init__(f"cut behind {len(body)} bytes of a body")
        self.body = body


class Message:
    """A head and its body, of a request or an answer."""

    def __init__(self, first, fields):
        self.first, self.fields, self.body, self.trailers = first, fields, b"", []
        self.interim, self.whole, self.framing = [], False, "none"

    def all(self, name):
        return [value for it, value in self.fields if it.lower() == name.lower()]

    def get(self, name, default=None):
        values = self.all(name)
        return values[0] if values else default

    @property
    def status(self):
        return int(self.first[1])


async def line(reader):
    """A line without its CR LF, in which there is no other CR or LF."""
    got = (await reader.readuntil(b"\r\n"))[:-2]
    if b"\r" in got or b"\n" in got:
        raise Malformed(f"a bare CR or LF in {got[:80]!r}")
    return got


async def fields_of(reader):
    fields = []
    while got := await line(reader):
        match = FIELD.fullmatch(got)
        if not match:
            raise Malformed(f"no field line: {got[:80]!r}")
        fields.append((match[1].decode(), match[2].decode("latin1")))
    return fields


def only_length(message):
    """The one Content-Length, or none."""
    lengths, codings = message.all("content-length"), message.all("transfer-encoding")
    if len(lengths) + len(codings) > 1:
        raise Malformed(f"framed twice: {lengths} {codings}")
    if lengths and not re.fullmatch("[0-9]{1,19}", lengths[0]):
        raise Malformed(f"no length: {lengths[0]!r}")
    if codings and codings[0] != "chunked":
        raise Malformed(f"another coding: {codings[0]!r}")
    return int(lengths[0]) if lengths else None, bool(codings)


async def gather(reader, message, count):
    """`count` octets of a body, or all there are before the end."""
    while count is None or count:
        block = await reader.read(65536 if count is None else min(count, 65536))
        if not block:
            if count is None:
                return
            raise Cut(message.body)
        message.body += block
        count = None if count is None else count - len(block)


async def chunks(reader, message):
    while True:
        match = SIZE.fullmatch(await line(reader))
        if not match:
            raise Malformed("no size of a chunk")
        if int(match[1], 16) == 0:
            message.trailers = await fields_of(reader)
            return
        await gather(reader, message, int(match[1], 16))
        if await reader.readexactly(2) != b"\r\n":
            raise Malformed("a chunk that is longer than its size")


async def body_of(reader, message, until_close):
    length, chunked = only_length(message)
    try:
        if chunked:
            message.framing = "chunked"
            await chunks(reader, message)
        elif length is not None:
            message.framing = "length"
            await gather(reader, message, length)
        elif until_close:
            message.framing = "close"
            await gather(reader, message, None)
    except (asyncio.IncompleteReadError, ConnectionError) as end:
        raise Cut(message.body) from end
    message.whole = True


async def request(reader):
    """The next request; nothing at the end of the connection."""
    try:
        first = await line(reader)
    except asyncio.IncompleteReadError as end:
        if end.partial:
            raise Cut() from end
        return None
    except ConnectionError:
        return None
    match = REQUEST.fullmatch(first)
    if not match:
        raise Malformed(f"no request line: {first[:80]!r}")
    message = Message([match[1].decode(), match[2].decode("latin1")], await fields_of(reader))
    if len(message.all("host")) != 1:
        raise Malformed(f"Host is there {len(message.all('host'))} times")
    return message


async def answer(reader, method):
    """The next answer, its interim heads in front; nothing at the end of the connection."""
    interim = []
    while True:
        try:
            first = await line(reader)
        except asyncio.IncompleteReadError as end:
            if end.partial or interim:
                raise Cut() from end
            return None
        except ConnectionError as end:
            if interim:
                raise Cut() from end
            return None
        match = STATUS.fullmatch(first)
        if not match:
            raise Malformed(f"no status line: {first[:80]!r}")
        message = Message(["", match[1].decode(), match[2].decode("latin1")],
                          await fields_of(reader))
        if 100 <= message.status < 200 and message.status != 101:
            only_none(message)
            interim.append(message)
            continue
        message.interim = interim
        if message.status == 101:
            message.whole = True
        elif method == "HEAD" or message.status in BODILESS:
            length, chunked = only_length(message)
            if message.status == 204 and (chunked or length is not None):
                raise Malformed("a 204 that is framed")
            message.whole = True
        else:
            try:
                await body_of(reader, message, until_close=True)
            except Cut:
                # What is missing can be seen; the head that came is of interest nevertheless.
                message.whole = False
        return message


def only_none(message):
    if any(only_length(message)):
        raise Malformed("a 1xx that is framed")
