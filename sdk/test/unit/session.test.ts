import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  AuthError,
  BindError,
  ClosedError,
  LostError,
  ProtocolError,
  SessionLimitError,
  tunnel,
  TunnelSession,
  TunnelTimeoutError,
  type SessionOptions,
} from '../../src/index.js';
import { encodeFrame, FrameType } from '../../src/wire/frame.js';
import { rejects } from '../support/assert.js';
import { FixtureKit, type KitConfig } from '../support/kit.js';
import { answering, freePort, later, listen, until } from '../support/local.js';

const HELLO = 'HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi';

/** Runs a test with a kit, and a session that is connected to it. */
async function withSession(
  config: KitConfig,
  options: Partial<SessionOptions>,
  body: (kit: FixtureKit, session: TunnelSession) => Promise<void>,
): Promise<void> {
  const kit = await FixtureKit.start(config);
  const session = new TunnelSession({ url: kit.url, ...options });
  try {
    await session.connect();
    await body(kit, session);
  } finally {
    await session.close();
    await kit.stop();
  }
}

test('connect, bind and close as the readme shows them', async () => {
  const kit = await FixtureKit.start({ token: 'secret', publicUrl: 'https://app.example' });
  const local = await answering(HELLO);
  {
    await using session = new TunnelSession({ url: kit.url, token: 'secret', maxConnections: 4 });
    await session.connect();
    assert.match(session.id ?? '', /^S-/);
    assert.equal(session.hello?.connectionsGranted, 4);
    const web = await session.bind({
      kind: 'http',
      mode: 'expose',
      containerPort: 3000,
      takeover: true,
      to: { host: '127.0.0.1', port: local.port },
    });
    assert.equal(web.containerPort, 3000);
    assert.equal(web.publicUrl, 'https://app.example');
    assert.equal(await kit.session.get('/').text(), 'hi');
    await web.unbind();
    assert.equal(kit.session.binds.size, 0);
    await session.close();
    assert.equal(session.state, 'closed');
  }
  await until(() => kit.sessions.size === 0);
  await local.stop();
  await kit.stop();
});

test('a session ends with GOAWAY, so that the kit does not park it', async () => {
  const kit = await FixtureKit.start();
  const app = await tunnel.expose({
    url: kit.url,
    containerPort: 3000,
    to: { host: 'localhost', port: 1 },
  });
  const { session } = kit;
  await app.close();
  await until(() => session.count(FrameType.Goaway) === 1);
  assert.equal(session.count(FrameType.Unbind), 1);
  await until(() => kit.sessions.size === 0);
  assert.equal(await app.closed, undefined);
  await kit.stop();
});

test('the token goes into the upgrade and into HELLO, and a function is asked at each dial', async () => {
  const kit = await FixtureKit.start({ token: 'second' });
  let asked = 0;
  const session = new TunnelSession({
    url: kit.url,
    token: () => Promise.resolve(++asked === 1 ? 'first' : 'second'),
    kitHeaders: { 'x-proxy': 'p' },
  });
  await rejects(session.connect(), AuthError);
  await session.connect();
  assert.equal(kit.upgrades.at(-1)?.headers.authorization, 'Bearer second');
  assert.equal(kit.upgrades.at(-1)?.headers['x-proxy'], 'p');
  await session.close();
  await kit.stop();
});

test('an Authorization for the proxy is kept, and the token still proves us in HELLO', async () => {
  const kit = await FixtureKit.start({ token: 'secret' });
  const session = new TunnelSession({
    url: kit.url,
    token: 'secret',
    kitHeaders: { Authorization: 'Basic proxy' },
  });
  await session.connect();
  assert.equal(kit.upgrades[0]?.headers.authorization, 'Basic proxy');
  await session.close();
  await kit.stop();
});

test('a wrong token ends at once, also with reconnect', async () => {
  const kit = await FixtureKit.start({ token: 'secret' });
  const error = await rejects(
    tunnel.expose({ url: kit.url, token: 'wrong', containerPort: 3000 }),
    AuthError,
  );
  assert.equal(error.code, 'AUTH');
  kit.refuseUpgrade = 401;
  await rejects(tunnel.expose({ url: kit.url, token: 'wrong', containerPort: 3000 }), AuthError);
  assert.equal(kit.upgrades.length, 2);
  await kit.stop();
});

