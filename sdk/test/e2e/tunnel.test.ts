/**
 * The SDK with the real kit: what the readme promises, on the runtime that runs this file.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { createServer, request, type Server } from 'node:http';
import { once } from 'node:events';
import net, { type AddressInfo } from 'node:net';
import { test } from 'node:test';
import {
  AuthError,
  BindError,
  ResumeExpiredError,
  SessionLimitError,
  tunnel,
  TunnelSession,
} from '../../src/index.js';
import { rejects } from '../support/assert.js';
import { eventually, freePort, listen, until } from '../support/local.js';
import { loginServer } from '../support/login.js';
import { HOODY, PACKAGE, RealKit, start, TOKEN } from '../support/real-kit.js';

async function http(
  handler: Parameters<typeof createServer>[1] & object,
): Promise<{ port: number; server: Server; stop: () => void }> {
  const server = createServer(handler);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const stop = (): void => {
    server.close();
    server.closeAllConnections();
  };
  return { port: (server.address() as AddressInfo).port, server, stop };
}

test('expose, pull, serve and sessions as the readme shows them', async () => {
  const kit = await RealKit.start('--public-url-pattern', 'https://app-{port}.example');
  const { url, token } = kit.options;
  const local = await http((req, res) => res.end(`${req.method ?? ''} ${req.url ?? ''}`));
  const echo = await listen((socket) => socket.pipe(socket));
  const to = { host: '127.0.0.1', port: local.port };
  {
    await using app = await tunnel.expose({ url, token, containerPort: 0, to });
    assert.equal(app.publicUrl, `https://app-${app.bind.containerPort}.example`);
    const page = await fetch(`http://127.0.0.1:${app.bind.containerPort}/a?b`);
    assert.equal(await page.text(), 'GET /a?b');
    await using db = await tunnel.pull({
      url,
      token,
      containerPort: 0,
      to: { host: '127.0.0.1', port: echo.port },
    });
    const caller = net.connect({
      port: db.bind.containerPort,
      host: '127.0.0.1',
      allowHalfOpen: true,
    });
    caller.end('half-closed');
    let back = '';
    for await (const chunk of caller) back += String(chunk);
    assert.equal(back, 'half-closed');
    await using s = await tunnel.serve({
      url,
      token,
      containerPort: 0,
      fetch(req) {
        return new Response(`Hello ${new URL(req.url).pathname}`);
      },
    });
    assert.match(s.url, /^https:\/\/app-\d+\.example$/);
    const served = await fetch(`http://127.0.0.1:${s.bind.containerPort}/you`);
    assert.equal(await served.text(), 'Hello /you');
    const upgrade = request({
      port: s.bind.containerPort,
      host: '127.0.0.1',
      headers: {
        connection: 'upgrade',
        upgrade: 'websocket',
        'sec-websocket-version': '13',
        'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==',
      },
    }).end();
    const [answer] = (await once(upgrade, 'response')) as [{ statusCode: number }];
    assert.equal(answer.statusCode, 501);
    upgrade.destroy();
    const admin = tunnel.admin({ url, token });
    assert.equal((await admin.health()).status, 'ok');
    // They share one.
    assert.equal((await admin.sessions()).total, 1);
    assert.equal((await admin.bindings()).total, 3);
    assert.equal((await admin.tunnels()).totalBindings, 3);
    assert.equal((await admin.metrics()).value('hoody_tunnel_sessions_active'), 1);
  }
  await eventually(async () => {
    assert.equal((await tunnel.admin({ url, token }).sessions()).total, 0);
  });
  local.stop();
  await echo.stop();
  await kit.stop();
});

test('raw TCP is exposed, half-closed from either end, where the operator lets it', async () => {
  const kit = await RealKit.start();
  const echo = await listen((socket) => socket.pipe(socket));
  const to = { host: '127.0.0.1', port: echo.port };
  {
    await using app = await tunnel.expose({ ...kit.options, kind: 'tcp', containerPort: 0, to });
    const { containerPort: port } = app.bind;
    assert.equal(app.url, `tcp://127.0.0.1:${port}`);
    const caller = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    // As TLS begins.
    caller.end('\x16\x03\x01no HTTP');
    let back = '';
    for await (const chunk of caller) back += String(chunk);
    assert.equal(back, '\x16\x03\x01no HTTP');
  }
  await kit.stop();
  const strict = await RealKit.start('--no-tcp-expose');
  const refused = tunnel.expose({ ...strict.options, kind: 'tcp', containerPort: 0, to });
  assert.match((await rejects(refused, BindError)).message, /--no-tcp-expose/);
  await strict.stop();
  await echo.stop();
});

test('what the kit refuses has the errors that the readme names', async () => {
  const kit = await RealKit.start('--max-sessions', '1');
  const { url, token } = kit.options;
  await rejects(tunnel.expose({ url, token: 'wrong', containerPort: 3000 }), AuthError);
  await rejects(tunnel.expose({ url, containerPort: 3000 }), AuthError);
  const session = new TunnelSession({ url, token });
  await session.connect();
  await rejects(new TunnelSession({ url, token }).connect(), SessionLimitError);
  const reserved = await rejects(session.bind({ mode: 'expose', containerPort: 22 }), BindError);
  assert.equal(reserved.kitCode, 'RESERVED_PORT');
  const used = await listen(() => undefined);
  const inUse = await rejects(
    session.bind({ mode: 'expose', containerPort: used.port }),
    BindError,
  );
  assert.equal(inUse.kitCode, 'PORT_IN_USE');
  await session.close();
  await eventually(async () => {
    // Until the kit has taken the one session down that it takes, it refuses for that.
    const gone = new TunnelSession({ url, token, resumeSessionId: 'S-unknown' });
    await rejects(gone.connect(), ResumeExpiredError);
  });
  await used.stop();
  await kit.stop();
});

test('the Rust client and the SDK live in one kit, and hand a port over', async () => {
  const kit = await RealKit.start();
  const { url, token } = kit.options;
  const old = await http((_req, res) => res.end('rust'));
  const fresh = await http((_req, res) => res.end('sdk'));
  const port = await freePort();
  const hoody = start(
    HOODY,
    ['tunnel', 'expose', '--url', url, '--container-port', String(port), `127.0.0.1:${old.port}`],
    { env: { HOODY_TUNNEL_TOKEN: TOKEN } },
  );
  const get = async (at: number): Promise<string> =>
    (await fetch(`http://127.0.0.1:${at}/`, { headers: { connection: 'close' } })).text();
  await hoody.says(new RegExp(String(port)));
  const to = { host: '127.0.0.1', port: fresh.port };
  const beside = await tunnel.expose({ url, token, containerPort: 0, to });
  assert.equal(await get(port), 'rust');
  assert.equal(await get(beside.bind.containerPort), 'sdk');
  assert.equal((await tunnel.admin({ url, token }).sessions()).total, 2);
  const taker = await tunnel.expose({ url, token, containerPort: port, to, takeover: true });
  assert.equal(await get(port), 'sdk');
  await beside.close();
  await taker.close();
  await hoody.stop();
  old.stop();
  fresh.stop();
  await kit.stop();
});

test('a takeover deploy refuses no visitor', async () => {
  const kit = await RealKit.start();
  const { url, token } = kit.options;
  const blue = await http((_req, res) => res.end('blue'));
  const green = await http((_req, res) => res.end('green'));
  const first = await tunnel.expose({
    url,
    token,
    containerPort: 0,
    to: { host: '127.0.0.1', port: blue.port },
  });
  const port = first.bind.containerPort;
  const deadline = new AbortController();
  const seen = { blue: 0, green: 0, refused: 0, cut: 0 };
  const visiting = (async () => {
    while (!deadline.signal.aborted) {
      try {
        const page = await fetch(`http://127.0.0.1:${port}/`, { headers: { connection: 'close' } });
        const text = await page.text();
        if (page.status === 200) seen[text as 'blue' | 'green'] += 1;
        else seen.cut += 1;
      } catch (error) {
        const { code } = (error as { cause?: { code?: string } }).cause ?? {};
        if (code === 'ECONNREFUSED') seen.refused += 1;
        else seen.cut += 1;
      }
    }
  })();
  await until(() => seen.blue > 0);
  const second = await tunnel.expose({
    url,
    token,
    containerPort: port,
    to: { host: '127.0.0.1', port: green.port },
    takeover: true,
  });
  assert.equal(await first.closed, undefined);
  await until(() => seen.green > 0);
  deadline.abort();
  await visiting;
  assert.equal(seen.refused, 0);
  assert.ok(seen.blue > 0 && seen.green > 0, JSON.stringify(seen));
  assert.ok(seen.cut <= 1, JSON.stringify(seen));
  await second.close();
  blue.stop();
  green.stop();
  await kit.stop();
});

test('500 requests, 64 at a time, over 4 lanes', async () => {
  const kit = await RealKit.start();
  const { url, token } = kit.options;
  const local = await http((req, res) => {
    const hash = createHash('sha256');
    req.on('data', (chunk: Buffer) => hash.update(chunk));
    req.on('end', () => res.end(`${req.url ?? ''} ${hash.digest('hex')}`));
  });
  await using session = new TunnelSession({ url, token, maxConnections: 4 });
  await session.connect();
  assert.equal(session.hello?.connectionsGranted, 4);
  await until(() => session.connections === 4);
  const to = { host: '127.0.0.1', port: local.port };
  const web = await session.bind({ mode: 'expose', containerPort: 0, to });
  let next = 0;
  const visit = async (): Promise<void> => {
    while (next < 500) {
      const index = next++;
      const body = Buffer.alloc((index * 997) % 100_000, String(index));
      const hash = createHash('sha256').update(body).digest('hex');
      const page = await fetch(`http://127.0.0.1:${web.containerPort}/${index}`, {
        method: 'POST',
        body,
      });
      assert.equal(page.status, 200);
      assert.equal(await page.text(), `/${index} ${hash}`);
    }
  };
  await Promise.all(Array.from({ length: 64 }, visit));
  assert.equal(next, 500);
  await session.close();
  local.stop();
  await kit.stop();
});

test('server-sent events pass at once, and a visitor that leaves is told', async () => {
  const kit = await RealKit.start();
  const { url, token } = kit.options;
  let send: ((text: string) => void) | undefined;
  let left = false;
  const local = await http((req, res) => {
    res.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders();
    send = (text) => void res.write(text);
    req.on('close', () => (left = true));
  });
  const to = { host: '127.0.0.1', port: local.port };
  await using app = await tunnel.expose({ url, token, containerPort: 0, to });
  const abort = new AbortController();
  const page = await fetch(`http://127.0.0.1:${app.bind.containerPort}/events`, {
    signal: abort.signal,
  });
  const reader = page.body!.pipeThrough(new TextDecoderStream()).getReader();
  for (let at = 0; at < 200; at += 1) {
    // Each event is awaited before the next is sent: one held back would hang here.
    send?.(`data: ${at}\n\n`);
    assert.equal((await reader.read()).value, `data: ${at}\n\n`);
  }
  abort.abort();
  await until(() => {
    // A kit may notice at the next octet only, for a visitor may half-close and go on reading.
    send?.(':\n\n');
    return left;
  });
  await app.close();
  local.stop();
  await kit.stop();
});

test('kill -9 of the client, and another process resumes its session', async () => {
  const kit = await RealKit.start();
  const { url, token } = kit.options;
  const local = await http((_req, res) => res.end('here'));
  const child = start(process.execPath, [
    `${PACKAGE}dist-test/test/e2e/programs/client.js`,
    JSON.stringify({ ...kit.options, to: { host: '127.0.0.1', port: local.port } }),
  ]);
  const id = await child.says(/session (S-\S+)/);
  const port = Number(await child.says(/port (\d+)/));
  const page = `http://127.0.0.1:${port}/`;
  const close = { headers: { connection: 'close' } };
  assert.equal(await (await fetch(page, close)).text(), 'here');
  await child.stop('SIGKILL');
  // The kit hears of the end some time after it.
  const away = await eventually(async () => {
    const answer = await fetch(page, close);
    assert.equal(answer.status, 503);
    return answer;
  });
  assert.equal(away.headers.get('retry-after'), '5');
  await using session = new TunnelSession({ url, token, resumeSessionId: id });
  await session.connect();
  assert.equal(session.id, id);
  assert.equal(session.hello?.resumed, true);
  const to = { host: '127.0.0.1', port: local.port };
  const web = await session.bind({ mode: 'expose', containerPort: port, to });
  assert.equal(web.containerPort, port);
  assert.equal(await (await fetch(page, close)).text(), 'here');
  await session.close();
  local.stop();
  await kit.stop();
});

test('kill -9 of the kit, and the tunnel comes back on the same port', async () => {
  const kit = await RealKit.start();
  const { url, token } = kit.options;
  const local = await http((_req, res) => res.end('here'));
  const to = { host: '127.0.0.1', port: local.port };
  await using app = await tunnel.expose({ url, token, containerPort: 0, to });
  const port = app.bind.containerPort;
  const resumed = new Promise<boolean>((resolve) => {
    app.addEventListener('resumed', ({ detail }) => resolve(detail.fresh));
  });
  await kit.restart();
  assert.equal(await resumed, true);
  assert.equal(app.bind.containerPort, port);
  assert.equal(await (await fetch(`http://127.0.0.1:${port}/`)).text(), 'here');
  await app.close();
  local.stop();
  await kit.stop();
});

test('a kit that hangs is noticed in five seconds, and the session resumed when it is back', async () => {
  const kit = await RealKit.start();
  const { url, token } = kit.options;
  const local = await http((_req, res) => res.end('here'));
  const to = { host: '127.0.0.1', port: local.port };
  await using app = await tunnel.expose({ url, token, containerPort: 0, to });
  const { id } = app.session;
  const lost = new Promise<string>((resolve) => {
    app.addEventListener('lost', ({ detail }) => resolve(detail.reason));
  });
  const resumed = new Promise<boolean>((resolve) => {
    app.addEventListener('resumed', ({ detail }) => resolve(detail.fresh));
  });
  kit.program.child.kill('SIGSTOP');
  assert.match(await lost, /no sign of life/);
  kit.program.child.kill('SIGCONT');
  assert.equal(await resumed, false);
  assert.equal(app.session.id, id);
  const page = await fetch(`http://127.0.0.1:${app.bind.containerPort}/`);
  assert.equal(await page.text(), 'here');
  await app.close();
  local.stop();
  await kit.stop();
});

test('killSession ends a session for good', async () => {
  const kit = await RealKit.start();
  const { url, token } = kit.options;
  const session = new TunnelSession({ url, token, reconnect: true });
  await session.connect();
  const killed = await tunnel.admin({ url, token }).killSession(session.id ?? '', { graceMs: 50 });
  assert.equal(killed.status, 'closing');
  assert.equal((await session.closed)?.code, 'CLOSED');
  await kit.stop();
});

/** Requests on one connection from a given port, then a reset that frees the port at once. */
async function fromPort(localPort: number, port: number, ...logins: string[]): Promise<string> {
  const socket = net.connect({ port, host: '127.0.0.1', localPort });
  await once(socket, 'connect');
  let answer = '';
  for (const login of logins) {
    const proof = login.replace('CHALLENGE', / (challenge-\d+)/.exec(answer)?.[1] ?? '');
    const field = proof === '' ? '' : `Authorization: NTLM ${proof}\r\n`;
    socket.write(`GET / HTTP/1.1\r\nHost: localhost\r\n${field}\r\n`);
    answer = '';
    const isWhole = (): boolean => {
      const [head = '', body] = answer.split('\r\n\r\n');
      return body?.length === Number(/content-length: (\d+)/i.exec(head)?.[1]);
    };
    while (!isWhole()) answer += String((await once(socket, 'data'))[0]);
  }
  socket.resetAndDestroy();
  return answer.split('\r\n\r\n')[1] ?? '';
}

test('who comes from the port of somebody who was logged in is a stranger', async () => {
  const kit = await RealKit.start();
  const { url, token } = kit.options;
  const local = await loginServer();
  const to = { host: '127.0.0.1', port: local.port };
  {
    await using app = await tunnel.expose({ url, token, containerPort: 0, to });
    const port = app.bind.containerPort;
    for (let times = 0; times < 10; times += 1) {
      const same = await freePort();
      const login = ['hello', 'alice CHALLENGE', ''];
      assert.equal(await fromPort(same, port, ...login), 'alice');
      assert.equal(await fromPort(same, port, ''), 'nobody');
    }
  }
  await local.stop();
  await kit.stop();
});
