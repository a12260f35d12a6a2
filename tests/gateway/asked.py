"""Requests, each with the rule of RFC 9110 or 9112 that it is about and what that makes of it.

What is expected stands here by hand, from the RFCs and from the table in README, never from what the
gateway does. `ok` is a request that must arrive as it was meant; `no` one that must be refused, with
nothing of it whole at the local server; `may` one that may be refused, but if it is passed on it must
arrive so. `@CASE@` in what is sent becomes the name of the exchange, of the same length.
"""

import string

DROPPED = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding",
           "upgrade", "content-length", "host", "proxy", "proxy-authorization", "max-forwards"}
BAD = frozenset({400})


class Seen:
    """What a local server is to understand."""

    def __init__(self, method, target, host, fields, body):
        self.method, self.target, self.host, self.fields, self.body = (
            method, target, host, fields, body)


class Case:
    def __init__(self, book, raw, seen, end, verdict, statuses):
        self.section, self.sentence, self.family = book.section, book.sentence, book.family
        self.raw, self.seen, self.end = raw, seen, end
        self.verdict, self.statuses = verdict, statuses

    @property
    def methods(self):
        first = self.raw.lstrip(b"\r\n").split(b" ")[0].decode("latin1")
        return [it.method for it in self.seen] or [first]


def octets(text):
    return text if isinstance(text, bytes) else text.encode("latin1")


def head(line, fields, host="a.example", ends="\r\n"):
    said = [line] + ([] if host is None else [f"Host: {host}"]) + ["X-Case: @CASE@", *fields]
    return octets("".join(it + ends for it in said) + ends)


def passing(fields):
    """Those of the fields that go on: RFC 9110 §7.6.1, and what README says of `_`."""
    pairs = [it.split(":", 1) for it in fields]
    named = {option.strip(" \t").lower() for name, value in pairs if name.lower() == "connection"
             for option in value.split(",")} - {"x-forwarded-host", "x-forwarded-proto"}
    return [(name, value.strip(" \t")) for name, value in pairs
            if name.lower() not in DROPPED | named and "_" not in name
            and not name.lower().startswith("proxy-")]


class Rules:
    """Cases, each under the rule that was named last."""

    def __init__(self):
        self.cases = []
        self.family = self.section = self.sentence = ""

    def rule(self, family, section, sentence):
        self.family, self.section, self.sentence = family, section, sentence


class Book(Rules):
    def add(self, raw, seen, end, verdict, statuses=BAD):
        self.cases.append(Case(self, octets(raw), seen, end, verdict, statuses))

    def ok(self, *fields, line="GET / HTTP/1.1", host="a.example", body="", gives=None, target=None,
           asked=None, end="open", verdict="ok", statuses=BAD, before=""):
        body = octets(body)
        words = line.split(" ")
        goes_on = passing(fields)
        if line.endswith("HTTP/1.0"):
            goes_on = [it for it in goes_on if it[0].lower() != "expect"]
        seen = Seen(words[0], target or words[1], host if asked is None else asked, goes_on,
                    body if gives is None else octets(gives))
        self.add(octets(before) + head(line, fields, host) + body, [seen], end, verdict, statuses)

    def may(self, *fields, **options):
        self.ok(*fields, verdict="may", **options)

    def no(self, *fields, line="GET / HTTP/1.1", host="a.example", body="", statuses=BAD, raw=None):
        raw = head(line, fields, host) + octets(body) if raw is None else raw
        self.add(raw, [], "refused", "no", frozenset(statuses))


POST, CODED = "POST / HTTP/1.1", "Transfer-Encoding: chunked"
HELLO = "5\r\nhello\r\n0\r\n\r\n"
HIDDEN = "GET /hidden HTTP/1.1\r\nHost: hidden.example\r\nX-Case: @CASE@.hidden\r\n\r\n"


def lengths(book):
    book.rule("framing", "9110 §8.6", "Content-Length = 1*DIGIT")
    for text in ("5", "05", "0000000000000005", " 5", "5 ", "\t5\t", "   5   "):
        book.ok(f"Content-Length:{text}", line=POST, body="hello")
    for line in (POST, "GET / HTTP/1.1", "PUT /x HTTP/1.1", "DELETE /x HTTP/1.1",
                 "OPTIONS /x HTTP/1.1"):
        book.ok("Content-Length: 0", line=line)
        book.ok(f"Content-Length: {len(octets(HIDDEN))}", line=line, body=HIDDEN)
    for text in ("", " ", "+5", "-5", "-0", "5 5", "0x5", "5.0", "5;", "5\t5", "1e1", "5_0", "'5'",
                 '"5"', "five", "\u0665".encode().decode("latin1"), "\xb2", "5\xa0", "\x855",
                 "18446744073709551616", "99999999999999999999999", "5a", "a5", "5/5", "٥"
                 .encode().decode("latin1")):
        book.no(f"Content-Length: {text}", line=POST, body="hello")
    book.rule("framing", "9112 §6.3", "a list of equal values: the recipient MUST either reject the "
              "message as invalid or replace them with a single valid value")
    book.may("Content-Length: 5, 5", line=POST, body="hello")
    book.may("Content-Length: 5", "Content-Length: 5", line=POST, body="hello")
    book.may("Content-Length: 5", "X: y", "content-length: 5", line=POST, body="hello")
    book.rule("framing", "9112 §6.3", "an invalid Content-Length is an unrecoverable error: a server "
              "MUST respond with 400 and close the connection")
    for text in ("5,6", "5, 6", "5,", ",5", "5,,5", "5,+5", "5, 05x"):
        book.no(f"Content-Length: {text}", line=POST, body="hello!")
    for more in ("6", "0", "", "x", "-5"):
        book.no("Content-Length: 5", f"Content-Length: {more}", line=POST, body="hello!")
        book.no(f"Content-Length: {more}", "Content-Length: 5", line=POST, body="hello!")
    book.rule("framing", "9112 §6.3", "if neither is there, a request's body has no length: the next "
              "octet begins a request")
    book.add(head(POST, []) + octets(HIDDEN.replace("@CASE@.hidden", "@CASE@")), [
        Seen("POST", "/", "a.example", [], b""),
        Seen("GET", "/hidden", "hidden.example", [], b"")], "open", "ok")


