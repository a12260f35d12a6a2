/**
 * The vectors that the Rust codec reads too; their README says what each key means.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { Batch } from '../../src/wire/batch.js';
import { codeName } from '../../src/wire/code.js';
import {
  parseObject,
  readBindId,
  readConnected,
  readBindOk,
  readGoaway,
  readHelloOk,
  readRefusal,
  readResponseHead,
  readStreamOpen,
  readTickets,
  readTrailers,
  type Headers,
} from '../../src/wire/control.js';
import {
  decodeMessage,
  decodeReset,
  faultCode,
  FrameType,
  WireError,
} from '../../src/wire/frame.js';
import { isFault, throws } from '../support/assert.js';
import { readHello } from '../support/kit-control.js';
import { hostNameOf, readTarget, shownAs } from '../../src/local/address.js';
import { bodyOf } from '../../src/local/body.js';
import { HeadReader } from '../../src/local/head-reader.js';
import {
  HttpFault,
  parseResponseHead,
  switchesToWebSocket,
  withoutHopByHop,
} from '../../src/local/head.js';
import { localRequest } from '../../src/local/request.js';
import { Names, type LocalName } from '../../src/local/rewrite.js';
import { greeting } from '../../src/local/greeting.js';
import { lastChunk } from '../../src/local/trailers.js';
import { HeadParts } from '../../src/wire/parts.js';
import { SessionRecvCredit, StreamRecvCredit } from '../../src/mux/credit.js';
import { isWorthACall, leave, share } from '../../src/mux/share.js';

type Case = Record<string, unknown> & { name: string };

function load(file: string): Case[] {
  // Tests run from dist-test/test/unit, four rooms below the repository.
  const url = new URL(`../../../../tests/vectors/${file}.json`, import.meta.url);
  return JSON.parse(readFileSync(url, 'utf8')) as Case[];
}

function bytes(one: Case): Buffer {
  if (typeof one['hex'] === 'string') return Buffer.from(one['hex'], 'hex');
  const parts = (one['parts'] ?? []) as { hex: string; repeat: number }[];
  return Buffer.concat(parts.map(({ hex, repeat }) => Buffer.from(hex.repeat(repeat), 'hex')));
}

function payload(one: Case): Buffer {
  if (typeof one['payloadHex'] === 'string') return Buffer.from(one['payloadHex'], 'hex');
  return Buffer.from(one['payload'] as string, 'utf8');
}

const NAMES = new Map<number, string>(
  Object.entries(FrameType).map(([name, type]) => [
    type,
    name.replace(/(?<=[a-z])(?=[A-Z])/g, '_').toUpperCase(),
  ]),
);

test('messages are read, or refused, as the vectors say', () => {
  for (const one of load('messages')) {
    if (one['error'] !== undefined) {
      const error = throws(() => decodeMessage(bytes(one)), WireError);
      assert.equal(error.fault, one['error'], one.name);
      assert.equal(codeName(error.code), one['code'], one.name);
      continue;
    }
    const frames = decodeMessage(bytes(one));
    const wanted = one['frames'] as Record<string, unknown>[];
    assert.equal(frames.length, wanted.length, one.name);
    frames.forEach((frame, at) => {
      const want = wanted[at]!;
      assert.equal(NAMES.get(frame.type), want['type'], one.name);
      assert.equal(frame.streamId, want['streamId'], one.name);
      if (want['payloadHex'] !== undefined) {
        assert.equal(frame.payload.toString('hex'), want['payloadHex'], one.name);
      }
      if (want['payloadLength'] !== undefined) {
        assert.equal(frame.payload.length, want['payloadLength'], one.name);
      }
      assert.equal(frame.fault, want['fault'], one.name);
      if (frame.fault !== undefined) {
        assert.equal(codeName(faultCode(frame.fault)), want['faultCode'], one.name);
      }
      const reset = want['reset'] as { number: number; reason: string } | undefined;
      if (reset !== undefined) {
        const { code, reason } = decodeReset(frame.payload);
        assert.deepEqual({ code, reason }, { code: reset.number, reason: reset.reason }, one.name);
      }
      if (want['json'] !== undefined) {
        assert.deepEqual(JSON.parse(frame.payload.toString()), want['json'], one.name);
      }
      if (want['increment'] !== undefined) {
        assert.equal(frame.payload.readUInt32BE(0), want['increment'], one.name);
      }
      if (want['ack'] !== undefined) {
        assert.equal(String(frame.payload.readBigUInt64BE(0)), want['ack'], one.name);
      }
    });
    if (one['canonical'] === true) {
      const batch = new Batch();
      for (const { type, streamId, payload } of frames) batch.push(type, streamId, payload);
      assert.equal(batch.take().toString('hex'), bytes(one).toString('hex'), one.name);
    }
  }
});

/** Reads a session frame and gives back the keys of `decoded` that this reader knows. */
function readControl(type: string, data: Buffer): Record<string, unknown> {
  switch (type) {
    case 'HELLO': {
      const { version, capabilities } = readHello(data);
      return { version, capabilities };
    }
    case 'HELLO_OK': {
      const hello = readHelloOk(data);
      const { sessionId, resumed, resumedBinds, streamWindow, sessionWindow } = hello;
      return { sessionId, resumed, resumedBinds, streamWindow, sessionWindow };
    }
    case 'BIND_OK':
      return { ...readBindOk(data) };
    case 'BIND_ERR': {
      const { clientBindRef, message } = readRefusal(data, type);
      return { clientBindRef, message };
    }
    case 'UNBIND_ERR': {
      const { bindId, code, message } = readRefusal(data, type);
      return { bindId, code, message };
    }
    case 'JOIN_ERR': {
      const { code, message } = readRefusal(data, type);
      return { code, message };
    }
    case 'UNBIND_OK':
      return { bindId: readBindId(data, type).bindId };
    case 'BIND_REVOKED':
      return { ...readBindId(data, type) };
    case 'REISSUE_JOIN_TICKETS':
      return { joinTickets: readTickets(parseObject(data, type)) };
    case 'GOAWAY': {
      const { code, message, graceMs } = readGoaway(data);
      return { code, message, graceMs };
    }
    default:
      // What the client says, or does not look into.
      parseObject(data, type);
      return {};
  }
}

