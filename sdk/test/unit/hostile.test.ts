import assert from 'node:assert/strict';
import type { Socket } from 'node:net';
import { test } from 'node:test';
import { inspect } from 'node:util';
import { networkError } from '../../src/client/network.js';
import { BindError, TunnelSession } from '../../src/index.js';
import { HEADS_MAX, LANE_QUEUE_END, MAX_STREAMS } from '../../src/mux/limits.js';
import { Violation } from '../../src/mux/violation.js';
import { Code } from '../../src/wire/code.js';
import { encodeFrame, FrameType } from '../../src/wire/frame.js';
import { plain } from '../../src/wire/text.js';
import { rejects, throws } from '../support/assert.js';
import { exposing } from '../support/exposed.js';
import { heapBytes, heapUnder } from '../support/heap.js';
import { FixtureKit, type KitStream } from '../support/kit.js';
import { answering, listen, until } from '../support/local.js';
import { MIB, Rig } from '../support/rig.js';

const GIB = 1024 * MIB;

test('a kit is not believed windows of gigabytes', () => {
  const rig = new Rig({ streamWindow: 4 * GIB, sessionWindow: 4 * GIB });
  const stream = rig.open(2);
  for (let at = 0; at < 256; at += 1) rig.receive(FrameType.Data, 2, Buffer.alloc(65_536));
  assert.equal(stream.held, 16 * MIB);
  rig.receive(FrameType.Data, 2, 'more');
  assert.deepEqual(rig.flush().slice(0, 1), ['2 reset 3']);
  for (let id = 4; id <= 10; id += 2) rig.open(id).write(Buffer.alloc(32 * MIB));
  const sent = rig.mux.sendCredit.outstanding;
  assert.ok(sent < 64 * MIB, `${sent} bytes left without credit of ours`);
});

test('a kit is not believed any number of streams', () => {
  const rig = new Rig({ maxStreams: 1e9 });
  for (let id = 2; id <= 2 * MAX_STREAMS; id += 2) rig.open(id);
  assert.deepEqual(rig.flush(), []);
  rig.open(2 * MAX_STREAMS + 2);
  assert.deepEqual(rig.flush(), [`${2 * MAX_STREAMS + 2} reset ${Code.RefusedStream}`]);
});

test('heads of requests are bounded together, and there is room again when they are answered', () => {
  const rig = new Rig({ maxStreams: 1e9 });
  const open = JSON.stringify({
    kind: 'http',
    method: 'GET',
    target: '/',
    headers: [['x-large', 'x'.repeat(60_000)]],
  });
  let id = 0;
  const flood = (): void => {
    for (let at = 0; at < 2000; at += 1) rig.receive(FrameType.StreamOpen, (id += 2), open);
  };
  flood();
  const most = Math.floor(HEADS_MAX / open.length);
  assert.equal(rig.streams.size, most);
  const refusals = rig.flush();
  assert.equal(refusals.length, 2000 - most);
  assert.ok(refusals.every((line) => line.endsWith(` reset ${Code.RefusedStream}`)));
  for (const stream of rig.streams.values()) stream.releaseHead();
  flood();
  assert.equal(rig.streams.size, 2 * most);
  rig.mux.abandon('over');
  assert.equal(rig.mux['headBytes'], 0);
});

test('a flood ends the session, and patience refills', () => {
  const floods: [string, (rig: Rig) => void, number][] = [
    ['PING', (rig) => rig.receive(FrameType.Ping, 0, Buffer.alloc(8)), 64],
    ['WebSocket ping', (rig) => rig.mux.pinged(), 64],
    ['empty DATA', (rig) => rig.receive(FrameType.Data, 2), 256],
    ['DATA on ids that never were', (rig) => rig.receive(FrameType.Data, 9998, 'x'), 2048],
    ['BIND_OK', (rig) => rig.receive(FrameType.BindOk, 0, '{}'), 2048],
  ];
  for (const [what, flood, burst] of floods) {
    const rig = new Rig();
    rig.open(2);
    for (let at = 0; at < burst; at += 1) flood(rig);
    assert.equal(throws(() => flood(rig), Violation, what).code, Code.EnhanceYourCalm);
    rig.mux.sweep(1000);
    flood(rig);
  }
});