def codings(book):
    book.rule("framing", "9112 §7", "transfer-coding names are case-insensitive")
    for text in ("chunked", "Chunked", "CHUNKED", " chunked", "chunked ", "\tchunked\t"):
        book.ok(f"Transfer-Encoding:{text}", line=POST, body=HELLO, gives="hello")
    for line in ("GET /a HTTP/1.1", "DELETE /a HTTP/1.1", "PATCH /a HTTP/1.1"):
        book.ok(CODED, line=line, body=HELLO, gives="hello")
        book.ok(CODED, line=line, body="0\r\n\r\n", gives="")
    book.rule("framing", "9110 §5.6.1.2", "a recipient MUST parse and ignore a reasonable number of "
              "empty list elements")
    for text in (",chunked", "chunked,", "chunked ,"):
        book.may(f"Transfer-Encoding: {text}", line=POST, body=HELLO, gives="hello",
                 statuses=frozenset({400, 501}))
    book.rule("framing", "9112 §6.1", "a server that receives a transfer coding it does not "
              "understand SHOULD respond with 501; where chunked is not the final one, §6.3, MUST 400")
    for text in ("identity", "gzip", "gzip, chunked", "chunked, gzip", "chunked, chunked", "xchunked",
                 "chunkedx", "chunk", "chunked;q=1", '"chunked"', "'chunked'", "\xa0chunked",
                 "chunked\xa0", "x-chunked", "chunked chunked", "chunked;", "cow", "",
                 "identity, chunked", "chunked, identity", "c hunked", "\x84chunked"):
        book.no(f"Transfer-Encoding: {text}", line=POST, body=HELLO, statuses={400, 501})
    for text in ("\x0bchunked", "chunked\x0b", "\x0cchunked", "chunked\x00", "\x00chunked"):
        book.no(f"Transfer-Encoding: {text}", line=POST, body=HELLO)
    for first, second in (("chunked", "chunked"), ("gzip", "chunked"), ("chunked", "gzip"),
                          ("chunked", "identity"), ("identity", "chunked"), ("", "chunked"),
                          ("chunked", ""), ("chunked", "cow"), ("x", "chunked")):
        book.no(f"Transfer-Encoding: {first}", f"Transfer-Encoding: {second}", line=POST, body=HELLO,
                statuses={400, 501})
    book.rule("framing", "9112 §6.3", "both Transfer-Encoding and Content-Length: a server MAY "
              "reject, and ought to handle it as an error")
    for length in ("5", "0", "15", "", "x"):
        book.no(f"Content-Length: {length}", CODED, line=POST, body=HELLO)
        book.no(CODED, f"Content-Length: {length}", line=POST, body=HELLO)
        book.no(CODED, "X: y", f"content-length: {length}", line="GET / HTTP/1.1", body=HELLO)
    book.rule("framing", "9112 §6.1", "a server that receives an HTTP/1.0 message with "
              "Transfer-Encoding MUST treat it as if the framing is faulty")
    book.no(CODED, line="POST / HTTP/1.0", body=HELLO)
    book.no(CODED, "Connection: keep-alive", line="POST / HTTP/1.0", body=HELLO)
    book.no(CODED, "Content-Length: 5", line="POST / HTTP/1.0", body="hello")
    book.rule("framing", "9112 §5.1", "no whitespace between a field's name and its colon; a server "
              "MUST reject with 400")
    for text in (f"{name}{blank}: {value}" for blank in (" ", "\t", "  ") for name, value in
                 (("Transfer-Encoding", "chunked"), ("Content-Length", "5"), ("Host", "b.example"))):
        book.no(text, line=POST, body=HELLO)
    book.rule("framing", "9110 §5.1", "a name that is nearly that of a framing field is another one")
    for name in ("Transfer_Encoding", "TransferEncoding", "Transfer-Encoding-X", "X-Transfer-Encoding",
                 "Transfer.Encoding", "Content_Length", "ContentLength", "Content-Length-X"):
        length = len(octets(HELLO))
        book.ok(f"{name}: chunked", f"Content-Length: {length}", line=POST, body=HELLO)
    book.rule("framing", "9110 §7.6.1", "a Connection option that names a field which frames must not "
              "make another message of it")
    book.ok("Content-Length: 5", "Connection: Content-Length", line=POST, body="hello")
    book.ok(CODED, "Connection: Transfer-Encoding", line=POST, body=HELLO, gives="hello")
    book.ok("Content-Length: 5", "Connection: keep-alive, Host", line=POST, body="hello")
    book.ok("Connection: X-Gone, x-also", "X-Gone: 1", "X-Also: 2", "X-Stays: 3")
    book.rule("framing", "9112 §2.2", "a sender must not send a bare CR; a recipient of one MUST "
              "consider the element invalid or replace it by SP")
    for text in ("X: y\rTransfer-Encoding: chunked", "X: y\r", "X\r: y", "\rX: y",
                 "Transfer-Encoding: \rchunked", "Transfer-Encoding: chunked\r", "X: \r\r"):
        book.no(text, line=POST, body=HELLO)
    book.rule("framing", "9112 §2.2", "a recipient MAY recognize a single LF as a line terminator; "
              "README: it is refused")
    for text in ("X: y\nTransfer-Encoding: chunked", "X: y\n", "\nX: y", "X: y\n\nGET /hidden HTTP/1.1",
                 "Content-Length: 5\n"):
        book.no(text, line=POST, body=HELLO)
    for ends in ("\n", "\r", "\n\r", "\r\r\n"):
        book.no(raw=head("GET / HTTP/1.1", [], ends=ends))


