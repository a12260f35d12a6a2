/**
 * The end of a session: what still runs gets its time, and no more.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ClosedError, OptionsError, tunnel, TunnelSession, type Tunnel } from '../../src/index.js';
import { FrameType } from '../../src/wire/frame.js';
import { rejects } from '../support/assert.js';
import { FixtureKit } from '../support/kit.js';
import { until } from '../support/local.js';

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
    await until(() => app.session['leaving'].size === 0);
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