test('WINDOWs that answer DATA are no flood, and others are', () => {
  const rig = new Rig();
  const stream = rig.open(2);
  for (let at = 0; at < 10_000; at += 1) {
    stream.write(Buffer.alloc(2));
    for (const id of [0, 0, 2, 2]) rig.window(id, 1);
  }
  stream.write(Buffer.alloc(10_000));
  const windows = (): void => {
    for (let at = 0; at < 10_000; at += 1) rig.window(2, 1);
  };
  assert.equal(throws(windows, Violation).code, Code.EnhanceYourCalm);
});

test('a kit that asks and does not read the answers is not read from, until it reads', async () => {
  const long = `x-long: ${'x'.repeat(20_000)}\r\n`;
  const local = await answering(`HTTP/1.1 200 OK\r\ncontent-length: 2\r\n${long}\r\nok`);
  await exposing(
    local.port,
    async ({ kit, session }) => {
      const lane = session['link']!.mux.primary!;
      kit.session.lanes.get(0)!.pause();
      const asked: KitStream[] = [];
      const most = 1500;
      let peak = 0;
      const ask = (count: number): void => {
        for (let at = 0; at < count; at += 1) asked.push(kit.session.get('/'));
      };
      while (asked.length < most) {
        ask(20);
        await new Promise((resolve) => setTimeout(resolve, 2));
        peak = Math.max(peak, lane.backlog);
      }
      if ('Bun' in globalThis) {
        // It cannot stop reading: the session ends, and little more than the bound has gathered.
        assert.match((await session.closed)?.message ?? '', /is not read/);
        assert.ok(peak < LANE_QUEUE_END + 4 * MIB, `${peak} bytes wait`);
        return;
      }
      assert.ok(peak < LANE_QUEUE_END, `${peak} bytes wait`);
      assert.ok(local.heads.length < most, 'it is read from all the same');
      kit.session.lanes.get(0)!.resume();
      for (const stream of asked) assert.equal(await stream.text(), 'ok');
      assert.equal(session.state, 'online');
    },
    { kit: { maxStreams: 4096 } },
  );
  await local.stop();
});