test('session frames are read, or refused, as the vectors say', () => {
  for (const one of load('controls')) {
    const type = one['type'] as string;
    if (one['lenient'] === true) continue;
    if (one['error'] === true) {
      // BIND is read by kits alone.
      if (type !== 'BIND') throws(() => readControl(type, payload(one)), WireError, one.name);
      continue;
    }
    const decoded = one['decoded'] as Record<string, unknown>;
    for (const [key, value] of Object.entries(readControl(type, payload(one)))) {
      assert.deepEqual(value, decoded[key], `${one.name}: ${key}`);
    }
  }
});

function hex(headers: Headers): string[][] {
  return headers.map((pair) => pair.map((text) => Buffer.from(text, 'latin1').toString('hex')));
}

test('STREAM_CONNECTED is read, or refused, as the vectors say', () => {
  for (const one of load('stream_connected')) {
    if (one['error'] === true) throws(() => readConnected(payload(one)), WireError, one.name);
    else assert.equal(readConnected(payload(one)), one['peer'], one.name);
  }
});

test('STREAM_OPEN is read, or refused, as the vectors say', () => {
  for (const one of load('stream_open')) {
    const decoded = one['decoded'] as Record<string, unknown> | undefined;
    // A client takes no forwarded stream: for it that is a stream it refuses.
    if (one['error'] === true || decoded?.['kind'] === 'forward') {
      throws(() => readStreamOpen(payload(one)), WireError, one.name);
      continue;
    }
    const open = readStreamOpen(payload(one));
    assert.equal(open.kind, decoded?.['kind'], one.name);
    assert.equal(open.bindId ?? null, decoded?.['bindId'], one.name);
    assert.equal(open.containerPort ?? null, decoded?.['containerPort'], one.name);
    assert.equal(open.remoteAddr ?? null, decoded?.['remoteAddr'], one.name);
    if (open.kind !== 'http') continue;
    assert.equal(open.method, decoded?.['method'], one.name);
    assert.equal(open.isUpgrade, decoded?.['isUpgrade'], one.name);
    assert.equal(open.connectionId, decoded?.['connectionId'], one.name);
    assert.equal(Buffer.from(open.target, 'latin1').toString('hex'), decoded?.['targetHex']);
    assert.deepEqual(hex(open.headers), decoded?.['headersHex'], one.name);
    assert.equal(open.body ?? null, decoded?.['declaredBody'], one.name);
  }
});