test('a refused binding is a BindError with the code of the kit', async () => {
  await withSession({}, {}, async (kit, session) => {
    kit.refuseBind = () => 'PORT_IN_USE';
    const error = await rejects(session.bind({ mode: 'expose', containerPort: 3000 }), BindError);
    assert.equal(error.code, 'BIND_ERR');
    assert.equal(error.kitCode, 'PORT_IN_USE');
    assert.equal(session.state, 'online');
  });
});

test('a full kit, a page that is no kit, nothing, and silence have errors of their own', async () => {
  const kit = await FixtureKit.start({ maxSessions: 0 });
  const connect = (): Promise<unknown> => new TunnelSession({ url: kit.url }).connect();
  assert.equal((await rejects(connect(), SessionLimitError)).code, 'SESSION_LIMIT');
  kit.refuseUpgrade = 404;
  assert.equal((await rejects(connect(), ProtocolError)).code, 'PROTOCOL');
  kit.refuseUpgrade = 503;
  assert.equal((await rejects(connect(), LostError)).code, 'LOST');
  kit.refuseUpgrade = undefined;
  kit.silent = true;
  const quiet = new TunnelSession({ url: kit.url, connectTimeout: 100 });
  assert.equal((await rejects(quiet.connect(), TunnelTimeoutError)).code, 'TIMEOUT');
  await kit.stop();
  const port = await freePort();
  const nobody = new TunnelSession({ url: `ws://127.0.0.1:${port}` });
  assert.equal((await rejects(nobody.connect(), LostError)).code, 'LOST');
});

test('with reconnect the first connection is tried until the kit is up', async () => {
  const port = await freePort();
  const opening = tunnel.pull({
    url: `ws://127.0.0.1:${port}`,
    containerPort: 0,
    to: { host: '127.0.0.1', port: 5432 },
  });
  await later(100);
  const kit = await FixtureKit.start({}, port);
  await using db = await opening;
  assert.equal(db.bind.mode, 'pull');
  await db.close();
  await kit.stop();
});

test('a lost session is dialled again at once and resumed, with the same binding', async () => {
  const kit = await FixtureKit.start();
  const local = await answering(HELLO);
  const to = { host: '127.0.0.1', port: local.port };
  await using app = await tunnel.expose({ url: kit.url, containerPort: 3000, to });
  const events: string[] = [];
  app.addEventListener('lost', ({ detail }) => events.push(`lost ${String(detail.retrying)}`));
  app.addEventListener('resumed', ({ detail }) => events.push(`resumed ${String(detail.fresh)}`));
  const { id } = app.session;
  const { bindId } = app.bind;
  kit.session.drop();
  await until(() => events.length === 2);
  assert.deepEqual(events, ['lost true', 'resumed false']);
  assert.equal(app.session.id, id);
  assert.equal(app.bind.bindId, bindId);
  assert.equal(await kit.session.get('/again').text(), 'hi');
  await app.close();
  await local.stop();
  await kit.stop();
});

test('after an expired grace the same ports are bound again', async () => {
  const kit = await FixtureKit.start();
  const local = await answering(HELLO);
  const to = { host: '127.0.0.1', port: local.port };
  await using app = await tunnel.expose({ url: kit.url, containerPort: 0, to });
  const before = app.bind.containerPort;
  const resumed = new Promise((resolve) => {
    app.addEventListener('resumed', ({ detail }) => resolve(detail.fresh));
  });
  const { id } = app.session;
  kit.sessions.delete(kit.session.id);
  await until(() => app.session.state === 'online');
  for (const session of [kit]) assert.equal(session.sessions.size, 0);
  kit.upgrades.at(-1)?.socket.destroy();
  assert.equal(await resumed, true);
  assert.notEqual(app.session.id, id);
  assert.equal(app.bind.containerPort, before);
  assert.equal(await kit.session.get('/').text(), 'hi');
  await app.close();
  await local.stop();
  await kit.stop();
});

test('a session is an EventTarget, and the target of its events', async () => {
  await withSession({}, {}, async (kit, session) => {
    assert.ok(session instanceof EventTarget);
    let target: unknown;
    session.addEventListener('lost', (event) => (target = event.target), { once: true });
    kit.session.drop();
    await session.closed;
    assert.equal(target, session);
  });
});

test('without reconnect a loss ends the session', async () => {
  await withSession({}, {}, async (kit, session) => {
    const lost: boolean[] = [];
    session.addEventListener('lost', ({ detail }) => lost.push(detail.retrying));
    kit.session.drop();
    assert.ok((await session.closed) instanceof LostError);
    assert.deepEqual(lost, [false]);
    await rejects(session.bind({ mode: 'expose', containerPort: 1 }), ClosedError);
  });
});