test('what stuck visitors and floods took is given back when they have left', async () => {
  const body = Buffer.alloc(4 * MIB);
  const local = await listen((socket) => {
    socket.on('data', () => {
      socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${4 * MIB}\r\n\r\n`);
      socket.write(body);
    });
  });
  await exposing(
    local.port,
    async ({ kit, session }) => {
      const round = async (): Promise<void> => {
        const headers = [['x-large', 'x'.repeat(30_000)]];
        const stuck = Array.from({ length: 200 }, () => kit.session.get('/', { headers }));
        for (const stream of stuck) await stream.head();
        for (const stream of stuck) {
          stream.abort(Code.Cancel);
          if (stream.received > 0) stream.giveBack(stream.received);
          kit.session.streams.delete(stream.id);
        }
        await until(() => local.open.size === 0 && session['link']!.mux.size === 0);
        kit.session.frames.length = 0;
      };
      // What is made once stays.
      await round();
      const before = await heapBytes();
      await round();
      await heapUnder(before + 4 * MIB);
    },
    { kit: { manualCredit: true } },
  );
  await local.stop();
});

test('what a kit says is cut and written out before it is shown', async () => {
  const odd = `\u202e\u001b[31m${'a'.repeat(40_000)}`;
  assert.equal(plain('\u202e\n\u001b[31mé'), '\\u{202e}\\u{a}\\u{1b}[31mé');
  assert.equal(plain('😀😀😀', 2), '😀😀…');
  assert.ok(plain(odd).length < 400);
  const local = await answering('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n');
  await exposing(local.port, async ({ kit, session }) => {
    kit.refuseBind = () => odd;
    const refused = await rejects(session.bind({ mode: 'pull', containerPort: 5432 }), BindError);
    assert.doesNotMatch(refused.message, /\p{C}/u);
    assert.ok(refused.message.length < 1000);
    const reports: string[] = [];
    session.addEventListener('request', ({ detail }) => {
      reports.push(`${detail.error} ${detail.remoteAddr} ${detail.target} ${detail.method}`);
    });
    const target = `/\u009b${'a'.repeat(20_000)}`;
    const more = { remoteAddr: odd, method: 'G\u0085T', target, body: 'length' };
    kit.session.open({ kind: 'http', bindId: 1, headers: [], ...more });
    const stream = kit.session.request('POST', '/', { body: 'chunked' });
    stream.abort(Code.Cancel, odd);
    await until(() => reports.length === 2);
    for (const report of reports) assert.doesNotMatch(report, /\p{C}/u);
    assert.ok(reports.every(({ length }) => length < 10_000));
    kit.session.goaway(Code.InternalError, odd);
    const error = await session.closed;
    assert.doesNotMatch(error?.message ?? '\n', /\p{C}/u);
    assert.ok((error?.message.length ?? Infinity) < 1000);
  });
  await local.stop();
});

test('neither what is kept as the cause of an error, nor what a kit can, is printed raw', async () => {
  const certificate = { subject: { CN: '\u202e\u001b[31m' } };
  for (const more of [
    { code: 'ERR_TLS_CERT_ALTNAME_INVALID', cert: certificate },
    { code: 'ECONNRESET' },
    {},
  ]) {
    const error = networkError('No', 'host', Object.assign(new Error('a \u202e\n b'), more));
    assert.doesNotMatch(inspect(error, { depth: 9 }).replaceAll('\n', ' '), /\p{C}/u);
    assert.match((error.cause as Error).message, /^a \\u\{202e\}/);
    assert.equal((error.cause as { code?: string }).code, more.code);
  }
  const kit = await FixtureKit.start();
  kit.helloOk = { capabilities: ['ack', '\u202e\u001b[31m', 'x'.repeat(1000)] };
  const session = new TunnelSession({ url: kit.url });
  await session.connect();
  assert.deepEqual(session.hello?.capabilities, ['ack']);
  await session.close();
  await kit.stop();
});

test('small pieces for a local side that is stuck cost little more than their bytes', async () => {
  const sockets: Socket[] = [];
  const local = await listen((socket) => sockets.push(socket.pause()));
  await exposing(
    local.port,
    async ({ kit }) => {
      const first = 6 * MIB;
      const stream = kit.session.caller();
      stream.send(Buffer.alloc(first));
      await until(() => sockets.length === 1);
      const before = await heapBytes();
      const pieces = 256 * 1024;
      const piece = (at: number): Buffer =>
        encodeFrame(FrameType.Data, stream.id, Buffer.from([at % 251]));
      for (let at = 0; at < pieces; at += 64) {
        kit.session.raw(Buffer.concat(Array.from({ length: 64 }, (_, more) => piece(at + more))));
      }
      kit.session.send(FrameType.Ping, 0, Buffer.alloc(8));
      await until(() => kit.session.count(FrameType.Pong) === 1);
      await heapUnder(before + first + 4 * MIB);
      let seen = 0;
      sockets[0]?.on('data', (chunk: Buffer) => {
        for (const [at, octet] of chunk.entries()) {
          const place = seen + at - first;
          if (octet !== (place < 0 ? 0 : place % 251)) throw new Error(`wrong at ${place}`);
        }
        seen += chunk.length;
      });
      sockets[0]?.resume();
      await until(() => seen === first + pieces);
    },
    {
      kit: { streamWindow: 16 * MIB },
      bind: { mode: 'pull', containerPort: 5432 },
    },
  );
  await local.stop();
});

test('an id or a ticket that would not fit into a frame of ours is refused with the reason', async () => {
  for (const hello of [
    { sessionId: 'S'.repeat(60_000) },
    { sessionId: 'S-\u202e' },
    { sessionId: 'S-1', joinTickets: [{ index: 1, nonce: 'n'.repeat(60_000), expiresMs: 1000 }] },
    { sessionId: 'S-1', resumedBinds: [{ bindId: 1, containerPort: 1, publicUrl: '\u001b[31m' }] },
  ]) {
    const kit = await FixtureKit.start();
    kit.helloOk = hello;
    const session = new TunnelSession({ url: kit.url });
    const failed = session.connect().then(
      () => undefined,
      (error: unknown) => error as Error,
    );
    const error = await failed;
    assert.match(error?.message ?? '', /too long|no address/);
    await session.close();
    await kit.stop();
  }
});

test('options that would not fit into a frame are refused before anything is opened', async () => {
  const url = 'ws://127.0.0.1:9';
  const long = 'x'.repeat(70_000);
  const token = () => new TunnelSession({ url, token: long });
  assert.match(throws(token, Error).message, /token must be/);
  const kit = await FixtureKit.start();
  const session = new TunnelSession({ url: kit.url });
  await session.connect();
  const binding = session.bind({ mode: 'expose', containerPort: 3000, label: long });
  assert.match((await rejects(binding, Error)).message, /label must be/);
  assert.equal(session.state, 'online');
  await session.close();
  await kit.stop();
});