test('the framing of an older kit’s request is inferred as the vectors say', () => {
  for (const one of load('stream_open')) {
    if (!one.name.startsWith('an older kit')) continue;
    const open = readStreamOpen(payload(one));
    if (open.kind !== 'http') continue;
    const rewrite = { ...AS_IT_IS, host: undefined };
    const { body } = localRequest(open, rewrite);
    const wanted = (one['decoded'] as { body: string }).body;
    // Whether a body of unknown length is there at all shows with its first byte or its end.
    assert.equal(body === 'unknown' ? 'chunked' : body, wanted, one.name);
  }
});

test('STREAM_RESPONSE_HEAD is read, or refused, as the vectors say', () => {
  for (const one of load('response_head')) {
    if (one['error'] === true) {
      throws(() => readResponseHead(payload(one)), WireError, one.name);
      continue;
    }
    const decoded = one['decoded'] as Record<string, unknown>;
    const head = readResponseHead(payload(one));
    assert.equal(head.status, decoded['status'], one.name);
    assert.equal(head.final, decoded['final'], one.name);
    assert.deepEqual(hex(head.headers), decoded['headersHex'], one.name);
    if (one['canonical'] === true) {
      assert.equal(JSON.stringify(head), one['payload'], one.name);
    }
  }
});

test('parts of heads are joined as the vectors say', () => {
  for (const one of load('head_parts')) {
    const { elements, repeat = 1, count } = one as Partial<Record<string, number>>;
    const parts = new HeadParts();
    const copies = `${'["a","b"],'.repeat((elements ?? 1) - 1)}["a","b"]`;
    const payloads = (one['parts'] as string[]).map((text) =>
      Buffer.from(elements === undefined ? text : text.replace('["a","b"]', copies)),
    );
    const all = Array.from({ length: repeat }, () => payloads).flat();
    const fit = all.map((part) => parts.add(part)).every(Boolean);
    assert.equal(!fit, one['tooMuch'] === true, one.name);
    if (!fit) continue;
    const rest = one['rest'] as Headers;
    if (one['error'] === true) throws(() => parts.before(rest), Error, one.name);
    else if (count !== undefined) assert.equal(parts.before(rest).length, count, one.name);
    else assert.deepEqual(parts.before(rest), one['headers'], one.name);
  }
});

test('what names the server is rewritten both ways as the vectors say', () => {
  for (const one of [...load('http/rewrite'), ...load('http/prefix')]) {
    const { secure = false, prefix = '', kept = false } = one as Partial<LocalName>;
    const local = { authority: one['local'] as string, secure, prefix, kept };
    const asked = {
      host: undefined,
      forwardedHost: undefined,
      forwardedProto: undefined,
      origin: undefined,
      contentType: undefined,
    };
    const visitor = { ...asked, publicUrl: null, upgrade: false, ...(one['visitor'] as object) };
    const names = new Names(local, visitor);
    for (const [target, becomes] of (one['targets'] ?? []) as [string, string | null][]) {
      assert.equal(names.target(target) ?? null, becomes, `${one.name}: ${target}`);
    }
    for (const value of (one['leadsOut'] ?? []) as string[]) {
      assert.ok(names.leadsOut('Destination', value), `${one.name}: ${value}`);
    }
    type Field = [name: string, value: string, becomes: string | null];
    for (const [name, value, becomes] of one['request'] as Field[]) {
      assert.equal(names.inwards(name, value), becomes ?? value, `${one.name}: ${name}: ${value}`);
    }
    for (const [name, value, becomes] of one['answer'] as Field[]) {
      assert.equal(names.outwards(name, value), becomes ?? value, `${one.name}: ${name}: ${value}`);
    }
  }
});

test('every spelling of a target is read as the vectors say', () => {
  for (const one of load('http/targets')) {
    const text = one['text'] as string;
    if (one['error'] !== undefined) {
      assert.throws(
        () => readTarget(text),
        ({ message }: Error) => {
          assert.ok(message.includes(one['error'] as string), `${text}: ${message}`);
          return !message.includes('hunter2');
        },
      );
      continue;
    }
    const target = readTarget(text);
    const { socketPath } = target;
    assert.equal(socketPath, one['unix'], text);
    if (socketPath === undefined) {
      assert.deepEqual([target.host, target.port], [one['host'], one['port']], text);
    }
    assert.equal(target.prefix, one['prefix'] ?? '', text);
    assert.equal(hostNameOf(target), one['hostHeader'], text);
    assert.equal(shownAs(target), one['shown'], text);
    assert.deepEqual(readTarget(shownAs(target)), target, 'what is shown can be given again');
  }
});

