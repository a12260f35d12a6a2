"""Answers of a local server, each with the rule of RFC 9110 or 9112 and what a visitor is to get.

`equal` is an answer that arrives as it was meant; `broken` one that must become a `502`, for nothing
sure can be said of it; `cut` one whose head arrives and whose body visibly does not come to its end.
What is expected stands here by hand, from the RFCs (a recipient of answers may be as lenient as
browsers are), never from what the gateway does. `then` is what the server does behind its octets:
it stays, it closes, or it resets.
"""

import asked

HOPS = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
        "content-length", "date", "proxy-authenticate", "x-accel-buffering"}


class Case:
    def __init__(self, book, raw, verdict, **more):
        self.section, self.sentence, self.family = book.section, book.sentence, book.family
        self.raw = raw if isinstance(raw, bytes) else raw.encode("latin1")
        self.verdict, self.method, self.version = verdict, "GET", "HTTP/1.1"
        self.then, self.asks, self.status, self.reason = "stay", [], 200, None
        self.fields, self.body, self.interim, self.length, self.trailers = [], b"", [], None, []
        # So many octets at the end belong to no answer.
        self.extra = 0
        self.__dict__.update(more)


class Book(asked.Rules):
    def equal(self, raw, body="", fields=(), **more):
        body = body if isinstance(body, bytes) else body.encode("latin1")
        self.cases.append(Case(self, raw, "equal", body=body, fields=list(fields), **more))

    def broken(self, raw, **more):
        self.cases.append(Case(self, raw, "broken", **more))

    def cut(self, raw, body="", **more):
        body = body if isinstance(body, bytes) else body.encode("latin1")
        self.cases.append(Case(self, raw, "cut", body=body, **more))


def said(line, *fields, body="", ends="\r\n"):
    return "".join(it + ends for it in (line, *fields)) + ends + body


OK, CODED = "HTTP/1.1 200 OK", "Transfer-Encoding: chunked"
HELLO = "5\r\nhello\r\n0\r\n\r\n"
HIDDEN = "HTTP/1.1 200 OK\r\nX-Saw: hidden\r\nContent-Length: 6\r\n\r\nhidden"


