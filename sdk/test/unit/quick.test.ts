import assert from 'node:assert/strict';
import { performance } from 'node:perf_hooks';
import { test } from 'node:test';
import { ClosedError, TunnelSession } from '../../src/index.js';
import { Backoff } from '../../src/client/backoff.js';
import { hasNetwork } from '../../src/client/network.js';
import { FrameType } from '../../src/wire/frame.js';
import { parseObject } from '../../src/wire/control.js';
import { readHello } from '../support/kit-control.js';
import { FixtureKit } from '../support/kit.js';
import { later, until } from '../support/local.js';

const web = { mode: 'expose', containerPort: 3000 } as const;

async function online(kit: FixtureKit, more: object = {}): Promise<TunnelSession> {
  const session = new TunnelSession({ url: kit.url, reconnect: true, ...more });
  await session.connect();
  return session;
}

test('pauses grow to a second and no further while there is a network', () => {
  const backoff = new Backoff('127.0.0.1');
  const pauses = Array.from({ length: 20 }, () => backoff.next());
  assert.equal(pauses[0], 0);
  assert.ok(Math.max(...pauses) <= 1000);
  assert.ok(Math.min(...pauses.slice(5)) >= 500);
  backoff.reset();
  assert.equal(backoff.next(), 0);
  for (const host of ['localhost', '[::1]', '127.9.9.9']) assert.ok(hasNetwork(host), host);
});

test('a connection that fails again and again after a resume is dialled at once each time', async () => {
  const kit = await FixtureKit.start();
  const session = await online(kit);
  await session.bind({ ...web, fetch: () => new Response('ok') });
  const { id } = session;
  const waits: number[] = [];
  session.addEventListener('resumed', ({ detail }) => waits.push(detail.afterMs));
  for (let times = 1; times <= 6; times += 1) {
    await later(300);
    kit.session.drop();
    await until(() => waits.length === times);
  }
  assert.equal(session.id, id);
  assert.ok(Math.max(...waits) < 200, waits.join());
  await session.close();
  await kit.stop();
});

test('a kit that takes us and drops us at once is not dialled in a tight loop', async () => {
  const kit = await FixtureKit.start();
  const session = await online(kit);
  await session.bind({ ...web, fetch: () => new Response('ok') });
  kit.events.on('hello', (at) => setImmediate(() => (at as typeof kit.session).drop()));
  kit.session.drop();
  await later(1500);
  assert.ok(kit.upgrades.length <= 10, `${kit.upgrades.length} dials`);
  await session.close();
  await kit.stop();
});

test(
  'HELLO tells how often something is sent, and it is, on each lane',
  { timeout: 20_000 },
  async () => {
    const kit = await FixtureKit.start();
    const session = await online(kit, { maxConnections: 2 });
    await until(() => session.connections === 2);
    const hello = kit.hellos[0];
    assert.equal(parseObject(hello!, 'HELLO')['pingEveryMs'], 2000);
    assert.equal(readHello(hello!).maxConnections, 2);
    // The kit is heard all the time, which is no reason to be silent.
    const chatter = setInterval(() => {
      for (const lane of [0, 1]) kit.session.send(FrameType.Window, 9, Buffer.alloc(4), lane);
    }, 100);
    await later(4600);
    clearInterval(chatter);
    for (const lane of [0, 1]) {
      const pings = kit.session.heard.filter(
        ({ type, on }) => type === FrameType.Ping && on === lane,
      );
      assert.ok(pings.length >= 2, `${pings.length} pings on lane ${lane}`);
      const gaps = pings.slice(1).map(({ at }, n) => at - pings[n]!.at);
      assert.ok(Math.max(...gaps) <= 2300, gaps.join());
    }
    await session.close();
    await kit.stop();
  },
);

test('GOAWAY that is final ends the session with its reason, whatever its code', async () => {
  for (const code of [0, 7, 10, 14]) {
    const kit = await FixtureKit.start();
    const session = await online(kit);
    kit.session.goaway(code, 'killed by the operator', { final: true });
    const end = await session.closed;
    assert.ok(end instanceof ClosedError);
    assert.match(end.message, /killed by the operator/);
    assert.equal(kit.upgrades.length, 1);
    await kit.stop();
  }
});

test('GOAWAY that is final in answer to HELLO ends the dialling', async () => {
  const kit = await FixtureKit.start();
  const session = await online(kit);
  kit.banned = true;
  kit.session.drop();
  const end = await session.closed;
  assert.ok(end instanceof ClosedError);
  assert.match(end.message, /banned for a while/);
  await kit.stop();
});

test('GOAWAY that is not final is dialled through at once, and what runs goes on', async () => {
  const kit = await FixtureKit.start();
  let answer: (text: string) => void = () => undefined;
  const slow = new Promise<string>((resolve) => (answer = resolve));
  const session = await online(kit);
  const fetch = async ({ url }: Request): Promise<Response> =>
    new Response(url.endsWith('/slow') ? await slow : 'quick');
  await session.bind({ ...web, fetch });
  const old = kit.session;
  const running = old.get('/slow');
  await until(() => session['link']?.mux.size === 1);
  // The new process does not know the session of the old one.
  kit.sessions.delete(old.id);
  const asked = performance.now();
  old.goaway(7, 'restarting', { final: false, graceMs: 5000 });
  await until(
    () => session.id !== old.id && session.state === 'online' && session.bindings.length === 1,
  );
  assert.ok(performance.now() - asked < 1000);
  assert.equal(await kit.session.get('/').text(), 'quick');
  const late = old.get('/late', { bindId: 1 });
  await until(() => late.reset !== undefined);
  assert.equal(late.reset?.code, 6);
  answer('whole');
  assert.equal(await running.text(), 'whole');
  // With nothing left to run, the old connection goes.
  await until(() => old.lanes.size === 0);
  assert.equal(session.state, 'online');
  await session.close();
  await kit.stop();
});

test('closing a session closes what drains as well', async () => {
  const kit = await FixtureKit.start();
  const session = await online(kit);
  await session.bind({ ...web, fetch: () => new Promise<Response>(() => undefined) });
  const old = kit.session;
  old.get('/never');
  await until(() => session['link']?.mux.size === 1);
  kit.sessions.delete(old.id);
  old.goaway(0, 'restarting', { final: false, graceMs: 60_000 });
  await until(() => session.id !== old.id && session.state === 'online');
  assert.equal(old.lanes.size, 1);
  await session.close({ graceMs: 0 });
  await until(() => old.lanes.size === 0);
  await kit.stop();
});

test('resumed elsewhere is no reason to take the session back', async () => {
  const kit = await FixtureKit.start();
  const session = await online(kit);
  kit.session.goaway(7, 'resumed elsewhere', { final: true });
  const end = await session.closed;
  assert.ok(end instanceof ClosedError);
  assert.match(end.message, /another client/);
  await kit.stop();
});