test('answers are read as the vectors say, however they come', () => {
  for (const one of load('http/answers')) {
    const answer = Buffer.from(one['answer'] as string, 'latin1');
    const method = (one['method'] as string | undefined) ?? 'GET';
    if (one['switches'] !== undefined) {
      const head = parseResponseHead(answer.toString('latin1', 0, answer.length - 4));
      assert.equal(switchesToWebSocket(head), one['switches'], one.name);
      continue;
    }
    for (const piece of [1, 2, 3, 7, answer.length]) {
      const name = `${one.name}, by ${String(piece)}`;
      if (one['error'] !== undefined)
        throws(() => readAnswer(answer, method, piece), HttpFault, name);
      else {
        const headers = [...(one['headers'] as Headers)].sort();
        const { status, body, again } = one;
        assert.deepEqual(readAnswer(answer, method, piece), { status, headers, body, again }, name);
      }
    }
  }
});

test('a local server is told who is calling as the vectors say', () => {
  for (const one of load('proxy_protocol')) {
    // What is exposed has another destination, and is not told here.
    const unknown = one.name.startsWith('not known');
    if (one['mode'] !== 'pull' && !unknown) continue;
    const remote = (one['remoteAddr'] as string | null) ?? undefined;
    for (const version of [1, 2] as const) {
      const told = greeting(version, remote, one['containerPort'] as number);
      assert.equal(told.toString('hex'), one[`v${version}Hex`], one.name);
    }
  }
  // The caller's end of those is the same: it is told up to the destination.
  for (const one of load('proxy_protocol').filter((it) => it['mode'] === 'expose')) {
    const told = greeting(1, one['remoteAddr'] as string, one['containerPort'] as number);
    const wanted = Buffer.from(one['v1Hex'] as string, 'hex').toString();
    const pulled = wanted.replace(/ 0\.0\.0\.0 /, ' 127.0.0.1 ').replace(/ :: /, ' ::1 ');
    assert.equal(told.toString(), pulled, one.name);
  }
});

test('trailers pass, or do not, as the vectors say', () => {
  const rules: Record<string, (text: string) => Headers> = {
    read: readTrailing,
    write: (payload) => [['', lastChunk(readTrailers(Buffer.from(payload)))]],
  };
  for (const one of load('http/trailers')) {
    const rule = rules[one['rule'] as string];
    if (rule === undefined) continue;
    const given = (one['sent'] ?? one['payload']) as string;
    if (one['error'] === true) throws(() => rule(given), Error, one.name);
    else assert.deepEqual(rule(given), one['fields'] ?? [['', one['text']]], one.name);
  }
});

test('trailers are announced as the vectors say', () => {
  for (const one of load('http/trailers').filter((it) => it['rule'] === 'request')) {
    const body = one['chunked'] === true ? 'chunked' : 'none';
    const headers = one['opens'] as Headers;
    const open = readStreamOpen(Buffer.from(JSON.stringify({ ...GET, headers, body })));
    assert.ok(open.kind === 'http');
    const about = ['te', 'trailer', 'connection'];
    const told = (carries: boolean): Headers => {
      const all = localRequest(open, AS_IT_IS, carries).headers;
      return all.filter(([name]) => about.includes(name));
    };
    assert.deepEqual(told(true), one['local'], one.name);
    assert.deepEqual(told(false), [], one.name);
  }
});

/** What a request is rewritten for where there is little to do. */
const AS_IT_IS = { host: 'a', publicUrl: null, prefix: '', secure: false, headers: [] };

const GET = { kind: 'http', bindId: 1, containerPort: 3000, method: 'GET', target: '/' };

/** The trailers of a body in chunks that has these lines behind it, however it comes. */
function readTrailing(lines: string): Headers {
  const headers: Headers = [['transfer-encoding', 'chunked']];
  const bytes = Buffer.from(`1\r\nx\r\n0\r\n${lines}\r\n`, 'latin1');
  const read = [1, 5, bytes.length].map((piece) => {
    const decoder = bodyOf({ minor: 1, status: 200, headers }, 'GET');
    for (let at = 0; at < bytes.length; at += piece) {
      decoder.feed(bytes, at, Math.min(bytes.length, at + piece), () => undefined);
    }
    assert.ok(decoder.done);
    return decoder.trailers ?? [];
  });
  assert.deepEqual(read, [read[0], read[0], read[0]]);
  return read[0]!;
}

