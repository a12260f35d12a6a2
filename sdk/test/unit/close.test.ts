/**
 * The end of a session: what still runs gets its time, and no more.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  ClosedError,
  OptionsError,
  tunnel,
  TunnelSession,
  type Tunnel,
  type TunnelEventType,
} from '../../src/index.js';
import { FrameType } from '../../src/wire/frame.js';
import { rejects } from '../support/assert.js';
import { FixtureKit } from '../support/kit.js';
import { later, until } from '../support/local.js';

/** Far above what any of these takes, and far below what a hang would. */
const QUICK = { timeout: 30_000 };

/** A tunnel whose handler answers when it is told to. */
async function slow(kit: FixtureKit, signal?: AbortSignal) {
  const answers: ((text: string) => void)[] = [];
  const app = await tunnel.serve({
    url: kit.url,
    containerPort: 3000,
    signal,
    fetch: async () => new Response(await new Promise<string>((resolve) => answers.push(resolve))),
  });
  return { app, answers };
}

const timed = async (app: Tunnel, graceMs: number): Promise<number> => {
  const start = Date.now();
  await app.close({ graceMs });
  return Date.now() - start;
};

test(
  'requests that run are finished before the session ends, and nobody new comes',
  QUICK,
  async () => {
    const kit = await FixtureKit.start();
    const { app, answers } = await slow(kit);
    const { session } = kit;
    const running = session.get('/');
    await until(() => answers.length === 1);
    const { bindId } = app.bind;
    const closing = app.close({ graceMs: 60_000 });
    await until(() => session.count(FrameType.Unbind) === 1);
    await rejects(app.session.bind({ mode: 'pull', containerPort: 1 }), ClosedError);
    // A visitor on the heels of UNBIND_OK would still be served: this one comes a moment later.
    await until(() => app.session['ports']['leaving'].size === 0);
    const late = session.get('/late', { bindId });
    await rejects(late.head(), Error);
    assert.equal(session.count(FrameType.Goaway), 0);
    answers[0]?.('finished');
    assert.equal(await running.text(), 'finished');
    await closing;
    await until(() => session.count(FrameType.Goaway) === 1);
    await kit.stop();
  },
);

test('a visitor whom the kit let in before UNBIND is served', QUICK, async () => {
  const kit = await FixtureKit.start();
  const { app, answers } = await slow(kit);
  const { bindId } = app.bind;
  const closing = app.close();
  // In the same turn: the kit has not heard of UNBIND yet.
  const visitor = kit.session.get('/', { bindId });
  await until(() => answers.length === 1);
  answers[0]?.('served');
  assert.equal(await visitor.text(), 'served');
  await closing;
  await kit.stop();
});

test('what does not end is broken off after the grace, at once without one', QUICK, async () => {
  for (const graceMs of [200, 0]) {
    const kit = await FixtureKit.start();
    const { app, answers } = await slow(kit);
    kit.session.get('/');
    await until(() => answers.length === 1);
    const took = await timed(app, graceMs);
    assert.ok(took >= graceMs - 50 && took < 20_000, String(took));
    await kit.stop();
  }
});

test(
  'an abort, and a second close without a grace, cut the grace of a close short',
  QUICK,
  async () => {
    const abort = new AbortController();
    for (const hurry of [(app: Tunnel) => app.close({ graceMs: 0 }), () => abort.abort()]) {
      const kit = await FixtureKit.start();
      const { app, answers } = await slow(kit, abort.signal);
      kit.session.get('/');
      await until(() => answers.length === 1);
      const closing = app.close({ graceMs: 3_600_000 });
      await hurry(app);
      await closing;
      assert.equal(await app.closed, undefined);
      await kit.stop();
    }
  },
);

test('a connection that is lost while the session closes ends it', QUICK, async () => {
  const kit = await FixtureKit.start();
  const { app, answers } = await slow(kit);
  kit.session.get('/');
  await until(() => answers.length === 1);
  const closing = app.close({ graceMs: 3_600_000 });
  await until(() => kit.session.count(FrameType.Unbind) === 1);
  kit.session.drop();
  await closing;
  assert.equal(await app.closed, undefined);
  assert.equal(kit.upgrades.length, 1);
  await kit.stop();
});