def lengths(book):
    book.rule("lengths", "9112 §6.3", "a valid Content-Length is the body's length in octets")
    for text in ("5", "05", " 5", "5 ", "\t5\t", "0000000000000000005"):
        book.equal(said(OK, f"Content-Length:{text}", body="hello"), "hello", length=5)
    book.equal(said(OK, "Content-Length: 0"), "", length=0)
    for name in ("content-length", "CONTENT-LENGTH", "Content-length"):
        book.equal(said(OK, f"{name}: 5", body="hello"), "hello", length=5)
    book.equal(said(OK, "Content-Length: 70000", body="x" * 70_000), "x" * 70_000, length=70_000)
    book.equal(said(OK, f"Content-Length: {len(HIDDEN)}", body=HIDDEN), HIDDEN, length=len(HIDDEN))
    book.equal(said(OK, "Content-Length: 256", body=bytes(range(256)).decode("latin1")),
               bytes(range(256)), length=256)
    book.rule("lengths", "9112 §6.3", "equal values, as a list or repeated, are one; a proxy that takes "
              "them MUST replace them with a single valid value")
    for fields in (("Content-Length: 5", "Content-Length: 5"), ("Content-Length: 5, 5",),
                   ("Content-Length: 5,5,5",), ("Content-Length: 5", "X: y", "content-length: 5")):
        more = [("X", "y")] if len(fields) == 3 else []
        book.equal(said(OK, *fields, body="hello"), "hello", more, length=5)
    book.rule("lengths", "9112 §6.3", "an invalid Content-Length in a response: a proxy MUST close the "
              "connection to the server, discard the response and send a 502")
    for text in ("", "+5", "-5", "5 5", "0x5", "5.0", "5;", "1e1", "5,6", "5, 6", "5,", ",5", "five", "5a",
                 "\xb2", "18446744073709551616", "99999999999999999999999999"):
        book.broken(said(OK, f"Content-Length: {text}", body="hello"))
    for first, second in (("5", "6"), ("5", "x"), ("x", "5"), ("5", ""), ("0", "5"), ("5", "0")):
        book.broken(said(OK, f"Content-Length: {first}", f"Content-Length: {second}", body="hello!"))
    book.rule("lengths", "9112 §9.2", "octets behind an answer that nobody asked for are none of the next one's")
    for whole, more in ((said(OK, "Content-Length: 5", body="hello"), {"length": 5}),
                        (said(OK, CODED, body=HELLO), {})):
        for extra in ("x", "\r\n", HIDDEN, "\x00" * 20, "HTTP/1.1 200 OK\r\n\r\n"):
            book.equal(whole + extra, "hello", extra=len(extra), **more)
    for status in (204, 304):
        book.equal(said(f"HTTP/1.1 {status} x", body=HIDDEN), status=status, extra=len(HIDDEN))
    book.equal(said(OK, "Content-Length: 6", body=HIDDEN), "", method="HEAD", length=6, extra=len(HIDDEN))
    book.rule("lengths", "9112 §8", "fewer octets than Content-Length says: incomplete, and seen to be so")
    for count in (0, 1, 4):
        for then in ("close", "reset"):
            book.cut(said(OK, "Content-Length: 5", body="hello"[:count]), "hello"[:count], then=then)
            book.cut(said(OK, "Content-Length: 5", "Connection: close", body="hello"[:count]),
                     "hello"[:count], then=then)
    book.cut(said(OK, "Content-Length: 1000000", body="x" * 300_000), "x" * 300_000, then="close")
    book.cut(said("HTTP/1.0 200 OK", "Content-Length: 5", body="hel"), "hel", then="close")
    book.rule("lengths", "9112 §6.3", "neither length nor chunks: the body goes to the end of the connection")
    for version in ("HTTP/1.1", "HTTP/1.0"):
        for body in ("", "hello", "x" * 100_000, HIDDEN, "5\r\nhello\r\n0\r\n\r\n"):
            book.equal(said(f"{version} 200 OK", body=body), body, then="close")
            book.equal(said(f"{version} 200 OK", "Connection: close", body=body), body, then="close")
    for body in ("", "hello"):
        book.cut(said(OK, body=body), body, then="reset")
        book.cut(said("HTTP/1.0 200 OK", body=body), body, then="reset")


