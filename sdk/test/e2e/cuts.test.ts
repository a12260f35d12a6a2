/**
 * Whatever runs through the real kit goes on while the wire below it is cut: nothing is lost, nothing
 * comes twice, and no byte is another one.
 */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, request, type IncomingMessage } from 'node:http';
import net from 'node:net';
import { test } from 'node:test';
import { WebSocket, WebSocketServer } from 'ws';
import { TunnelSession } from '../../src/index.js';
import { Cutter, type Cut } from '../support/cutter.js';
import { later, until } from '../support/local.js';
import { RealKit } from '../support/real-kit.js';

const BODY = randomBytes(3_000_000);
const sha = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
const EVENTS = 1000;

/** A server with downloads, uploads, events and an echoing WebSocket; and one that echoes. */
async function locals(): Promise<{ web: number; echo: number; stop: () => void }> {
  const server = createServer((req, res) => {
    if (req.method === 'PUT') {
      const hash = createHash('sha256');
      req.on('data', (chunk: Buffer) => hash.update(chunk));
      req.on('end', () => res.end(hash.digest('hex')));
    } else if (req.url === '/events') {
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      let n = 0;
      const timer = setInterval(() => {
        res.write(`data: ${(n += 1)}\n\n`);
        if (n < EVENTS) return;
        clearInterval(timer);
        res.end();
      }, 10);
    } else {
      // By length, by chunks, and to the end of the connection.
      if (req.url === '/length') res.setHeader('content-length', BODY.length);
      if (req.url === '/close') res.useChunkedEncodingByDefault = res.shouldKeepAlive = false;
      res.end(BODY);
    }
  });
  const sockets = new WebSocketServer({ server });
  sockets.on('connection', (socket) => {
    socket.on('message', (data: Buffer) => socket.send(data));
  });
  const echo = net.createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => undefined);
    socket.pipe(socket);
  });
  for (const it of [server, echo]) {
    it.listen(0, '127.0.0.1');
    await once(it, 'listening');
  }
  const portOf = (it: net.Server): number => (it.address() as net.AddressInfo).port;
  const stop = (): void => {
    sockets.close();
    server.close();
    server.closeAllConnections();
    echo.close();
  };
  return { web: portOf(server), echo: portOf(echo), stop };
}

/**
 * A request that was taken in; one that came while the session was away comes again. A body is sent
 * once it is wanted: the answer to one that is not would be reset by what nobody reads of it.
 */
async function ask(port: number, method: string, path: string, body?: Buffer): Promise<Buffer> {
  const waits = { expect: '100-continue', 'content-length': body?.length ?? 0 };
  const headers = body === undefined ? {} : waits;
  for (;;) {
    const sent = request({ host: '127.0.0.1', port, method, path, agent: false, headers });
    if (body === undefined) sent.end();
    else sent.once('continue', () => sent.end(body)).flushHeaders();
    const [response] = (await once(sent, 'response')) as [IncomingMessage];
    const chunks: Buffer[] = [];
    for await (const chunk of response) chunks.push(chunk as Buffer);
    assert.ok(response.complete);
    if (response.statusCode === 200) return Buffer.concat(chunks);
    assert.equal(response.statusCode, 503);
    sent.destroy();
    await later(50);
  }
}