test('a grace that is none is refused', async () => {
  const session = new TunnelSession({ url: 'ws://127.0.0.1:9' });
  for (const graceMs of [-1, 0.5, NaN, '5', null]) {
    await rejects(session.close({ graceMs } as never), OptionsError);
  }
  await session.close();
});

const ALL: TunnelEventType[] = [
  'online',
  'lost',
  'resumed',
  'takenOver',
  'request',
  'overloaded',
  'closed',
];

/** Notes what a session tells, in order. */
function told(session: TunnelSession): string[] {
  const all: string[] = [];
  for (const type of ALL) session.addEventListener(type, () => all.push(type));
  return all;
}

test('nothing is told after closed, and what was still to be told before it', QUICK, async () => {
  const kit = await FixtureKit.start();
  const session = new TunnelSession({ url: kit.url, reconnect: true, maxHandlers: 1 });
  const events = told(session);
  const refused: number[] = [];
  session.addEventListener('overloaded', ({ detail }) => refused.push(detail.refused));
  await session.connect();
  const fetch = () => new Promise<Response>(() => undefined);
  await session.bind({ mode: 'expose', containerPort: 3000, fetch });
  const visitors = Array.from({ length: 5 }, () => kit.session.get('/'));
  // The first one of those who are turned away is told of at once, the others a second later.
  await until(() => visitors.filter(({ heads }) => heads.length > 0).length === 4);
  for (let at = 0; at < 3; at += 1) kit.session.get('/waits');
  await until(() => session['link']?.mux.size === 4);
  await session.close({ graceMs: 0 });
  assert.equal(
    refused.reduce((sum, count) => sum + count, 0),
    4,
  );
  assert.equal(events.at(-1), 'closed');
  const before = events.length;
  await later(1500);
  assert.deepEqual(events.slice(before), []);
  await kit.stop();
});

test('a session that is closed by who hears of a loss stays closed', QUICK, async () => {
  for (const reconnect of [true, false]) {
    const kit = await FixtureKit.start();
    const session = new TunnelSession({ url: kit.url, reconnect });
    const events = told(session);
    session.addEventListener('lost', () => void session.close());
    await session.connect();
    await session.bind({ mode: 'expose', containerPort: 3000 });
    kit.session.drop();
    await session.closed;
    await later(100);
    assert.equal(session.state, 'closed');
    assert.deepEqual(events, ['online', 'lost', 'closed']);
    assert.equal(kit.upgrades.length, 1);
    await kit.stop();
  }
});

test('every other event may close the session as well', QUICK, async () => {
  const closes: [TunnelEventType, (kit: FixtureKit) => void][] = [
    ['online', () => undefined],
    ['takenOver', (kit) => kit.revoke(3000)],
    ['request', (kit) => void kit.session.get('/')],
    ['overloaded', (kit) => [1, 2, 3].forEach(() => kit.session.get('/slow'))],
    ['resumed', (kit) => kit.session.drop()],
  ];
  for (const [type, cause] of closes) {
    const kit = await FixtureKit.start();
    const session = new TunnelSession({ url: kit.url, reconnect: true, maxHandlers: 1 });
    const events = told(session);
    const fetch = ({ url }: Request): Response | Promise<Response> =>
      url.endsWith('/slow') ? new Promise(() => undefined) : new Response('ok');
    session.addEventListener(type, () => void session.close({ graceMs: 0 }));
    await session.connect();
    if (type !== 'online') {
      await session.bind({ mode: 'expose', containerPort: 3000, fetch });
      cause(kit);
    }
    assert.equal(await session.closed, undefined, type);
    await later(50);
    assert.equal(session.state, 'closed', type);
    assert.equal(events.indexOf('closed'), events.length - 1, events.join());
    await kit.stop();
  }
});