def chunked(book):
    def is_read(body, gives, verdict="ok", fields=()):
        book.ok(CODED, *fields, line=POST, body=body, gives=gives, verdict=verdict)

    def is_refused(body, statuses=BAD):
        book.no(CODED, line=POST, body=body, statuses=statuses)

    book.rule("chunks", "9112 §7.1", "chunk-size = 1*HEXDIG")
    for size, count in (("5", 5), ("05", 5), ("0000000000000005", 5), ("a", 10), ("A", 10), ("0f", 15),
                        ("1F", 31), ("00a0", 160)):
        is_read(f"{size}\r\n{'x' * count}\r\n0\r\n\r\n", "x" * count)
    for last in ("0", "00", "0000000000000000"):
        is_read(f"5\r\nhello\r\n{last}\r\n\r\n", "hello")
    is_read("1\r\na\r\n2\r\nbc\r\n3\r\ndef\r\n0\r\n\r\n", "abcdef")
    is_read("".join(f"1\r\n{it}\r\n" for it in string.ascii_letters) + "0\r\n\r\n",
            string.ascii_letters)
    is_read("4\r\n\r\n\r\n\r\n0\r\n\r\n", "\r\n\r\n")
    is_read("5\r\n0\r\n\r\n\r\n0\r\n\r\n", "0\r\n\r\n")
    size = len(octets(HIDDEN))
    is_read(f"{size:x}\r\n{HIDDEN}\r\n0\r\n\r\n", HIDDEN)
    is_read("2000\r\n" + "y" * 8192 + "\r\n0\r\n\r\n", "y" * 8192)
    book.rule("chunks", "9112 §7.1", "a recipient MUST anticipate potentially large hexadecimal "
              "numerals and prevent parsing errors due to integer conversion overflows")
    is_read(f"{'0' * 16}5\r\nhello\r\n0\r\n\r\n", "hello", "may")
    is_read(f"{'0' * 200}5\r\nhello\r\n0\r\n\r\n", "hello", "may")
    for size in ("10000000000000005", "FFFFFFFFFFFFFFFFF", "1" + "0" * 31 + "5"):
        is_refused(f"{size}\r\nhello\r\n0\r\n\r\n")
    book.rule("chunks", "9112 §7.1", "chunk-size is hexadecimal digits and nothing else")
    for size in ("", " 5", "\t5", "+5", "-5", "0x5", "5h", "g", "5.", "5,", "5_", "\xb2", "5\x00", "\x005",
                 "5\x0b", "5 5", "5\xa0", "'5'", '"5"', "\r\n5", "5\r"):
        is_refused(f"{size}\r\nhello\r\n0\r\n\r\n")
    book.rule("chunks", "9112 §7.1", "chunk = chunk-size [ chunk-ext ] CRLF chunk-data CRLF")
    for body in ("5\nhello\r\n0\r\n\r\n", "5\r\nhello\n0\r\n\r\n", "5\r\nhello\r\n0\n\r\n",
                 "5\rhello\r\n0\r\n\r\n", "5\r\nhello\r0\r\n\r\n", "5\r\nhello0\r\n\r\n",
                 "5\r\nhello!\r\n0\r\n\r\n", "5\r\nhell\r\n0\r\n\r\n", "5\r\nhello\r\n\r\n0\r\n\r\n",
                 "5\r\nhello  \r\n0\r\n\r\n", "5\r\nhello\r\n0\r\r\n\r\n", "5\r\nhello\r\n0\r\n\rX",
                 "5\r\nhello\r\n0\r\n\n", "5\n\nhello\n0\n\n"):
        is_refused(body)
    book.rule("chunks", "9112 §7.1.1", "a recipient MUST ignore unrecognized chunk extensions")
    for extension in (";a", ";a=b", ';a="b"', ';a="b;c"', ";a;b;c", ";a=b;c=d", ";a=" + "x" * 200,
                      ';a="\\""', ";a=b" * 20):
        is_read(f"5{extension}\r\nhello\r\n0{extension}\r\n\r\n", "hello")
    book.rule("chunks", "9112 §7.1.1", "chunk-ext = *( BWS \";\" BWS chunk-ext-name ...): a recipient "
              "MUST parse for such bad whitespace and remove it (9110 §5.6.3)")
    for extension in (" ;a", "\t;a", "; a", " ; a=b", ";a =b", ";a= b", " ; a = b ; c"):
        is_read(f"5{extension}\r\nhello\r\n0\r\n\r\n", "hello")
    book.rule("chunks", "9112 §7.1.1", "no whitespace behind a chunk-size without an extension")
    for blank in (" ", "\t", "   ", " \t"):
        is_refused(f"5{blank}\r\nhello\r\n0\r\n\r\n")
        is_refused(f"5\r\nhello\r\n0{blank}\r\n\r\n")
    book.rule("chunks", "9112 §7.1.1", "a line of a chunk's size ends in CRLF, whatever is quoted")
    for extension in (";a\x00", ";\x00", ";a\rb", ";a\nb", ';a="\nb"', ";a=\x07", ";\x7f", ";a\n",
                      ';a="\r\nb"'):
        is_refused(f"5{extension}\r\nhello\r\n0\r\n\r\n")
    book.rule("chunks", "9112 §7.1.1", "a server ought to limit the total length of chunk extensions")
    is_refused(f"5;{'x' * 100_000}\r\nhello\r\n0\r\n\r\n", {400, 413})
    book.rule("chunks", "9112 §7.1.1", "chunk-ext-name = token; a recipient may drop what is no "
              "extension, for it changes nothing of the framing")
    for extension in (";", ";;", "; ", ";=b", ";a=", ";a b", ';a="b', ";(", ";\xff"):
        is_read(f"5{extension}\r\nhello\r\n0\r\n\r\n", "hello", "may")
    book.rule("chunks", "9112 §7.1.2", "trailer fields go on or are dropped, never into the head")
    for trailer in ("X-Trailer: a", "X-Trailer:", "A: 1\r\nB: 2\r\nC: 3", "Content-Length: 5",
                    "Transfer-Encoding: chunked", "Host: hidden.example", "X-Case: @CASE@",
                    "Content-MD5: x\xff", "Connection: close", "Authorization: x", "A-b!#$%&'*+.^_`|~: z"):
        is_read(f"5\r\nhello\r\n0\r\n{trailer}\r\n\r\n", "hello")
    for name in ("X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "X-Real-IP", "X_Real_IP", "Proxy",
                 "Cookie", "Content-Type", "Content_Length", "Upgrade", "TE", "Expect", "Origin"):
        is_read(f"5\r\nhello\r\n0\r\n{name}: 6.6.6.6\r\n\r\n", "hello")
    is_read("5\r\nhello\r\n0\r\nX-Sum: a\r\n\r\n", "hello", fields=["Trailer: X-Sum"])
    is_read("5\r\nhello\r\n0\r\nX-Sum: a\r\n\r\n", "hello", fields=["TE: trailers", "Connection: TE"])
    book.rule("chunks", "9112 §7.1.2", "trailer-section = *( field-line CRLF )")
    for trailer in (" X: folded", "X: a\r\n b", "X: \x00", "X: a\rb", "X: a\nb", "X: \x7f", "X: a\n"):
        is_refused(f"5\r\nhello\r\n0\r\n{trailer}\r\n\r\n")
    for trailer in ("X : a", ": a", "no colon", "X y: a", HIDDEN.split("\r\n", maxsplit=1)[0]):
        is_refused(f"5\r\nhello\r\n0\r\n{trailer}\r\n\r\n")
    is_refused("5\r\nhello\r\n0\r\n" + "X: y\r\n" * 2000 + "\r\n", {400, 431})
    is_refused("5\r\nhello\r\n0\r\nX: " + "y" * 70_000 + "\r\n\r\n", {400, 431})