test('a session whose signal was aborted before it was made is closed', async () => {
  const signal = AbortSignal.abort(new Error('before'));
  const session = new TunnelSession({ url: 'ws://127.0.0.1:1', signal });
  const events: string[] = [];
  session.addEventListener('closed', () => events.push('closed'));
  assert.equal(await session.closed, undefined);
  assert.equal(session.state, 'closed');
  assert.deepEqual(events, ['closed']);
  assert.equal((await rejects(session.connect(), Error)).message, 'before');
});

test('takeover tells the one who had the port, and its tunnel ends', async () => {
  const kit = await FixtureKit.start();
  const blue = await tunnel.expose({ url: kit.url, containerPort: 3000 });
  const taken = new Promise<number>((resolve) => {
    blue.addEventListener('takenOver', ({ detail }) => resolve(detail.containerPort));
  });
  await using green = await tunnel.expose({ url: kit.url, containerPort: 3000, takeover: true });
  assert.equal(await taken, 3000);
  assert.equal(await blue.closed, undefined);
  assert.equal(green.bind.containerPort, 3000);
  await green.close();
  await kit.stop();
});

test(
  'silence is asked about after two seconds and given up after five',
  { timeout: 20_000 },
  async () => {
    const kit = await FixtureKit.start();
    await using app = await tunnel.expose({ url: kit.url, containerPort: 3000 });
    const lost = new Promise<void>((resolve) => {
      app.addEventListener('lost', () => resolve());
    });
    const first = kit.session;
    await until(() => first.count(FrameType.Ping) > 0);
    await later(700);
    assert.equal(app.session.state, 'online');
    kit.mute = true;
    await lost;
    kit.mute = false;
    await until(() => app.session.state === 'online');
    assert.equal(app.session.id, first.id);
    await app.close();
    await kit.stop();
  },
);

test('PING is answered with the same eight bytes', async () => {
  await withSession({}, {}, async (kit) => {
    const payload = Buffer.from('12345678');
    kit.session.send(FrameType.Ping, 0, payload);
    await until(() => kit.session.count(FrameType.Pong) === 1);
    const pong = kit.session.frames.find(({ type }) => type === FrameType.Pong);
    assert.deepEqual(pong?.payload, payload);
  });
});

test('lanes join with tickets, carry their streams, and come back with new tickets', async () => {
  const local = await answering(HELLO);
  const mute = await listen(() => undefined);
  await withSession({ granted: 3 }, { maxConnections: 4 }, async (kit, session) => {
    const to = { host: '127.0.0.1', port: local.port };
    await session.bind({ mode: 'expose', containerPort: 3000, to });
    await until(() => session.connections === 3);
    assert.equal(session.hello?.connectionsGranted, 3);
    const { session: held } = kit;
    assert.equal(await held.get('/lane', {}, 2).text(), 'hi');
    // A stream on a lane that drops dies with it; the session goes on.
    const hanging = await session.bind({
      mode: 'pull',
      containerPort: 5000,
      to: { host: '127.0.0.1', port: mute.port },
    });
    held.open({ kind: 'tcp', bindId: hanging.bindId }, 2);
    await until(() => mute.open.size === 1);
    held.drop(2);
    await until(() => mute.open.size === 0);
    await until(() => held.lanes.size === 3);
    assert.equal(session.state, 'online');
    assert.equal(held.count(FrameType.ReissueJoinTickets) > 0, true);
    assert.equal(await held.get('/again', { bindId: 1 }, 2).text(), 'hi');
  });
  await local.stop();
  await mute.stop();
});

test('many lanes and many bindings on one signal are taken for no leak', async () => {
  const warnings: string[] = [];
  const warned = (warning: Error): void => void warnings.push(warning.message);
  process.on('warning', warned);
  const kit = await FixtureKit.start();
  const { signal } = new AbortController();
  const session = new TunnelSession({ url: kit.url, maxConnections: 16, signal });
  await session.connect();
  const ports = Array.from({ length: 15 }, (_, at) => 3000 + at);
  await Promise.all(
    ports.map((containerPort) => session.bind({ mode: 'pull', containerPort, signal })),
  );
  await until(() => session.connections === 16);
  await session.close();
  await kit.stop();
  await later(10);
  process.off('warning', warned);
  assert.deepEqual(warnings, []);
});