def codings(book):
    book.rule("codings", "9112 §7", "transfer-coding names are case-insensitive")
    for text in ("chunked", "Chunked", "CHUNKED", " chunked", "chunked ", "\tchunked\t"):
        book.equal(said(OK, f"Transfer-Encoding:{text}", body=HELLO), "hello")
    book.rule("codings", "9112 §6.3", "both Transfer-Encoding and Content-Length: Transfer-Encoding overrides, "
              "the proxy removes Content-Length and closes the connection to the server")
    for length in ("5", "0", "15", "99"):
        book.equal(said(OK, f"Content-Length: {length}", CODED, body=HELLO + HIDDEN), "hello")
        book.equal(said(OK, CODED, "X: y", f"Content-Length: {length}", body=HELLO), "hello", [("X", "y")])
    book.rule("codings", "9112 §6.1", "a coding that was not asked for by TE is the server's fault")
    for text in ("gzip", "gzip, chunked", "identity", "chunked, chunked", "x", "", "chunked;q=1", "chunke",
                 "chunked, gzip", '"chunked"', "\xa0chunked"):
        book.broken(said(OK, f"Transfer-Encoding: {text}", body=HELLO), then="close")
    for first, second in (("chunked", "chunked"), ("gzip", "chunked"), ("chunked", "identity")):
        book.broken(said(OK, f"Transfer-Encoding: {first}", f"Transfer-Encoding: {second}", body=HELLO))
    book.rule("codings", "9112 §6.1", "Transfer-Encoding in an HTTP/1.0 message: the framing is faulty")
    book.broken(said("HTTP/1.0 200 OK", CODED, body=HELLO), then="close")
    book.rule("codings", "9110 §5.6.1.2", "a recipient MUST parse and ignore a reasonable number of empty "
              "list elements")
    for text in (",chunked", "chunked,", ", ,chunked , "):
        book.equal(said(OK, f"Transfer-Encoding: {text}", body=HELLO), "hello")
    book.rule("codings", "9110 §5.6.3", "whitespace is SP and HTAB, and nothing else is")
    for odd in ("\xa0", "\x85", "\xad"):
        for text in (f"Transfer-Encoding: {odd}chunked", f"Transfer-Encoding: chunked{odd}",
                     f"Content-Length: 5{odd}", f"Content-Length: {odd}5", f"Content-Length: 5,{odd}5"):
            book.broken(said(OK, text, body=HELLO), then="close")
    book.rule("codings", "9112 §7.1", "chunk = chunk-size [ chunk-ext ] CRLF chunk-data CRLF")
    for size, count in (("5", 5), ("05", 5), ("0000000000000005", 5), ("a", 10), ("A", 10), ("1F", 31),
                        ("00a0", 160)):
        book.equal(said(OK, CODED, body=f"{size}\r\n{'x' * count}\r\n0\r\n\r\n"), "x" * count)
    for last in ("0", "00", "0000000000000000"):
        book.equal(said(OK, CODED, body=f"2\r\nab\r\n{last}\r\n\r\n"), "ab")
    book.equal(said(OK, CODED, body="0\r\n\r\n"))
    book.equal(said(OK, CODED, body="1\r\na\r\n2\r\nbc\r\n3\r\ndef\r\n0\r\n\r\n"), "abcdef")
    book.equal(said(OK, CODED, body="1\r\nx\r\n" * 3000 + "0\r\n\r\n"), "x" * 3000)
    book.equal(said(OK, CODED, body="4\r\n\r\n\r\n\r\n0\r\n\r\n"), "\r\n\r\n")
    book.equal(said(OK, CODED, body=f"{len(HIDDEN):x}\r\n{HIDDEN}\r\n0\r\n\r\n"), HIDDEN)
    book.equal(said(OK, CODED, body=f"{70_000:x}\r\n{'y' * 70_000}\r\n0\r\n\r\n"), "y" * 70_000)
    book.rule("codings", "9112 §7.1.1", "a recipient MUST ignore unrecognized chunk extensions, and take "
              "BWS around their semicolon (9110 §5.6.3)")
    for extension in (";a", ";a=b", ';a="b;c"', ";a;b", " ;a=b", "\t; a", " ; a = b", ";a=" + "x" * 200):
        book.equal(said(OK, CODED, body=f"5{extension}\r\nhello\r\n0{extension}\r\n\r\n"), "hello")
    book.rule("codings", "9112 §7.1.1", "a recipient may limit their length")
    book.cut(said(OK, CODED, body=f"5;{'x' * 100_000}\r\nhello\r\n0\r\n\r\n"))
    book.rule("codings", "README", "answers are read as leniently as browsers read them: blanks behind a size")
    for blank in (" ", "  ", "\t", " \t "):
        book.equal(said(OK, CODED, body=f"5{blank}\r\nhello\r\n0{blank}\r\n\r\n"), "hello")
    book.rule("codings", "README", "answers are read as leniently as browsers read them: a LF ends a line alone")
    for lines in ("5\nhello\n0\n\n", "5\r\nhello\n0\r\n\r\n", "5 \nhello\r\n0;a\n\r\n", "5\nhello\n0\nX: y\n\n"):
        book.equal(said(OK, CODED, body=lines), "hello")
    book.rule("codings", "9112 §8", "a chunked body without its zero-sized chunk is incomplete, and so is "
              "one whose framing is no framing: what came before is passed on, and the cut is seen")
    for at in (0, 1, 3, 5, 8, 9, 10, 11, 12, 13, 14):
        body = "hello"[:max(0, min(at - 3, 5))]
        book.cut(said(OK, CODED, body=HELLO[:at]), body, then="close")
        book.cut(said(OK, CODED, body=HELLO[:at]), body, then="reset")
    for bad in ("x", "-1", "+1", "0x1", "1 0", " 1", "\r\n", "g", "\x00", "100000000000000000", "\xb2", ","):
        book.cut(said(OK, CODED, body=f"5\r\nhello\r\n{bad}\r\nz\r\n0\r\n\r\n"), "hello")
    for bad in ("5\r\nhello!\r\n0\r\n\r\n", "5\r\nhelloX0\r\n\r\n", "5\r\nhello0\r\n\r\n", "5\r\nhello\rX"):
        book.cut(said(OK, CODED, body=bad), "hello")
    for bad in ("5\r\nhelloX", "5\r\nhello\nz", "5\r\nhello\r\nz", "5\r\nhello\r\n;", "5\r\nhello\r\n\r", "5\r\nhello\r\n5\rX",
                "5\r\nhello\r\n5;\x00", "5\r\nhello\r\n0\r\nX: \x00", "5\r\nhello\r\n0\r\nX: a\r\n ",
                "5\r\nhello\r\n0\r\n\rX", "5\r\nhello\r\n00000000000000000"):
        book.cut(said(OK, CODED, body=bad), "hello")
    for trailer in ("X: a\r\n b", "X: \x00", "X: a\rb", " X: a"):
        book.cut(said(OK, CODED, body=f"5\r\nhello\r\n0\r\n{trailer}\r\n\r\n"), "hello")
    book.rule("codings", "9110 §6.5", "trailers go only to who said that they are taken, and none that "
              "frames, routes, or modifies")
    coded = "5\r\nhello\r\n0\r\nX-Sum: a\r\nContent-Length: 9\r\nSet-Cookie: a=b\r\nLocation: /\r\n\r\n"
    book.equal(said(OK, CODED, "Trailer: X-Sum", body=coded), "hello")
    book.equal(said(OK, CODED, body=coded), "hello", asks=["TE: trailers", "Connection: TE"],
               trailers=[("X-Sum", "a")])
    book.equal(said(OK, CODED, body=coded), "hello", asks=["TE: gzip", "Connection: TE"])


