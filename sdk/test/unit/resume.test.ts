import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BindError, ClosedError, ResumeExpiredError, TunnelSession } from '../../src/index.js';
import { FrameType } from '../../src/wire/frame.js';
import { rejects } from '../support/assert.js';
import { FixtureKit, type KitConfig } from '../support/kit.js';
import { answering, until } from '../support/local.js';

const HELLO = 'HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi';

/** Leaves a session behind that holds a port, and takes it up again. */
async function leftBehind(
  config: KitConfig,
  mode: 'expose' | 'pull',
  body: (kit: FixtureKit, session: TunnelSession) => Promise<void>,
): Promise<void> {
  const kit = await FixtureKit.start({ publicUrl: 'https://app.example', ...config });
  const first = new TunnelSession({ url: kit.url, state: false });
  await first.connect();
  await first.bind({ mode, containerPort: 3000 });
  kit.session.drop();
  await first.closed;
  await using second = new TunnelSession({ url: kit.url, resumeSessionId: first.id ?? '' });
  await second.connect();
  try {
    await body(kit, second);
  } finally {
    await second.close();
    await kit.stop();
  }
}

/** How many visitors have come, and not left. */
const visitorsOf = (session: TunnelSession): number => session['link']?.mux.size ?? 0;

const second = {
  mode: 'expose',
  containerPort: 3000,
  fetch: () => new Response('second'),
} as const;

test('a binding for which a visitor waits is taken up by id without BIND', async () => {
  const kit = await FixtureKit.start();
  const local = await answering(HELLO);
  const first = new TunnelSession({ url: kit.url, state: false });
  await first.connect();
  await first.bind({ mode: 'expose', containerPort: 3000 });
  const { id = '' } = first;
  kit.session.drop();
  await first.closed;
  await using second = new TunnelSession({ url: kit.url, resumeSessionId: id });
  await second.connect();
  assert.equal(second.hello?.resumed, true);
  // This visitor comes before the binding is taken up, and waits.
  const early = kit.session.request('POST', '/early', {
    body: 'length',
    headers: [['content-length', '2']],
  });
  early.send(Buffer.from('ab'));
  early.end();
  await until(() => visitorsOf(second) === 1);
  const web = await second.bind({
    mode: 'expose',
    containerPort: 3000,
    to: { host: '127.0.0.1', port: local.port },
  });
  assert.equal(web.bindId, 1);
  assert.equal(kit.session.count(FrameType.Bind), 1);
  assert.equal(await early.text(), 'hi');
  await second.close();
  await local.stop();
  await kit.stop();
});

test('a binding that is taken up by id knows its public address', async () => {
  const kit = await FixtureKit.start({ publicUrl: 'https://app.example' });
  const first = new TunnelSession({ url: kit.url, state: false });
  await first.connect();
  const fetch = (): Response => new Response('first');
  await first.bind({ mode: 'expose', containerPort: 3000, fetch });
  kit.session.drop();
  await first.closed;
  const resumeSessionId = first.id ?? '';
  await using second = new TunnelSession({ url: kit.url, resumeSessionId });
  await second.connect();
  const taken: number[] = [];
  second.addEventListener('takenOver', ({ detail }) => taken.push(detail.containerPort));
  const web = await second.bind({
    mode: 'expose',
    containerPort: 3000,
    fetch: () => new Response('second'),
  });
  assert.equal(web.publicUrl, 'https://app.example');
  assert.equal(await kit.session.get('/').text(), 'second');
  assert.equal(kit.session.binds.size, 1);
  assert.deepEqual(taken, []);
  await second.close();
  await kit.stop();
});

test('a kit that tells addresses of resumed bindings is not asked to bind them again', async () => {
  for (const busy of [true, false]) {
    await leftBehind({ tellsUrls: true }, 'expose', async (kit, session) => {
      const early = busy ? kit.session.get('/') : undefined;
      if (busy) await until(() => visitorsOf(session) === 1);
      const web = await session.bind(second);
      assert.equal(web.publicUrl, 'https://app.example');
      assert.equal(web.bindId, 1);
      assert.equal(kit.session.count(FrameType.Bind), 1);
      if (early !== undefined) assert.equal(await early.text(), 'second');
      assert.equal(await kit.session.get('/').text(), 'second');
    });
  }
});

