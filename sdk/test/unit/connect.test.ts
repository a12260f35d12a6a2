/**
 * Attempts to connect that hang or fail half-way, and what gives them up.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import net from 'node:net';
import { test } from 'node:test';
import {
  ClosedError,
  LostError,
  ProtocolError,
  SessionLimitError,
  TokenError,
  tunnel,
  TunnelSession,
  TunnelTimeoutError,
} from '../../src/index.js';
import { encodeFrame, FrameType } from '../../src/wire/frame.js';
import { rejects, type ErrorClass } from '../support/assert.js';
import { FixtureKit } from '../support/kit.js';
import { later, listen, until, type LocalServer } from '../support/local.js';

/** Far above what any of these takes, and far below what a hang would. */
const QUICK = { timeout: 30_000 };

/** A gateway that refuses each upgrade with a page that never ends. */
function stalledGateway(status: string): Promise<LocalServer> {
  return listen((socket) => {
    const head = `HTTP/1.1 ${status}\r\ncontent-type: text/html\r\ncontent-length: 500\r\n\r\n`;
    socket.once('data', () => socket.write(`${head}<html>`));
    socket.on('end', () => socket.end());
  });
}

/** Bun's WebSocket refuses without waiting for the page, so that nothing else can come first. */
const refusedOr = <E>(kind: ErrorClass<E>): ErrorClass<E | ProtocolError> =>
  'Bun' in globalThis ? ProtocolError : kind;

test('a refusal whose page never ends is told by its status', QUICK, async () => {
  const gateway = await stalledGateway('404 Not Found');
  const session = new TunnelSession({ url: `ws://127.0.0.1:${gateway.port}` });
  const error = await rejects(session.connect(), ProtocolError);
  assert.match(error.message, /404/);
  await until(() => gateway.open.size === 0);
  await gateway.stop();
});

test(
  'a refusal whose page never ends holds up neither time-out, abort nor close',
  QUICK,
  async () => {
    const gateway = await stalledGateway('200 OK');
    const url = `ws://127.0.0.1:${gateway.port}`;
    // Where the refusal comes first, it has to come in time.
    const connectTimeout = 'Bun' in globalThis ? 20_000 : 200;
    const hasty = new TunnelSession({ url, connectTimeout });
    await rejects(hasty.connect(), refusedOr(TunnelTimeoutError));
    class Reason extends Error {}
    const abort = new AbortController();
    const { signal } = abort;
    const aborted = rejects(new TunnelSession({ url, signal }).connect(), refusedOr(Reason));
    const closed = new TunnelSession({ url });
    const closing = rejects(closed.connect(), refusedOr(ClosedError));
    await until(() => gateway.accepted === 3);
    if ('Bun' in globalThis) await Promise.all([aborted, closing]);
    abort.abort(new Reason());
    void closed.close();
    await Promise.all([aborted, closing]);
    await until(() => gateway.open.size === 0);
    await gateway.stop();
  },
);

test(
  'a session comes back after a gateway that answered with pages that never end',
  QUICK,
  async () => {
    const kit = await FixtureKit.start();
    let well = true;
    const gateway = await listen((socket) => {
      if (!well) {
        socket.once('data', () => socket.write('HTTP/1.1 503 No\r\ncontent-length: 500\r\n\r\n'));
        return;
      }
      const inner = net.connect(kit.port, '127.0.0.1');
      inner.on('error', () => socket.destroy());
      inner.on('close', () => socket.destroy());
      socket.on('close', () => inner.destroy());
      socket.pipe(inner).pipe(socket);
    });
    const url = `ws://127.0.0.1:${gateway.port}`;
    await using app = await tunnel.serve({ url, containerPort: 3000, fetch: () => new Response() });
    const back = new Promise((resolve) => app.addEventListener('resumed', resolve));
    well = false;
    const before = gateway.accepted;
    for (const socket of gateway.open) socket.destroy();
    await until(() => gateway.accepted > before);
    well = true;
    await back;
    await app.close();
    await gateway.stop();
    await kit.stop();
  },
);

test('a token function that hangs is given up in time, on abort and on close', QUICK, async () => {
  const url = 'ws://127.0.0.1:9';
  const token = (): Promise<string> => new Promise(() => undefined);
  const hasty = new TunnelSession({ url, token, connectTimeout: 50 });
  assert.match((await rejects(hasty.connect(), TunnelTimeoutError)).message, /\b50 ms/);
  const abort = new AbortController();
  const reason = new Error('changed my mind');
  setTimeout(() => abort.abort(reason), 20);
  const { signal } = abort;
  const session = new TunnelSession({ url, token });
  assert.equal(await rejects(session.connect({ signal }), Error), reason);
  const again = session.connect();
  void session.close();
  await rejects(again, ClosedError);
});