def lines(book):
    book.rule("status line", "9112 §4", "status-line = HTTP-version SP status-code SP [ reason-phrase ] CRLF")
    for status in (200, 201, 202, 203, 206, 207, 226, 299, 300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 405,
                   410, 412, 413, 416, 418, 422, 426, 429, 431, 451, 500, 501, 502, 503, 504, 511, 599, 299, 399,
                   499):
        book.equal(said(f"HTTP/1.1 {status} Reason", "Content-Length: 5", "X: y", body="hello"), "hello",
                   [("X", "y")], status=status, length=5)
    for reason in (" OK", " ", "", " Not  Quite", " \xe9\xff", " a\tb", " 200", " HTTP/1.1 500", " " + "x" * 500):
        book.equal(said(f"HTTP/1.1 200{reason}", "Content-Length: 5", body="hello"), "hello", length=5)
    book.rule("status line", "9110 §15", "a client MUST treat an unrecognized status as x00 of its class; "
              "above 599 it is invalid, and SHOULD be taken as a 5xx")
    for status in (600, 700, 999):
        book.equal(said(f"HTTP/1.1 {status} Odd", "Content-Length: 5", body="hello"), "hello", status=status,
                   length=5)
    book.rule("status line", "9112 §4", "what has no three digits is no status")
    for line in ("HTTP/1.1 99 x", "HTTP/1.1 000 x", "HTTP/1.1 1000 x", "HTTP/1.1 20 x", "HTTP/1.1 2 x",
                 "HTTP/1.1 abc x", "HTTP/1.1 -20 x", "HTTP/1.1 20x", "HTTP/1.1 2 00", "HTTP/1.1", "HTTP/1.1 ",
                 "HTTP/1.1\t200 OK", "HTTP/1.1 \xb2\xb2\xb2 x", "200 OK", "OK", "http/1.1 200 OK", "HTTP 200 OK",
                 "HTTP/1 200 OK", "HTTP/1.10 200 OK", "HTTP/2.0 200 OK", "HTTP/0.9 200 OK", "HTTP/3 200 OK",
                 "SSH-2.0-OpenSSH", "220 mail.example ESMTP", "<html>", "GET / HTTP/1.1", " HTTP/1.1 200 OK",
                 "HTTP/1.1 200 O\x00K", "HTTP/1.1 200 O\rK", "HTTP/1.1 099 x", "HTTP/a.b 200 OK", "\x15\x03\x01",
                 "ICY 200 OK", "HTTP/1.1 200 \x07"):
        book.broken(said(line, "Content-Length: 5", body="hello"), then="close")
    for raw in ("", "H", "HTTP/1.1", "HTTP/1.1 200 OK", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nX: y",
                "HTTP/1.1 200 OK\r\nX: y\r\n", "HTTP/1.1 200 OK\r\nX: y\r\n\r", "\r\n", "\x00", "hello"):
        book.broken(raw, then="close")
        book.broken(raw, then="reset")
    book.rule("status line", "9112 §2.2", "what can become no head is no reason to wait for its end")
    for raw in ("\x15\x03\x01\x00", "\x00", "HTTP/1.1 200 OK\r\nX: \x00", "HTTP/1.1 200 OK\r\nX: a\rb",
                "HTTP/1.1 200 OK\r\n X", "HTTP/1.1 200 OK\r\nX: a\r\n b", "HTTP/1.1 200 O\x07K"):
        book.broken(raw)
    book.rule("status line", "9112 §2.3", "an HTTP/1.0 server's answer goes on as our own version's")
    book.equal(said("HTTP/1.0 200 OK", "Content-Length: 5", body="hello"), "hello", length=5, then="close")
    book.equal(said("HTTP/1.0 200 OK", "Content-Length: 5", "Connection: keep-alive", body="hello"), "hello",
               length=5)
    book.rule("status line", "9112 §2.2", "a recipient MAY recognize a single LF as a line terminator: answers "
              "are read as browsers read them")
    book.equal(said(OK, "Content-Length: 5", "X: y", body="hello", ends="\n"), "hello", [("X", "y")], length=5)
    book.equal(said(OK, "X: y", body="hello", ends="\n"), "hello", [("X", "y")], then="close")
    book.equal(said(OK, CODED, "X: y", body=HELLO, ends="\n"), "hello", [("X", "y")])
    book.equal("HTTP/1.1 200 OK\r\nX: y\nContent-Length: 5\r\n\nhello", "hello", [("X", "y")], length=5)
    for ends in ("\r", "\n\r"):
        book.broken(said(OK, "Content-Length: 5", body="hello", ends=ends), then="close")