def lines(book):
    book.rule("request line", "9110 §9.1", "method = token, case-sensitive; one that is not known "
              "is for the origin server to judge")
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "REPORT", "MKCOL",
                   "M-SEARCH", "QUERY", "get", "Get", "POSTX", "X", "A!#$%&'*+.^_`|~-9", "TRACE",
                   "L" * 60):
        book.ok(line=f"{method} / HTTP/1.1")
        if method != "TRACE":
            book.ok("Content-Length: 5", line=f"{method} / HTTP/1.1", body="hello")
    book.ok(line="HEAD / HTTP/1.1")
    book.no(line="CONNECT a.example:80 HTTP/1.1", statuses={405, 501, 400})
    book.no(line="CONNECT / HTTP/1.1", statuses={405, 501, 400})
    book.rule("request line", "9112 §3", "request-line = method SP request-target SP HTTP-version")
    for octet in "()<>@,;:\\\"/[]?={}\x00\x01\x0b\x7f\x80\xff":
        book.no(line=f"GE{octet}T / HTTP/1.1")
    for line in ("", " GET / HTTP/1.1", "\tGET / HTTP/1.1", "GET  / HTTP/1.1", "GET /  HTTP/1.1",
                 "GET\t/ HTTP/1.1", "GET /\tHTTP/1.1", "GET / HTTP/1.1 ", "GET / HTTP/1.1\t",
                 "GET\x0b/\x0bHTTP/1.1", "GET / HTTP/1.1 x", "GET /", "GET", "/ HTTP/1.1", "GET HTTP/1.1",
                 " / HTTP/1.1", "GET / / HTTP/1.1", "GET / HTTP/1.1 HTTP/1.1", "GET\xa0/ HTTP/1.1",
                 "GET / HTTP/1.0 HTTP/1.1", "GET /\x00 HTTP/1.1", "GET / HTTP/1.1\x00", "HTTP/1.1 200 OK",
                 "GET /\r HTTP/1.1", "Host: a", "\x16\x03\x01\x02", "PRI * HTTP/2.0"):
        book.no(line=line, statuses={400, 505})
    book.rule("request line", "9112 §2.3", "HTTP-version = \"HTTP/\" DIGIT \".\" DIGIT, case-sensitive")
    for version in ("http/1.1", "Http/1.1", "HTTP/1", "HTTP/1.", "HTTP/.1", "HTTP/01.1", "HTTP/1.10",
                    "HTTP/1.01", "HTTP/11", "HTTP/1,1", "HTTP/1.1x", "HTTP /1.1", "HTTPS/1.1", "HTTP/ 1.1",
                    "HTTP/1 .1", "HTTP/a.b", "HTTP/-1.1", "HTTP/1.1.1", "HTTP", "HTTP/", "X", "ICY/1.1",
                    "HTTP/\xb2.1", "HTTP/1.1\xa0"):
        book.no(line=f"GET / {version}", statuses={400, 505})
    book.rule("request line", "9110 §15.6.6", "505: the major version is not supported")
    for version in ("HTTP/2.0", "HTTP/3.0", "HTTP/0.9", "HTTP/9.9", "HTTP/2.1"):
        book.no(line=f"GET / {version}", statuses={505})
    book.rule("request line", "9110 §2.5", "a recipient of a higher minor version SHOULD process it "
              "as the highest minor version within that major version")
    for version in ("HTTP/1.2", "HTTP/1.9"):
        book.may(line=f"GET / {version}", statuses=frozenset({505}))
    book.rule("request line", "9112 §2.3", "HTTP/1.0 is served; its connection closes unless it says "
              "keep-alive (§9.3)")
    book.ok(line="GET /old HTTP/1.0", end="closed")
    book.ok("Connection: keep-alive", line="GET /old HTTP/1.0")
    book.ok("Content-Length: 5", line="POST /old HTTP/1.0", body="hello", end="closed")
    book.ok("Connection: keep-alive", "Content-Length: 5", line="POST /old HTTP/1.0", body="hello")
    book.ok("Expect: 100-continue", "Content-Length: 5", line="POST /old HTTP/1.0", body="hello",
            end="closed")
    book.rule("request line", "9112 §2.2", "a server SHOULD ignore at least one empty line before the "
              "request-line")
    book.ok(before="\r\n")
    book.ok("Content-Length: 5", line=POST, body="hello", before="\r\n")
    book.may(before="\r\n\r\n\r\n")
    book.rule("request line", "9112 §2.2", "whitespace between the start-line and the first field: "
              "reject, or consume it without further processing")
    for blank in (" ", "\t", "  \t"):
        for text in ("X: y", "Host: b.example", CODED, ""):
            book.no(raw=f"GET / HTTP/1.1\r\n{blank}{text}\r\nHost: a.example\r\nX-Case: @CASE@\r\n\r\n")
    book.rule("request line", "9112 §3", "no assigned limit; 414 or 400 where it is too long")
    for size in (1000, 4000, 7900):
        book.ok(line=f"GET /{'a' * size} HTTP/1.1")
        book.ok(line=f"GET /?{'a' * size} HTTP/1.1")
    for size in (40_000, 300_000):
        book.no(line=f"GET /{'a' * size} HTTP/1.1", statuses={414, 431, 400})
        book.no(line=f"{'G' * size} / HTTP/1.1", statuses={414, 431, 400, 501})