test('a token function that throws is a TunnelError with the cause', async () => {
  const url = 'ws://127.0.0.1:9';
  const cause = new Error('the vault is sealed');
  const token = (): Promise<string> => Promise.reject(cause);
  const error = await rejects(new TunnelSession({ url, token }).connect(), TokenError);
  assert.equal(error.code, 'TOKEN');
  assert.equal(error.cause, cause);
  assert.match(error.message, /the vault is sealed/);
});

test('a token function that fails while the session is lost is asked again', QUICK, async () => {
  const kit = await FixtureKit.start();
  let asked = 0;
  const token = (): string => {
    asked += 1;
    if (asked === 2) throw new Error('the network is away');
    return 'secret';
  };
  const fetch = (): Response => new Response();
  await using app = await tunnel.serve({ url: kit.url, token, containerPort: 3000, fetch });
  const back = new Promise((resolve) => app.addEventListener('resumed', resolve));
  kit.session.drop();
  await back;
  assert.equal(asked, 3);
  await app.close();
  await kit.stop();
});

test(
  'what waits rejects with the reason of the abort, or with CLOSED after close',
  QUICK,
  async () => {
    const kit = await FixtureKit.start();
    const reasonOf = (promise: Promise<unknown>): Promise<unknown> =>
      promise.then(
        () => 'nothing was thrown',
        (error: unknown) => error,
      );
    const connected = async (signal: AbortSignal): Promise<TunnelSession> =>
      new TunnelSession({ url: kit.url, signal }).connect();
    for (const reason of [new Error('mine'), 'a plain string']) {
      const abort = new AbortController();
      const bound = await connected(abort.signal);
      kit.silent = true;
      const waiting = [
        connected(abort.signal),
        bound.bind({ mode: 'expose', containerPort: 3000 }),
        tunnel.expose({ url: kit.url, containerPort: 3000, signal: abort.signal }),
      ].map(reasonOf);
      await later(50);
      abort.abort(reason);
      assert.deepEqual(await Promise.all(waiting), [reason, reason, reason]);
      assert.equal(await bound.closed, undefined);
      assert.equal(await reasonOf(connected(abort.signal)), reason);
      kit.silent = false;
    }
    kit.silent = true;
    const session = new TunnelSession({ url: kit.url });
    const connecting = reasonOf(session.connect());
    await later(50);
    await session.close();
    assert.ok((await connecting) instanceof ClosedError);
    await kit.stop();
  },
);

test('the error that ends the attempts is the last that was answered', QUICK, async () => {
  const gateway = await listen((socket) => {
    if (gateway.accepted === 1) socket.once('data', () => socket.destroy());
  });
  const url = `ws://127.0.0.1:${gateway.port}`;
  const session = new TunnelSession({ url, connectTimeout: 3000, reconnect: true });
  await rejects(session.connect(), LostError);
  assert.equal(gateway.accepted, 2);
  await gateway.stop();
});

/** A server that answers an upgrade with 101 and `more` in the same packet, and then nothing. */
function eager(more: Buffer): Promise<LocalServer> {
  return listen((socket) => {
    socket.once('data', (head) => {
      const key = /sec-websocket-key: (.*)\r/i.exec(head.toString())?.[1] ?? '';
      const accept = createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`);
      const lines = [
        'HTTP/1.1 101 Switching Protocols',
        'upgrade: websocket',
        'connection: upgrade',
        'sec-websocket-protocol: hoody-tunnel.v1',
        `sec-websocket-accept: ${accept.digest('base64')}`,
      ];
      socket.write(Buffer.concat([Buffer.from(`${lines.join('\r\n')}\r\n\r\n`), more]));
    });
    socket.on('end', () => socket.end());
  });
}

test('what comes with the answer to the upgrade is heard', QUICK, async () => {
  const text = JSON.stringify({ code: 14, message: 'session limit', lastStreamId: 0, graceMs: 0 });
  const goaway = encodeFrame(FrameType.Goaway, 0, Buffer.from(text));
  const kit = await eager(Buffer.concat([Buffer.from([0x82, goaway.length]), goaway]));
  const session = new TunnelSession({ url: `ws://127.0.0.1:${kit.port}` });
  await rejects(session.connect(), SessionLimitError);
  await kit.stop();
});

test(
  'a text message is a protocol error at once, in the handshake and after it',
  QUICK,
  async () => {
    const words = await eager(Buffer.concat([Buffer.from([0x81, 2]), Buffer.from('hi')]));
    const session = new TunnelSession({ url: `ws://127.0.0.1:${words.port}` });
    await rejects(session.connect(), ProtocolError);
    await words.stop();
    const kit = await FixtureKit.start();
    const later = new TunnelSession({ url: kit.url, reconnect: true });
    await later.connect();
    const { lanes } = kit.session;
    lanes.get(0)?.send('hi');
    assert.ok((await later.closed) instanceof ProtocolError);
    await kit.stop();
  },
);