def fields(book):
    book.rule("answer fields", "9110 §5.5", "field values go on as they are, without whitespace around them")
    for value in ("", " ", "a", " a ", "\ta\t", "a b", "a\tb", "a:b", "\xe9", "\xff\x80", "a,b", '"a\\"b"',
                  "x" * 5000, "::"):
        book.equal(said(OK, f"X-Value:{value}", "Content-Length: 5", body="hello"), "hello",
                   [("X-Value", value.strip(" \t"))], length=5)
    for name in ("x", "X-a", "X!#$%&'*+.^`|~-1", "9", "X_Y", "ETag", "sec-x"):
        book.equal(said(OK, f"{name}: y", "Content-Length: 5", body="hello"), "hello", [(name, "y")], length=5)
    pairs = [("Set-Cookie", "a=b; Path=/"), ("Set-Cookie", "c=d"), ("Vary", "a"), ("vary", "b"),
             ("ETag", '"x"'), ("Location", "http://c.example/x"), ("Server", "s/1 (t)"), ("WWW-Authenticate", "Basic")]
    book.equal(said(OK, *(f"{name}: {value}" for name, value in pairs), "Content-Length: 5", body="hello"),
               "hello", pairs, length=5)
    many = [(f"X-{it}", f"{it}") for it in range(600)]
    book.equal(said(OK, *(f"{name}: {value}" for name, value in many), "Content-Length: 5", body="hello"),
               "hello", many, length=5)
    large = [(f"X-{it}", "y" * 8000) for it in range(20)]
    book.equal(said(OK, *(f"{name}: {value}" for name, value in large), "Content-Length: 5", body="hello"),
               "hello", large, length=5)
    book.broken(said(OK, *(f"X-{it}: y" for it in range(1500)), "Content-Length: 5", body="hello"))
    book.broken(said(OK, f"X: {'y' * 300_000}", "Content-Length: 5", body="hello"))
    book.rule("answer fields", "9112 §5.1", "a proxy MUST remove whitespace between name and colon of an answer")
    for blank in (" ", "\t", "  \t"):
        book.equal(said(OK, f"X{blank}: y", f"Content-Length{blank}: 5", body="hello"), "hello", [("X", "y")],
                   length=5)
        book.equal(said(OK, f"Transfer-Encoding{blank}: chunked", body=HELLO), "hello")
    book.rule("answer fields", "9110 §5.5", "CR, LF and NUL in values are dangerous: never passed on")
    for octet in [chr(it) for it in range(32) if chr(it) not in "\t\n"] + ["\x7f"]:
        book.broken(said(OK, f"X: a{octet}b", "Content-Length: 5", body="hello"))
    for text in ("X y: z", ": z", "no colon", "X(: y", "\xe9: y", "X\x00: y", "@: y", "X\r: y", "[x]: y"):
        book.broken(said(OK, text, "Content-Length: 5", body="hello"))
    book.rule("answer fields", "9112 §5.2", "obs-fold in a response: a proxy MUST discard it with a 502, or "
              "replace the fold by SP")
    for text in ("X: a\r\n b", "X: a\r\n\tb", "Content-Length: 5\r\n 5", "X: a\r\n \r\n b", "X:\r\n a"):
        book.broken(said(OK, text, "Content-Length: 5", body="hello"))
    book.rule("answer fields", "9110 §7.6.1", "hop-by-hop fields and those that Connection names stay behind")
    for text in ("Keep-Alive: timeout=5", "Proxy-Connection: close", "Upgrade: h2c", "TE: x",
                 "Connection: X-Gone\r\nX-Gone: 1", "Connection: keep-alive, x-gone\r\nX-Gone: 1",
                 "Connection: close\r\nX: 1", "Proxy-Authenticate: Basic"):
        kept = [("X", "1")] if text.endswith("X: 1") else []
        book.equal(said(OK, text, "X-Stays: 1", "Content-Length: 5", body="hello"), "hello",
                   [*kept, ("X-Stays", "1")], length=5)
    book.equal(said(OK, "Connection: Content-Length", "Content-Length: 5", body="hello"), "hello", length=5)
    book.equal(said(OK, "Connection: Transfer-Encoding", CODED, body=HELLO), "hello")