def targets(book):
    book.rule("target", "9112 §3.2.1", "origin-form = absolute-path [ \"?\" query ], passed on as it is")
    for target in ("/", "/a", "/a/b/c", "//", "//b.example/x", "///", "/a?b=c", "/?", "/a?b?c", "/a?/../b",
                   "/.", "/..", "/../x", "/a/../b", "/a/./b", "/%2e%2e/x", "/%00", "/%0d%0a", "/%zz", "/%",
                   "/a;b=c", "/a:b@c", "/a,b", "/~a", "/a+b", "/a%20b", "/a=b&c", "/!$&'()*+,;=:@", "/%41",
                   "/http://b.example/", "/:80", "/a?x=http://b.example/", "/*", "/a?[]", "/a//b//"):
        book.ok(line=f"GET {target} HTTP/1.1")
    book.rule("target", "9112 §3.2", "an invalid request-line SHOULD be answered with 400; it is no "
              "origin-form (RFC 3986 §3.3), though browsers send it")
    for target in ('/"', "/<>", "/\\", "/^", "/`", "/{}", "/|", "/a?{\"x\":[1]}", "/a\\..\\b",
                   "/\xc3\xa9", "/a?\xc3\xa9", "/[x]"):
        book.may(line=f"GET {target} HTTP/1.1")
    for target in ("/\xff", "/\xe9", "/\x80", "/\xc3"):
        book.may(line=f"GET {target} HTTP/1.1")
    book.rule("target", "9112 §3.2", "no whitespace or control characters in a request-target")
    for octet in "\x00\x01\x07\x08\x0b\x0c\x1b\x1f\x7f\t ":
        book.no(line=f"GET /a{octet}b HTTP/1.1")
    book.rule("target", "9110 §7.1", "the target URI excludes the reference's fragment component")
    for target in ("/#", "/a#b", "/a?b#c", "http://a.example/#x", "#", "*#"):
        book.no(line=f"GET {target} HTTP/1.1")
    book.rule("target", "9112 §3.2.4", "asterisk-form is only for a server-wide OPTIONS")
    book.ok(line="OPTIONS * HTTP/1.1")
    book.ok("Content-Length: 5", line="OPTIONS * HTTP/1.1", body="hello")
    for line in ("GET *", "POST *", "HEAD *", "OPTIONS **", "OPTIONS *?x", "OPTIONS */", "options *"):
        book.no(line=f"{line} HTTP/1.1")
    book.rule("target", "9112 §3.2.2", "a server MUST accept the absolute-form; a proxy MUST ignore "
              "the received Host and replace it with the host information of the target")
    for target, path, asked in (
            ("http://a.example/x", "/x", "a.example"), ("http://b.example/x", "/x", "b.example"),
            ("http://b.example:81/x?y", "/x?y", "b.example:81"), ("HTTP://b.example/x", "/x", "b.example"),
            ("https://b.example/x", "/x", "b.example"), ("http://b.example", "/", "b.example"),
            ("http://b.example?q", "/?q", "b.example"), ("http://[::1]:80/x", "/x", "[::1]:80"),
            ("http://127.0.0.1/x", "/x", "127.0.0.1"), ("http://b.example//x", "//x", "b.example"),
            ("http://b.example/http://c/", "/http://c/", "b.example"),
            ("http://b.example:/x", "/x", "b.example:")):
        book.ok(line=f"GET {target} HTTP/1.1", target=path, asked=asked)
    book.ok(line="OPTIONS http://b.example HTTP/1.1", target="*", asked="b.example")
    book.ok("Content-Length: 5", line="POST http://b.example/x HTTP/1.1", target="/x",
            asked="b.example", body="hello")
    book.rule("target", "9110 §4.2.1", "a recipient MUST reject an http URI with an empty host")
    for target in ("http://", "http:///x", "http://:80/x", "http://:/x", "http://:80", "https://?x"):
        book.no(line=f"GET {target} HTTP/1.1")
    book.rule("target", "9110 §4.2.4", "userinfo in an http URI: treat its presence as an error")
    for target in ("http://user@b.example/x", "http://u:p@b.example/", "http://@b.example/",
                   "http://a.example\\@b.example/"):
        book.no(line=f"GET {target} HTTP/1.1")
    book.rule("target", "9112 §3.2", "four forms, and no other")
    for target in ("a", "a/b", "?a", "a.example:80", "ftp://b.example/x", "file:///etc/passwd",
                   "http:/x", "http:x", "http//b.example/", "javascript:x", "ws://b.example/", ":80", "@",
                   "http://b example/", "http://b.example:x/", "http://[::1/", "http://b.example:80:80/",
                   "\\", "%2f", ".", "..", "../x", "//b.example"[2:] + "/x", "http://b.ex%zzample/"):
        book.no(line=f"GET {target} HTTP/1.1")
    book.no(line="OPTIONS a HTTP/1.1")