/** What visitors and callers do all the time; each says how often it was done. */
function work(web: number, pull: number): Record<string, () => Promise<void>> {
  const download = (path: string) => async () => {
    assert.equal(sha(await ask(web, 'GET', path)), sha(BODY));
  };
  return {
    length: download('/length'),
    chunked: download('/chunked'),
    close: download('/close'),
    upload: async () => {
      assert.equal((await ask(web, 'PUT', '/', BODY)).toString(), sha(BODY));
    },
    events: async () => {
      const text = (await ask(web, 'GET', '/events')).toString();
      const all = Array.from({ length: EVENTS }, (_, n) => `data: ${n + 1}\n\n`);
      assert.equal(text, all.join(''));
    },
    socket: async () => {
      const socket = new WebSocket(`ws://127.0.0.1:${web}/`);
      const opened = await new Promise((resolve) => {
        socket.once('open', () => resolve(true));
        // Nobody was there, and said so.
        socket.once('error', () => resolve(false));
      });
      if (opened !== true) return later(50);
      let next = 0;
      socket.on('message', (data: Buffer) => assert.equal(Number(String(data)), next++));
      for (let n = 0; n < 300; n += 1) {
        socket.send(String(n));
        await later(5);
      }
      await until(() => next === 300);
      socket.close();
      await once(socket, 'close');
    },
    pull: async () => {
      const caller = net.connect({ port: pull, host: '127.0.0.1', allowHalfOpen: true });
      const chunks: Buffer[] = [];
      caller.on('data', (chunk) => chunks.push(chunk));
      // It may be told so while it still writes; `once` would take that for a failure of its own.
      caller.on('error', () => undefined);
      const closed = new Promise((resolve) => caller.once('close', resolve));
      caller.end(BODY);
      await closed;
      // A caller who comes while the session is away is closed at once, before anything was taken.
      if (chunks.length === 0) return later(50);
      assert.equal(sha(Buffer.concat(chunks)), sha(BODY));
    },
  };
}

for (const { lanes, cuts } of [
  { lanes: 1, cuts: 25 },
  { lanes: 4, cuts: 60 },
]) {
  test(
    `with ${lanes} connections ${cuts} cuts cost nobody anything`,
    { timeout: 240_000 },
    async (t) => {
      const kit = await RealKit.start();
      const local = await locals();
      const { url, token } = kit.options;
      const cutter = new Cutter(Number(new URL(url).port));
      const session = new TunnelSession({
        url: await cutter.start(),
        token,
        reconnect: true,
        maxConnections: lanes,
      });
      const lost: string[] = [];
      session.addEventListener('lost', ({ detail }) => lost.push(detail.reason));
      const refused: boolean[] = [];
      session.addEventListener('resumed', ({ detail }) => refused.push(detail.fresh));
      await session.connect();
      const to = (port: number) => ({ host: '127.0.0.1', port });
      const web = await session.bind({
        mode: 'expose',
        containerPort: 0,
        to: to(local.web),
      });
      const pull = await session.bind({ mode: 'pull', containerPort: 0, to: to(local.echo) });
      await until(() => session.connections === lanes);
      const mux = session['link']!.mux;
      let isOver = false;
      const done: Record<string, number> = {};
      const jobs = Object.entries(work(web.containerPort, pull.containerPort));
      const all = jobs.map(async ([name, act]) => {
        while (!isOver) {
          await act();
          done[name] = (done[name] ?? 0) + 1;
        }
      });
      for (let n = 0; n < cuts; n += 1) {
        await later(60 + ((n * 7919) % 400));
        const how: Cut = n % 20 === 7 ? 'silence' : n % 2 === 0 ? 'rst' : 'fin';
        const cutting = cutter.cut(n, how, 8000);
        if (lanes === 1) await cutting;
        // With one connection the next cut needs the next connection; with four any will do.
        await until(() => cutter.size > 0 && (lanes > 1 || session.state === 'online'));
      }
      isOver = true;
      await Promise.all(all);
      t.diagnostic(
        `runs ${JSON.stringify(done)}, lost ${lost.length} ${[...new Set(lost)].join()}, cuts ${cutter.cuts}`,
      );
      for (const [name] of jobs) assert.ok((done[name] ?? 0) > 0, name);
      assert.ok(refused.every((fresh) => !fresh));
      await until(() => session.state === 'online' && session.connections === lanes);
      assert.equal(session['link']!.mux, mux, 'the kit went on with its streams each time');
      await until(() => mux.size === 0);
      await until(() => mux['recvCredit'].available + mux['recvCredit'].withheld === 16_777_216);
      await session.close();
      cutter.stop();
      local.stop();
      await kit.stop();
    },
  );
}