def bodiless(book):
    book.rule("no body", "9110 §6.4.1", "no content with HEAD, 1xx, 204 and 304, whatever the fields say")
    for status in (204, 304):
        for more, length in (((), None), (("Content-Length: 0",), 0), (("Content-Length: 5",), 5)):
            book.equal(said(f"HTTP/1.1 {status} x", *more, "X: y"), "", [("X", "y")], status=status,
                       length=None if status == 204 else length)
        book.equal(said(f"HTTP/1.1 {status} x", CODED), status=status)
        book.equal(said(f"HTTP/1.1 {status} x", "Connection: close"), status=status, then="close")
        book.equal(said(f"HTTP/1.0 {status} x"), status=status, then="close")
    book.equal(said("HTTP/1.1 205 Reset", "Content-Length: 0"), status=205, length=0)
    for status in (200, 404, 301, 204, 304, 500):
        book.equal(said(f"HTTP/1.1 {status} x", "Content-Length: 5", "X: y"), "", [("X", "y")], method="HEAD",
                   status=status, length=None if status == 204 else 5)
        book.equal(said(f"HTTP/1.1 {status} x", CODED), method="HEAD", status=status)
        book.equal(said(f"HTTP/1.1 {status} x"), method="HEAD", status=status)
    book.equal(said(OK, "Content-Length: 99999999999"), method="HEAD", length=99999999999)
    book.equal(said(OK, "Connection: close"), method="HEAD", then="close")
    book.broken(said(OK, "Content-Length: x"), method="HEAD")
    book.rule("no body", "9110 §15.2", "a client MUST be able to parse 1xx before the final response, and a "
              "proxy MUST forward them")
    final = said(OK, "Content-Length: 5", body="hello")
    for status in (100, 102, 103, 104, 110, 199):
        book.equal(said(f"HTTP/1.1 {status} x", "X: y") + final, "hello", interim=[(status, [("X", "y")])],
                   length=5)
        book.equal(said(f"HTTP/1.1 {status} x", "Content-Length: 7") + final, "hello", interim=[(status, [])],
                   length=5)
        book.equal(said(f"HTTP/1.1 {status} x") + said(OK, CODED, body=HELLO), "hello", interim=[(status, [])])
    book.equal(said("HTTP/1.1 103 x", "Link: </a>; rel=preload") * 3 + final, "hello", length=5,
               interim=[(103, [("Link", "</a>; rel=preload")])] * 3)
    book.equal(said("HTTP/1.1 100 Continue") + said("HTTP/1.1 204 x"), status=204, interim=[(100, [])])
    book.equal(said("HTTP/1.1 100 Continue") + final, "hello", length=5, version="HTTP/1.0")
    book.rule("no body", "9110 §7.8", "a server MUST NOT switch to a protocol that was not asked for")
    for more in ((), ("Upgrade: websocket", "Connection: Upgrade"), ("Upgrade: h2c", "Connection: Upgrade")):
        book.broken(said("HTTP/1.1 101 Switching Protocols", *more))
    asks = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    accept = ("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",)
    book.rule("no body", "9110 §7.8", "101: Upgrade is sent, and Connection names it (§7.6.1)")
    book.equal(said("HTTP/1.1 101 x", "Connection: Upgrade", "Upgrade: websocket", *accept), status=101, asks=asks,
               fields=[("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")])
    for more in (("Upgrade: websocket",), ("Connection: Upgrade",), ("Connection: close", "Upgrade: websocket"), (),
                 ("Connection: Upgrade", "Upgrade: h2c"),
                 ("Connection: Upgrade", "Upgrade: websocket, h2c"), ("Connection: keep-alive", "Upgrade: websocket")):
        book.broken(said("HTTP/1.1 101 x", *more, *accept), asks=asks)
    book.equal(said("HTTP/1.1 403 x", "Content-Length: 5", body="hello"), "hello", status=403, length=5, asks=asks)
    book.equal(said("HTTP/1.1 426 x", "Upgrade: websocket", "Connection: Upgrade", "Content-Length: 0"), status=426,
               length=0)


def old_visitors(book):
    book.rule("old visitors", "9112 §6.1", "a server MUST NOT send Transfer-Encoding to an HTTP/1.0 client")
    for raw, more in ((said(OK, CODED, body=HELLO), {}), (said(OK, body="hello"), {"then": "close"}),
                      (said(OK, "Content-Length: 5", body="hello"), {"length": 5}),
                      (said("HTTP/1.0 200 OK", body="hello"), {"then": "close"})):
        book.equal(raw, "hello", version="HTTP/1.0", **more)
        book.equal(raw, "hello", version="HTTP/1.0", asks=["Connection: keep-alive"], **more)
    book.cut(said(OK, "Content-Length: 5", body="hel"), "hel", version="HTTP/1.0", then="close")
    for at in (0, 8, 9, 13):
        book.cut(said(OK, CODED, body=HELLO[:at]), HELLO[3:at][:5], version="HTTP/1.0", then="close")
    book.equal(said("HTTP/1.1 204 x"), version="HTTP/1.0", status=204)


def all_cases():
    book = Book()
    for chapter in (lengths, codings, lines, fields, bodiless, old_visitors):
        chapter(book)
    return book.cases