def hosts(book):
    book.rule("Host", "9110 §7.2", "Host = uri-host [ \":\" port ]")
    for host in ("a", "a.example", "A.Example", "a.example.", "a.example:80", "a.example:", "127.0.0.1",
                 "127.0.0.1:8080", "[::1]", "[::1]:80", "[::ffff:1.2.3.4]", "a-b.example", "a%20b", "x~y",
                 "localhost:3000", "a!$&'()*+;=", "1.2.3", "[v1.x:y]"):
        book.ok(host=host)
    book.rule("Host", "9110 §7.2", "a client MUST send Host even if it is empty for that URI")
    book.may(host="")
    book.may(host=":80")
    book.may(host=":")
    book.rule("Host", "9112 §3.2", "a server MUST respond with 400 to a request that lacks Host, has "
              "more than one, or an invalid value")
    book.no(host=None)
    book.no("Content-Length: 5", line=POST, host=None, body="hello")
    book.no(line="GET http://a.example/ HTTP/1.1", host=None)
    for second in ("a.example", "b.example", "", "A.EXAMPLE"):
        book.no(f"Host: {second}")
        book.no(f"host: {second}")
    for host in ("[::1", "a:b", "%zz", "a:80:80", "::1", "a b", "a\tb", "a,b", "a, b", "a/b", "/", "a?b",
                 "a#b", "u@a", "@a", "http://a", "a\\b", "[]", "[::1]x", "[::1]:x", "x[::1]", "[g::1]",
                 "[::1%25eth0]", "a%", "a%4", "a%4g", "<a>", "a\"b", "{a}", "a|b", "a^b", "a`b", "a:-1",
                 "a:+1", "a: 80", "a :80", "a:0x50", "\xe9.example", "a\xff", "[v1]", "[vx.y]", "a]", "[a"):
        book.no(host=host)
    for octet in "\x00\x01\x0b\x0c\x1f\x7f":
        book.no(host=f"a{octet}.example")
    book.rule("Host", "9112 §3.2", "HTTP/1.0 may lack it, never have it twice")
    book.no("Host: b.example", line="GET / HTTP/1.0")
    for name in ("Host ", " Host", "Host\t"):
        book.no(f"{name}: b.example")
    book.rule("Host", "9110 §7.2", "nothing but Host says which host was asked")
    for name in ("X-Host", "Hosts", "X-Original-Host", "Ho-st"):
        book.ok(f"{name}: b.example")