test('a kit that tells that a resumed binding has no address is believed', async () => {
  const kit = await FixtureKit.start({ tellsUrls: true });
  const first = new TunnelSession({ url: kit.url, state: false });
  await first.connect();
  await first.bind(second);
  kit.session.drop();
  await first.closed;
  await using again = new TunnelSession({ url: kit.url, resumeSessionId: first.id ?? '' });
  await again.connect();
  const web = await again.bind(second);
  assert.equal(web.publicUrl, null);
  assert.equal(kit.session.count(FrameType.Bind), 1);
  await again.close();
  await kit.stop();
});

test('an older kit that tells no address costs the waiting visitor nothing', async () => {
  await leftBehind({}, 'expose', async (kit, session) => {
    const early = kit.session.get('/');
    await until(() => visitorsOf(session) === 1);
    const web = await session.bind(second);
    assert.equal(web.publicUrl, null);
    assert.equal(kit.session.count(FrameType.Bind), 1);
    assert.equal(await early.text(), 'second');
  });
});

test('an aborted signal leaves a resumed binding to whoever binds it next', async () => {
  for (const mode of ['expose', 'pull'] as const) {
    for (const tellsUrls of [true, false]) {
      await leftBehind({ tellsUrls }, mode, async (kit, session) => {
        const signal = AbortSignal.abort(new Error('too late'));
        const late = session.bind({ mode, containerPort: 3000, signal });
        assert.equal((await rejects(late, Error)).message, 'too late');
        assert.equal(kit.session.count(FrameType.Bind), 1);
        await session.bind({ mode, containerPort: 3000 });
        assert.equal(kit.session.binds.size, 1);
        const asked = mode === 'expose' && !tellsUrls;
        assert.equal(kit.session.count(FrameType.Bind), asked ? 2 : 1);
      });
    }
  }
});

test('a port that could not be taken over from ourselves can be bound again', async () => {
  await leftBehind({}, 'expose', async (kit, session) => {
    const taken: number[] = [];
    session.addEventListener('takenOver', ({ detail }) => taken.push(detail.bindId));
    // As a kit does, and the scripted one does not by itself: the port is free by takeover only.
    kit.refuseBind = (bind) => (bind['takeover'] === true ? 'INTERNAL' : 'ALREADY_BOUND');
    const refused = await rejects(session.bind(second), BindError);
    assert.equal(refused.kitCode, 'INTERNAL');
    kit.refuseBind = (bind) => (bind['takeover'] === true ? undefined : 'ALREADY_BOUND');
    const inFlight = new AbortController();
    const given = session.bind({ ...second, signal: inFlight.signal });
    inFlight.abort(new Error('enough'));
    assert.equal((await rejects(given, Error)).message, 'enough');
    const web = await session.bind(second);
    assert.equal(web.publicUrl, 'https://app.example');
    await until(() => kit.session.binds.size === 1);
    assert.equal(await kit.session.get('/').text(), 'second');
    assert.deepEqual(taken, []);
  });
});

test('a session that another client takes up is closed, and not taken back', async () => {
  const kit = await FixtureKit.start();
  const options = { url: kit.url, reconnect: true, state: false } as const;
  const fetch = (): Response => new Response('ours');
  const first = new TunnelSession(options);
  await first.connect();
  await first.bind({ mode: 'expose', containerPort: 3000, fetch });
  const lost: boolean[] = [];
  first.addEventListener('lost', ({ detail }) => lost.push(detail.retrying));
  await using second = new TunnelSession({ ...options, resumeSessionId: first.id ?? '' });
  await second.connect();
  const end = await first.closed;
  assert.ok(end instanceof ClosedError);
  assert.match(end.message, /another client/);
  assert.deepEqual(lost, [false]);
  assert.equal(second.state, 'online');
  assert.equal(kit.upgrades.length, 2);
  await second.close();
  await kit.stop();
});

test('an id that the kit does not know is RESUME_EXPIRED, and leaves no session behind', async () => {
  const kit = await FixtureKit.start();
  const session = new TunnelSession({ url: kit.url, resumeSessionId: 'S-unknown' });
  const error = await rejects(session.connect(), ResumeExpiredError);
  assert.equal(error.code, 'RESUME_EXPIRED');
  await until(() => kit.sessions.size === 0);
  await kit.stop();
});
