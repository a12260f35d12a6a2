/**
 * `wss://` through a TLS proxy in front of the real kit, on the runtime that runs this file.
 */
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { once } from 'node:events';
import net, { type AddressInfo } from 'node:net';
import { after, before, test } from 'node:test';
import { TlsError, tunnel, TunnelSession } from '../../src/index.js';
import { rejects } from '../support/assert.js';
import { later, listen, until } from '../support/local.js';
import { RealKit, TOKEN } from '../support/real-kit.js';
import { TlsFront } from '../support/tls-front.js';

let kit: RealKit;
let front: TlsFront;
before(async () => {
  kit = await RealKit.start();
  front = await TlsFront.start(kit.port);
});
after(async () => {
  await front.stop();
  await kit.stop();
});

const trusting = (): { url: string; token: string; ca: string } => {
  return { url: front.url, token: TOKEN, ca: front.ca };
};

/** Far below the time for which a lost network would be dialled. */
const QUICK = { timeout: 30_000 };

async function page(port: number, path: string): Promise<string> {
  return (await fetch(`http://127.0.0.1:${port}${path}`)).text();
}

test('expose, serve, pull and admin work over wss with an authority of our own', async () => {
  const local = createServer((req, res) => res.end(`local ${req.url ?? ''}`));
  local.listen(0, '127.0.0.1');
  await once(local, 'listening');
  const { port } = local.address() as AddressInfo;
  const echo = await listen((socket) => socket.pipe(socket));
  {
    const to = { host: '127.0.0.1', port };
    await using app = await tunnel.expose({ ...trusting(), containerPort: 0, to });
    assert.equal(await page(app.bind.containerPort, '/here'), 'local /here');
    await using served = await tunnel.serve({
      ...trusting(),
      containerPort: 0,
      fetch: async (req) => new Response(`served ${(await req.text()).length}`),
    });
    const body = Buffer.alloc(3_000_000, 'x');
    const upload = { method: 'POST', body };
    const answer = await fetch(`http://127.0.0.1:${served.bind.containerPort}/`, upload);
    assert.equal(await answer.text(), 'served 3000000');
    await using db = await tunnel.pull({
      ...trusting(),
      containerPort: 0,
      to: { host: '127.0.0.1', port: echo.port },
    });
    const bulk = Buffer.alloc(5_000_000, 'pulled through TLS ');
    const caller = net.connect({
      host: '127.0.0.1',
      port: db.bind.containerPort,
      allowHalfOpen: true,
    });
    caller.end(bulk);
    const back: Buffer[] = [];
    for await (const chunk of caller) back.push(chunk as Buffer);
    assert.ok(Buffer.concat(back).equals(bulk));
    const admin = tunnel.admin(trusting());
    assert.equal((await admin.health()).status, 'ok');
    assert.equal((await admin.bindings()).total, 3);
    assert.equal((await admin.metrics()).value('hoody_tunnel_sessions_active'), 1);
  }
  local.close();
  local.closeAllConnections();
  await echo.stop();
});

test('a session of four lanes runs over wss', async () => {
  await using session = new TunnelSession({ ...trusting(), maxConnections: 4 });
  await session.connect();
  assert.equal(session.hello?.connectionsGranted, 4);
  await until(() => session.connections === 4);
  const fetchHandler = (req: Request): Response => new Response(new URL(req.url).pathname);
  const web = await session.bind({ mode: 'expose', containerPort: 0, fetch: fetchHandler });
  const paths = Array.from({ length: 100 }, (_, at) => `/${at}`);
  const texts = await Promise.all(paths.map((path) => page(web.containerPort, path)));
  assert.deepEqual(texts, paths);
});

test('an idle session over wss hears the kit', async () => {
  await using session = new TunnelSession(trusting());
  await session.connect();
  const lost: string[] = [];
  session.addEventListener('lost', ({ detail }) => lost.push(detail.reason));
  // Longer than a socket may be silent: the kit's pongs must count.
  await later(6000);
  assert.deepEqual(lost, []);
  assert.equal(session.state, 'online');
});

test(
  'a certificate that nobody vouches for fails at once, and says what to do',
  QUICK,
  async () => {
    const { url, token } = trusting();
    // With `reconnect` a lost network is dialled until the time is over; this is not one.
    const options = { url, token, connectTimeout: 3_600_000, reconnect: true };
    const to = { host: '127.0.0.1', port: 1 };
    const failed = await rejects(tunnel.expose({ ...options, containerPort: 0, to }), TlsError);
    assert.equal(failed.code, 'TLS');
    assert.match(failed.message, /127\.0\.0\.1:\d+.*\bca\b/);
    const asked = await rejects(tunnel.admin({ url, token }).health(), TlsError);
    assert.equal(asked.code, 'TLS');
  },
);

test('a certificate for another name fails at once', QUICK, async () => {
  const options = { ...trusting(), url: front.misnamedUrl };
  const patient = { connectTimeout: 3_600_000, reconnect: true };
  const session = new TunnelSession({ ...options, ...patient });
  const failed = await rejects(session.connect(), TlsError);
  assert.equal(failed.code, 'TLS');
  await session.close();
  await rejects(tunnel.admin(options).health(), TlsError);
});

test('a port that speaks no TLS is told from a kit that is away', QUICK, async () => {
  const session = new TunnelSession({ ...trusting(), url: `wss://127.0.0.1:${kit.port}` });
  const failed = await rejects(session.connect(), TlsError);
  assert.match(failed.message, /ws:\/\//);
});