test('frames of one turn leave in one message', async () => {
  const local = await answering(HELLO);
  await withSession({}, {}, async (kit, session) => {
    const to = { host: '127.0.0.1', port: local.port };
    await session.bind({ mode: 'expose', containerPort: 3000, to });
    const before = kit.session.messages;
    for (const stream of Array.from({ length: 20 }, () => kit.session.get('/'))) {
      await stream.body();
    }
    // Sixty frames: a head, DATA and EOF for each of twenty.
    assert.ok(kit.session.messages - before <= 40, `${kit.session.messages - before} messages`);
  });
  await local.stop();
});

test('an aborted signal stops connecting, stops binding, and closes what is open', async () => {
  const kit = await FixtureKit.start();
  kit.silent = true;
  const early = new AbortController();
  const session = new TunnelSession({ url: kit.url });
  const connecting = session.connect({ signal: early.signal });
  setTimeout(() => early.abort(new Error('enough')), 30);
  assert.equal((await rejects(connecting, Error)).message, 'enough');
  kit.silent = false;
  const whole = new AbortController();
  const app = await tunnel.expose({ url: kit.url, containerPort: 3000, signal: whole.signal });
  kit.refuseBind = () => undefined;
  const late = new AbortController();
  const binding = app.session.bind({
    mode: 'expose',
    containerPort: 3001,
    signal: AbortSignal.abort(new Error('too late')),
  });
  late.abort();
  assert.equal((await rejects(binding, Error)).message, 'too late');
  whole.abort();
  assert.equal(await app.closed, undefined);
  await until(() => kit.sessions.size === 0);
  await kit.stop();
});

test('a message that is none ends the session with GOAWAY and PROTOCOL', async () => {
  await withSession({}, { reconnect: true }, async (kit, session) => {
    kit.session.raw(Buffer.from([0x80, 0, 0, 0, 0, 0, 0, 0, 0]));
    const error = await session.closed;
    assert.equal(error?.code, 'PROTOCOL');
  });
});

test('what must not be understood is skipped', async () => {
  await withSession({}, {}, async (kit, session) => {
    kit.session.raw(encodeFrame(0x5a, 7, Buffer.from('extension')));
    kit.session.json(FrameType.ShardMap, { connections: [{ index: 0, state: 'open' }] });
    kit.session.send(FrameType.Ping, 0, Buffer.alloc(8));
    await until(() => kit.session.count(FrameType.Pong) === 1);
    assert.equal(session.state, 'online');
  });
});

test('GOAWAY of a kit that shuts down is a loss, and of one that kills is the end', async () => {
  const kit = await FixtureKit.start();
  const app = await tunnel.expose({ url: kit.url, containerPort: 3000 });
  const resumed = new Promise<void>((resolve) => {
    app.addEventListener('resumed', () => resolve());
  });
  kit.session.goaway(0, 'shutting down');
  await resumed;
  kit.session.goaway(7, 'killed');
  const error = await app.closed;
  assert.equal(error?.code, 'CLOSED');
  await kit.stop();
});

test('several bindings of one session go to several targets', async () => {
  const one = await answering('HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none');
  const two = await answering('HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\ntwo');
  const echo = await listen((socket) => socket.pipe(socket));
  await withSession({}, {}, async (kit, session) => {
    const at = (port: number) => ({ host: '127.0.0.1', port });
    const a = await session.bind({ mode: 'expose', containerPort: 3001, to: at(one.port) });
    const b = await session.bind({ mode: 'expose', containerPort: 3002, to: at(two.port) });
    const c = await session.bind({ mode: 'pull', containerPort: 3003, to: at(echo.port) });
    assert.equal(await kit.session.get('/', { bindId: a.bindId }).text(), 'one');
    assert.equal(await kit.session.get('/', { bindId: b.bindId }).text(), 'two');
    // An older kit names no binding, only its port.
    const old = kit.session.get('/', { bindId: undefined, containerPort: 3001 });
    assert.equal(await old.text(), 'one');
    const tcp = kit.session.caller({ bindId: c.bindId });
    tcp.send(Buffer.from('echo'));
    tcp.end();
    assert.equal(await tcp.text(), 'echo');
    const nobody = kit.session.get('/', { bindId: 99 });
    await rejects(nobody.head(), Error);
  });
  for (const server of [one, two, echo]) await server.stop();
});
