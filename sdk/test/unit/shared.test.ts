/**
 * One-call tunnels that share a session, and what the environment says.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AuthError, OptionsError, tunnel, TunnelSession } from '../../src/index.js';
import { FrameType } from '../../src/wire/frame.js';
import { rejects } from '../support/assert.js';
import { FixtureKit, type KitConfig } from '../support/kit.js';
import { until } from '../support/local.js';

async function withKit(config: KitConfig, body: (kit: FixtureKit) => Promise<void>): Promise<void> {
  const kit = await FixtureKit.start(config);
  try {
    await body(kit);
  } finally {
    await kit.stop();
  }
}

const hello = (text: string) => () => new Response(text);

test('tunnels of the same options share a session, and the last one ends it', async () => {
  await withKit({ token: 'secret' }, async (kit) => {
    const kind = { url: kit.url, token: 'secret' };
    const [app, db, s] = await Promise.all([
      tunnel.expose({ ...kind, containerPort: 3000 }),
      tunnel.pull({ ...kind, token: ' secret\n', containerPort: 5432 }),
      tunnel.serve({ ...kind, containerPort: 8080, fetch: hello('served') }),
    ]);
    assert.equal(kit.sessions.size, 1);
    assert.ok(app.session === db.session && db.session === s.session);
    const closed: string[] = [];
    app.addEventListener('closed', () => closed.push('app'));
    s.addEventListener('closed', () => closed.push('s'));
    await app.close();
    assert.equal(await app.closed, undefined);
    assert.deepEqual([s.session.state, closed], ['online', ['app']]);
    const { bindId } = s.bind;
    assert.equal(await kit.session.get('/', { bindId }).text(), 'served');
    await db.close();
    await s.close();
    assert.equal(s.session.state, 'closed');
    assert.deepEqual(closed, ['app', 's']);
    // Somebody who comes later has a new one.
    await using next = await tunnel.expose({ ...kind, containerPort: 3000 });
    assert.ok(next.session !== app.session);
    await next.close();
  });
});

test('others have a session of their own', async () => {
  await withKit({}, async (kit) => {
    const { url } = kit;
    await using one = await tunnel.expose({ url, containerPort: 1001 });
    const { signal } = new AbortController();
    for (const other of [
      { session: 'new' as const },
      { signal },
      { maxConnections: 2 },
      { kitHeaders: { a: 'b' } },
      { state: false as const },
      // Who takes a port over takes it from somebody.
      { containerPort: 1001, takeover: true },
    ]) {
      await using two = await tunnel.expose({ url, containerPort: 1002, ...other });
      assert.ok(one.session !== two.session, JSON.stringify(other));
      await two.close();
    }
    await one.close();
  });
  for (const wrong of [{ session: 'old' }, { closeOnExit: 1 }]) {
    const options = { url: 'ws://127.0.0.1:1', containerPort: 1, ...wrong };
    await rejects(tunnel.expose(options as never), OptionsError);
  }
});

test('where the kit grants no more bindings, another session is opened', async () => {
  await withKit({}, async (kit) => {
    kit.refuseBind = () => (kit.session.binds.size >= 8 ? 'BIND_CAP_EXCEEDED' : undefined);
    const ports = Array.from({ length: 9 }, (_, at) => 4000 + at);
    const all = [];
    for (const containerPort of ports) {
      all.push(await tunnel.expose({ url: kit.url, containerPort }));
    }
    assert.equal(new Set(all.map(({ session }) => session)).size, 2);
    assert.equal(new Set(all.slice(0, 8).map(({ session }) => session)).size, 1);
    // There is room again.
    await all[0]!.close();
    const again = await tunnel.expose({ url: kit.url, containerPort: 5000 });
    assert.ok(again.session === all[1]!.session);
    for (const one of [...all, again]) await one.close();
  });
});

test('what a tunnel is told is about its own port', async () => {
  await withKit({}, async (kit) => {
    const { url } = kit;
    const one = await tunnel.serve({ url, containerPort: 3001, fetch: hello('one') });
    const two = await tunnel.serve({ url, containerPort: 3002, fetch: hello('two') });
    const told: string[] = [];
    one.addEventListener('request', ({ detail }) => told.push(`one ${detail.target}`));
    two.addEventListener('request', ({ detail }) => told.push(`two ${detail.target}`));
    for (const { bind } of [one, two]) {
      const { bindId } = bind;
      assert.equal((await kit.session.get(`/${bindId}`, { bindId }).head()).status, 200);
    }
    await until(() => told.length === 2);
    assert.deepEqual(told, [`one /${one.bind.bindId}`, `two /${two.bind.bindId}`]);
    // One that is taken over ends alone.
    const { bindId } = one.bind;
    kit.session.json(FrameType.BindRevoked, { bindId, reason: 'taken' });
    assert.equal(await one.closed, undefined);
    assert.equal(two.session.state, 'online');
    await two.close();
  });
});

test('a tunnel that closes gives what runs there its time, and cuts nobody else', async () => {
  await withKit({}, async (kit) => {
    const { url } = kit;
    const answers = new Map<string, (text: string) => void>();
    const aborted: string[] = [];
    const fetch = async (request: Request): Promise<Response> => {
      const { pathname } = new URL(request.url);
      request.signal.addEventListener('abort', () => aborted.push(pathname));
      return new Response(await new Promise<string>((done) => answers.set(pathname, done)));
    };
    const one = await tunnel.serve({ url, containerPort: 3001, fetch });
    const two = await tunnel.serve({ url, containerPort: 3002, fetch });
    const ask = (path: string, { bind }: typeof one) =>
      kit.session.get(path, { bindId: bind.bindId });
    const [slow, never, other] = [ask('/slow', one), ask('/never', one), ask('/other', two)];
    await until(() => answers.size === 3);
    const closing = one.close({ graceMs: 60_000 });
    answers.get('/slow')!('done');
    assert.equal(await slow.text(), 'done');
    await one.close({ graceMs: 0 });
    await closing;
    await until(() => never.reset !== undefined);
    assert.deepEqual(aborted, ['/never']);
    answers.get('/other')!('still here');
    assert.equal(await other.text(), 'still here');
    await two.close();
  });
});

test('tunnels that came and went leave nothing with their session', async () => {
  await withKit({}, async (kit) => {
    const { url } = kit;
    const warned: string[] = [];
    const warn = (warning: Error): void => void warned.push(warning.message);
    process.on('warning', warn);
    const stays = await tunnel.expose({ url, containerPort: 3000 });
    const told: number[] = [];
    for (let round = 0; round < 30; round += 1) {
      const one = await tunnel.pull({ url, containerPort: 4000 });
      one.addEventListener('lost', () => told.push(round));
      assert.ok(one.session === stays.session);
      await one.close();
    }
    stays.addEventListener('lost', () => told.push(-1));
    kit.session.drop();
    await until(() => told.includes(-1));
    assert.deepEqual([told, warned], [[-1], []]);
    process.removeListener('warning', warn);
    await stays.close();
  });
});

test('a session that cannot be had is nobody’s, and the next call tries again', async () => {
  await withKit({ token: 'secret' }, async (kit) => {
    const { url } = kit;
    const wrong = { url, token: 'wrong', containerPort: 3000 };
    const both = [tunnel.expose(wrong), tunnel.pull(wrong)];
    for (const one of both) await rejects(one, AuthError);
    kit.config.token = 'wrong';
    const app = await tunnel.expose(wrong);
    // Who closes the session has closed it for all; the next one has another.
    void app.session.close();
    const next = await tunnel.pull(wrong);
    assert.ok(next.session !== app.session);
    await app.close();
    await next.close();
  });
});

test('the environment says where the kit is, and its token, where the options do not', async () => {
  const { env } = process;
  await withKit({ token: 'secret' }, async (kit) => {
    try {
      env['HOODY_TUNNEL_URL'] = kit.url;
      env['HOODY_TUNNEL_TOKEN'] = 'secret\n';
      await using app = await tunnel.expose({ containerPort: 3000 });
      await app.close();
      await tunnel
        .admin({})
        .sessions()
        .catch(() => undefined);
      await rejects(tunnel.expose({ token: 'wrong', containerPort: 3000 }), AuthError);
      const { url } = kit;
      const session = new TunnelSession({ url, token: () => Promise.resolve(' secret\r\n') });
      await session.connect();
      await session.close();
      env['HOODY_TUNNEL_URL'] = '';
      const error = await rejects(tunnel.expose({ containerPort: 3000 }), OptionsError);
      assert.match(error.message, /HOODY_TUNNEL_URL/);
    } finally {
      delete env['HOODY_TUNNEL_URL'];
      delete env['HOODY_TUNNEL_TOKEN'];
    }
  });
});