def fields(book):
    book.rule("fields", "9110 §5.1", "field-name = token")
    for name in ("X", "x-a", "X!#$%&'*+.^`|~-1", "9", "-", "~", "N" * 200):
        book.ok(f"{name}: y")
    for octet in "()<>@,;\\\"/[]?={} \t\x00\x01\x0b\x0c\x1f\x7f\x80\xff":
        book.no(f"X{octet}Y: z")
        if octet not in " \t":
            book.no(f"{octet}: z")
    for text in (": z", "X", "no colon here", "X Y: z", " : z", "\xefX: z"):
        book.no(text)
    book.rule("fields", "9110 §5.5", "field-value without whitespace around it; obs-text is opaque data")
    for value in ("", " ", "\t", "a", " a", "a ", "\ta\t", "a b", "a\tb", "a  b", "a:b", ":", "::", "\xe9",
                  "\xff\x80", "\xc3\xa9", "\xa0", "\x85x", "a,b", '"a\\"b"', "=?utf-8?q?x?=", "<script>",
                  "'; drop", "%0d%0aX: y", "${jndi:x}", "() { :; }", "x" * 4000):
        book.ok(f"X-Value:{value}")
    book.rule("fields", "9110 §5.5", "values with CR, LF or NUL are invalid and dangerous: reject, or "
              "replace by SP; other control characters are invalid too")
    for octet in [chr(it) for it in range(32) if chr(it) not in "\t"] + ["\x7f"]:
        book.no(f"X-Value: a{octet}b")
    for octet in "\x00\x0b\x0c\x7f":
        book.no(f"X-Value: {octet}a")
        book.no(f"X-Value: a{octet}")
    book.rule("fields", "9112 §5.2", "obs-fold outside message/http: a server MUST reject with 400 "
              "or replace it by SP")
    for text in ("X: a\r\n b", "X: a\r\n\tb", "X:\r\n a", "X: a\r\n ", "X: a\r\n Host: b.example",
                 "X: a\r\n Content-Length: 5", "Content-Length: 5\r\n 5", "X: a\r\n \r\n b",
                 "Transfer-Encoding:\r\n chunked", "X: a\r\n\t \tb"):
        book.no(text, line=POST, body="hello")
    book.rule("fields", "9110 §5.3", "fields of one name keep their order; a proxy MUST NOT change it")
    book.ok("X-A: 1", "X-B: 2", "x-a: 3", "X-A: 4")
    book.ok(*(f"X-Many: {it}" for it in range(60)))
    book.ok("Cookie: a=b; c=d", "Accept: */*", "Accept-Encoding: gzip, deflate", "User-Agent: x (y; z)",
            "Authorization: Basic YTpi", "If-None-Match: \"x\"", "Range: bytes=0-4", "Referer: http://c/")
    book.ok("Content-Type: text/plain", "Content-Length: 5", "Content-Encoding: x", line=POST,
            body="hello")
    book.rule("fields", "9110 §7.6.1", "hop-by-hop fields and those that Connection names are removed")
    for text in ("Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "TE: gzip", "Upgrade: h2c",
                 "Proxy-Authorization: Basic x", "Proxy: http://evil.example", "Trailer: X"):
        book.ok(text, "X-Stays: 1")
        book.ok(text, f"Connection: {text.split(':', maxsplit=1)[0]}", "X-Stays: 1")
    book.ok("Connection: close, X-Gone", "X-Gone: 1", end="closed")
    book.ok("Connection: ,,keep-alive,, ,X-Gone", "X-Gone: 1")
    book.ok("connection: X-Gone", "CONNECTION: x-two", "X-Gone: 1", "X-Two: 2", "X-Stays: 3")
    book.rule("fields", "README", "names with an underscore never arrive")
    book.ok("X_Real_IP: 1.2.3.4", "X-A_b: c", "_: d", "X-Stays: 1")
    book.rule("fields", "9110 §5.4", "no predefined limit; 4xx where there is too much")
    book.ok(*(f"X-{it}: {it}" for it in range(100)))
    book.no(*(f"X-{it}: {it}" for it in range(140)), statuses={431})
    book.no(*(f"X-{it}: {it}" for it in range(20_000)), statuses={431})
    book.no(f"X-Long: {'x' * 40_000}", statuses={431})
    book.no(f"{'X' * 40_000}: x", statuses={431})
    book.no(f"Connection: {','.join(f'x{it}' for it in range(500))}")