/** Reads an answer of which `piece` octets come at a time. */
function readAnswer(answer: Buffer, method: string, piece: number): Record<string, unknown> {
  const reader = new HeadReader();
  let at = 0;
  while (reader.head === undefined) {
    assert.ok(at < answer.length, 'the head is whole');
    at = reader.feed(answer, at, Math.min(answer.length, at + piece));
  }
  const { head } = reader;
  const decoder = bodyOf(head, method);
  let body = '';
  while (!decoder.done) {
    assert.ok(at < answer.length, 'the body is whole');
    at = decoder.feed(answer, at, Math.min(answer.length, at + piece), (buffer, start, end) => {
      body += buffer.toString('latin1', start, end);
    });
  }
  assert.equal(at, answer.length, 'nothing follows');
  const kept = withoutHopByHop(head.headers);
  const headers = kept.map(([name, value]) => [name.toLowerCase(), value]).sort();
  return { status: head.status, headers, body, again: head.minor === 1 && !decoder.isAmbiguous };
}

test('a batch refuses the 65th frame and the byte past the limit', () => {
  const batch = new Batch();
  for (let at = 0; at < 64; at += 1) batch.push(FrameType.Eof, 2, new Uint8Array(0));
  assert.equal(batch.fits(0), false);
  isFault(() => batch.push(FrameType.Eof, 2, new Uint8Array(0)), RangeError);
  assert.equal(decodeMessage(batch.take()).length, 64);
  for (let at = 0; at < 3; at += 1) batch.push(FrameType.Data, 2, new Uint8Array(65_536));
  assert.equal(batch.fits(65_536), false);
  assert.equal(batch.fits(65_536 - 4 * 9), true);
});

test('credit is shared, and goes back, as the vectors say', () => {
  const cases = load('shares');
  assert.ok(cases.length > 200);
  for (const one of cases) checkShares(one);
});

function checkShares(one: Case): void {
  const { name } = one;
  const number = (key: string): number => {
    const value = one[key];
    assert.ok(typeof value === 'number', `${name}: ${key} is a number`);
    return value;
  };
  const window = number('window');
  switch (one['rule']) {
    case 'share': {
      const [available, own] = [number('available'), number('outstanding')];
      assert.equal(share(available, window, own), one['share'], name);
      assert.equal(isWorthACall(available, window, own), one['calls'], name);
      return;
    }
    case 'leave':
      assert.equal(leave(number('wanted'), window), one['leave'], name);
      return;
    case 'settle': {
      const { left, held } = settle(window, number('count'), number('piece'));
      const found = [left, Math.max(...held), Math.min(...held)];
      assert.deepEqual(found, [one['left'], one['most'], one['least']], name);
      return;
    }
    case 'contended': {
      const credit = new SessionRecvCredit(window, 0);
      if (one['before'] === true) {
        // It was, and something has come back since.
        assert.ok(credit.received(window));
        assert.equal(credit.contended, true, name);
        credit.passedOn(number('granted'));
        credit.claimAll();
      } else assert.ok(credit.received(window - number('granted')));
      assert.equal(credit.contended, one['contended'], name);
      return;
    }
    case 'claim-session': {
      const credit = new SessionRecvCredit(window, 0);
      assert.ok(credit.received(window - number('granted')));
      credit.passedOn(number('unclaimed'));
      assert.equal(credit.claim(), one['claim'], name);
      return;
    }
    case 'claim-stream': {
      const credit = new StreamRecvCredit(window);
      assert.ok(credit.received(number('buffered') + number('unclaimed')));
      credit.passedOn(number('unclaimed'));
      assert.equal(credit.claim(number('buffered'), true), one['claim'], name);
      return;
    }
    default:
      assert.fail(`${name}: nobody knows the rule`);
  }
}

/** Greedy streams that give nothing back take turns until nobody may have more. */
function settle(window: number, count: number, piece: number): { left: number; held: number[] } {
  const held = Array<number>(count).fill(0);
  let left = window;
  for (let before = -1; before !== left;) {
    before = left;
    held.forEach((own, at) => {
      const sent = Math.min(Math.max(0, share(left, window, own) - own), left, piece);
      held[at] = own + sent;
      left -= sent;
    });
  }
  return { left, held };
}