def several(book):
    def seen(method="GET", target="/", body="", host="a.example", fields=()):
        return Seen(method, target, host, list(fields), octets(body))

    get = head("GET /1 HTTP/1.1", [])
    post = head("POST /2 HTTP/1.1", ["Content-Length: 5"]) + b"hello"
    coded = head("PUT /3 HTTP/1.1", [CODED]) + octets(HELLO)
    asks = head("HEAD /4 HTTP/1.1", [])
    whole = {"get": (get, seen(target="/1")), "post": (post, seen("POST", "/2", "hello")),
             "coded": (coded, seen("PUT", "/3", "hello")), "head": (asks, seen("HEAD", "/4"))}
    book.rule("pipelining", "9112 §9.3.2", "a server MUST send the responses to pipelined requests in "
              "the order that they were received")
    for names in ("get get", "get post", "post get", "coded get", "coded coded", "head get", "get head post",
                  "post post post", "post coded get head", "get " * 8, "coded post " * 4,
                  "head head get head"):
        parts = [whole[name] for name in names.split()]
        book.add(b"".join(raw for raw, _ in parts), [it for _, it in parts], "open", "ok")
    book.rule("pipelining", "9112 §2.2", "an empty line behind a body, as old clients send it, is ignored")
    for gap in (b"\r\n",):
        book.add(post + gap + get, [whole["post"][1], whole["get"][1]], "open", "ok")
        book.add(coded + gap + post, [whole["coded"][1], whole["post"][1]], "open", "ok")
    book.rule("pipelining", "9112 §9.6", "a server that received close MUST NOT process any further "
              "requests of that connection")
    last = head("GET /1 HTTP/1.1", ["Connection: close"])
    book.add(last + get, [whole["get"][1]], "closed", "ok")
    book.add(post + last + post, [whole["post"][1], whole["get"][1]], "closed", "ok")
    book.add(head("GET /1 HTTP/1.1", ["Connection: keep-alive, Close"]) + get, [whole["get"][1]],
             "closed", "ok")
    book.add(head("GET /1 HTTP/1.0", []) + get, [whole["get"][1]], "closed", "ok")
    book.rule("pipelining", "9112 §11.2", "where one request is refused nothing behind it is read, and "
              "what came before it is answered")
    for bad in (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"x\r\n\r\n",
                head(POST, ["Content-Length: 5", CODED]) + octets(HELLO),
                head(POST, [CODED]) + b"zz\r\n", b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/1.1\nHost: a\n\n",
                head(POST, ["Content-Length: 5, 6"]) + b"hello!", b"HTTP/1.1 200 OK\r\n\r\n",
                head("GET / HTTP/1.1", ["Content-Length : 5"]) + b"hello"):
        for name in ("get", "post", "coded"):
            book.add(whole[name][0] + bad + get, [whole[name][1]], "refused", "ok")
    book.rule("pipelining", "9112 §11.2", "octets that one body has too many belong to the next request")
    book.add(head(POST, ["Content-Length: 4"]) + b"hello" + get,
             [seen("POST", "/", "hell"), seen("oGET", "/1")], "open", "ok")
    book.add(head(POST, ["Content-Length: 5"]) + b"hello\x00" + get, [seen("POST", "/", "hello")],
             "refused", "ok")
    book.add(head(POST, ["Content-Length: 0"]) + b"0\r\n\r\n" + get, [seen("POST", "/", "")],
             "refused", "ok")
    book.add(head(POST, [CODED]) + b"0\r\n\r\nX: y\r\n\r\n" + get, [seen("POST", "/", "")],
             "refused", "ok")
    book.add(head(POST, ["Transfer_Encoding: chunked"]) + octets(HELLO) + get, [seen("POST", "/")],
             "refused", "ok")
    book.rule("pipelining", "9110 §10.1.1", "100-continue: the request is passed on with its expectation, "
              "and another expectation is for the server to judge")
    for value in ("100-continue", "100-Continue", "100-CONTINUE"):
        book.ok(f"Expect: {value}", "Content-Length: 5", line=POST, body="hello")
        book.ok(f"Expect: {value}", CODED, line=POST, body=HELLO, gives="hello")
        book.ok(f"Expect: {value}")
    book.ok("Expect: 100-continue", "Content-Length: 0", line=POST)
    for value in ("", "x", "100-continue, x", "200-ok"):
        book.may(f"Expect: {value}", "Content-Length: 5", line=POST, body="hello",
                 statuses=frozenset({417}))
    book.rule("pipelining", "9110 §7.8", "an Upgrade that is not for WebSocket goes no further")
    for value in ("h2c", "h2c, websocket", "websocket, h2c", "TLS/1.0", "HTTP/2.0", "", "websocket/13"):
        book.ok(f"Upgrade: {value}", "Connection: Upgrade", "HTTP2-Settings: AAMAAABkAAQAAP__")
        book.ok(f"Upgrade: {value}", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABk")
    book.ok("Upgrade: websocket")
    book.ok("Upgrade: websocket", "Connection: Upgrade", "Content-Length: 5", line=POST, body="hello")
    book.ok("Upgrade: websocket", "Connection: Upgrade", line="GET / HTTP/1.0", end="closed")
    book.rule("pipelining", "9110 §7.6.2", "Max-Forwards is decremented for TRACE and OPTIONS, and at zero "
              "answered here")
    book.ok("Max-Forwards: 5", line="OPTIONS / HTTP/1.1")
    book.ok("Max-Forwards: 5", line="GET / HTTP/1.1")
    for value in ("x", "-1", "1, 2", "+5"):
        book.no(f"Max-Forwards: {value}", line="OPTIONS / HTTP/1.1")


def cut(book):
    """The visitor ends the connection in the middle: nothing whole may be seen."""
    book.rule("cut", "9112 §8", "a server that receives an incomplete request MAY send an error; it "
              "is never taken as a whole one")
    message = head(POST, ["Content-Length: 5"]) + b"hello"
    coded = head(POST, [CODED]) + octets(HELLO)
    for whole in (message, coded):
        step = max(len(whole) // 20, 1)
        for at in [*range(1, len(whole) - 14, step), *range(len(whole) - 14, len(whole))]:
            book.add(whole[:at], [], "cut", "no")


def all_cases():
    book = Book()
    for chapter in (lengths, codings, chunked, lines, targets, hosts, fields, several, cut):
        chapter(book)
    return book.cases
