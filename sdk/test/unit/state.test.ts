import assert from 'node:assert/strict';
import { chmodSync, existsSync, lstatSync, mkdtempSync, readFileSync } from 'node:fs';
import { rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  AuthError,
  ClosedError,
  OptionsError,
  StateError,
  TunnelSession,
  TunnelTimeoutError,
  type StateStore,
} from '../../src/index.js';
import { FrameType } from '../../src/wire/frame.js';
import { parseObject } from '../../src/wire/control.js';
import { rejects } from '../support/assert.js';
import { FixtureKit } from '../support/kit.js';
import { answering, until } from '../support/local.js';

const PAGE = 'HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi';
const web = { mode: 'expose', containerPort: 3000 } as const;
const saying = (text: string) => ({ ...web, fetch: (): Response => new Response(text) });

/** A place for a file that goes away. */
async function withFile(body: (path: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'state-'));
  try {
    await body(join(folder, 'state.json'));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** The kit forgets its session, and the connection breaks. */
function forget(kit: FixtureKit): void {
  const { session } = kit;
  kit.sessions.delete(session.id);
  session.drop();
}

/** A store whose text is that of a process that died: this one's memory knows nothing of it. */
function stored(text?: string): StateStore & { text: string | undefined } {
  const store = {
    text,
    get: () => Promise.resolve(store.text),
    set: (next: string | undefined): void => void (store.text = next),
  };
  return store;
}

/** Throws at once. */
const thrower = (error: Error) => (): never => {
  throw error;
};

/** What BIND said last. */
const lastBind = (kit: FixtureKit): Record<string, unknown> => {
  const frame = kit.session.frames.filter(({ type }) => type === FrameType.Bind).at(-1);
  return parseObject(frame!.payload, 'BIND');
};

test('a second object of one process takes the session, and nobody who is served notices', async () => {
  const kit = await FixtureKit.start({ publicUrl: 'https://app.example' });
  let answer: (text: string) => void = () => undefined;
  const slow = new Promise<string>((resolve) => (answer = resolve));
  const first = new TunnelSession({ url: kit.url, reconnect: true });
  await first.connect();
  const fetch = async (request: Request): Promise<Response> =>
    new Response(request.url.endsWith('/slow') ? await slow : 'first');
  await first.bind({ ...web, fetch });
  const waiting = kit.session.get('/slow');
  await until(() => first['link']?.mux.size === 1);

  const resumeSessionId = first.id ?? '';
  const second = new TunnelSession({ url: kit.url, resumeSessionId });
  await second.connect();
  assert.equal(second.id, resumeSessionId);
  assert.equal(second.hello?.resumed, true);
  assert.ok((await first.closed) instanceof ClosedError);
  // Target and all, without a word to the kit.
  assert.deepEqual(
    second.bindings.map(({ containerPort, publicUrl }) => [containerPort, publicUrl]),
    [[3000, 'https://app.example']],
  );
  assert.equal(await kit.session.get('/').text(), 'first');
  answer('at last');
  assert.equal(await waiting.text(), 'at last');
  await second.bind(saying('second'));
  assert.equal(await kit.session.get('/').text(), 'second');
  assert.equal(kit.session.count(FrameType.Bind), 1);
  assert.equal(kit.upgrades.length, 1);
  await second.close();
  await until(() => kit.sessions.size === 0);
  await kit.stop();
});

test('a lost session comes back with its bindings and their targets', async () => {
  for (const options of [{}, { maxConnections: 2 }]) {
    const kit = await FixtureKit.start({ publicUrl: 'https://app.example' });
    const local = await answering(PAGE);
    const first = new TunnelSession({ url: kit.url });
    await first.connect();
    await first.bind({ ...web, to: { host: '127.0.0.1', port: local.port } });
    const { id = '' } = first;
    if (options.maxConnections === undefined) {
      kit.session.drop();
      await first.closed;
    }
    // With another number of connections as well.
    const second = new TunnelSession({ url: kit.url, resumeSessionId: id, ...options });
    await second.connect();
    assert.ok((await first.closed) !== undefined);
    assert.equal(second.id, id);
    assert.equal(await kit.session.get('/').text(), 'hi');
    assert.equal(second.bindings[0]?.publicUrl, 'https://app.example');
    await second.close();
    await local.stop();
    await kit.stop();
  }
});

test('an object that dials again does not fight the one that took its session', async () => {
  const kit = await FixtureKit.start();
  const first = new TunnelSession({ url: kit.url, reconnect: true });
  await first.connect();
  await first.bind(saying('first'));
  kit.refuseUpgrade = 503;
  kit.session.drop();
  await until(() => first.state === 'lost');
  kit.refuseUpgrade = undefined;
  const second = new TunnelSession({ url: kit.url, resumeSessionId: first.id ?? '' });
  await second.connect();
  assert.equal(first.state, 'closed');
  assert.equal(await kit.session.get('/').text(), 'first');
  await new Promise((resolve) => setTimeout(resolve, 600));
  assert.equal(second.state, 'online');
  await second.close();
  await kit.stop();
});

test('with state: false a session is known to nobody', async () => {
  const kit = await FixtureKit.start();
  const first = new TunnelSession({ url: kit.url, state: false });
  await first.connect();
  await first.bind(saying('first'));
  kit.session.drop();
  await first.closed;
  const second = new TunnelSession({ url: kit.url, resumeSessionId: first.id ?? '' });
  await second.connect();
  assert.deepEqual(second.bindings, []);
  await second.close();
  await kit.stop();
});

test('a file brings a process that died back to its ports', async () => {
  const kit = await FixtureKit.start({ tellsUrls: true });
  await withFile(async (state) => {
    const first = new TunnelSession({ url: kit.url, token: 'a-secret', state });
    await first.connect();
    await first.bind({ ...web, containerPort: 0, to: { host: '127.0.0.1', port: 1 } });
    assert.equal(statSync(state).mode & 0o777, 0o600);
    const text = readFileSync(state, 'utf8');
    assert.ok(text.includes(first.id ?? '?') && !text.includes('a-secret'));
    kit.session.drop();
    await first.closed;
    assert.ok(existsSync(state));
    const second = new TunnelSession({ url: kit.url, token: 'a-secret', state });
    await second.connect();
    assert.equal(second.id, first.id);
    // Nobody named the session: targets come from the program, as it is now.
    assert.deepEqual(second.bindings, []);
    const again = await second.bind({ ...saying('second'), containerPort: 0 });
    assert.equal(again.containerPort, 20_001);
    assert.equal(kit.session.count(FrameType.Bind), 1);
    assert.equal(await kit.session.get('/').text(), 'second');
    await second.close();
    assert.ok(!existsSync(state));
  });
  await kit.stop();
});

test('a store is asked, told, and emptied by a clean close', async () => {
  const kit = await FixtureKit.start();
  const store = stored();
  const session = new TunnelSession({ url: kit.url, state: store });
  await session.connect();
  const bound = await session.bind(saying('one'));
  await until(() => store.text?.includes('"containerPort":3000') === true);
  await bound.unbind();
  await until(() => store.text?.includes('"bindings":[]') === true);
  await session.close();
  assert.equal(store.text, undefined);
  await kit.stop();
});

test('a store that throws, rejects or hangs is told of in time, and can be asked again', async () => {
  const kit = await FixtureKit.start();
  const never = new Promise<never>(() => undefined);
  let get: StateStore['get'] = () => undefined;
  const store: StateStore = { get: () => get(), set: () => undefined };
  const session = new TunnelSession({ url: kit.url, state: store, connectTimeout: 1000 });
  const cause = new Error('no disk');
  for (const fails of [() => Promise.reject(cause), thrower(cause)]) {
    get = fails;
    const error = await rejects(session.connect(), StateError);
    assert.deepEqual([error.code, error.cause], ['STATE', cause]);
  }
  get = () => never;
  await rejects(session.connect(), TunnelTimeoutError);
  const signal = AbortSignal.timeout(50);
  assert.equal((await rejects(session.connect({ signal }), Error)).name, 'TimeoutError');
  assert.equal(kit.upgrades.length, 0);
  get = () => 12 as never;
  await session.connect();
  await session.close();
  await kit.stop();
});

test('a store that cannot write is told of, keeps nobody from closing, and hears the last', async () => {
  const kit = await FixtureKit.start();
  const never = new Promise<never>(() => undefined);
  for (const set of [
    () => Promise.reject(new Error('full')),
    thrower(new Error('full')),
    () => never,
  ]) {
    const told: (string | undefined)[] = [];
    let fails = true;
    const note = (text: string | undefined): void | Promise<void> => {
      told.push(text);
      return fails ? set() : undefined;
    };
    const state = { get: () => undefined, set: note };
    const session = new TunnelSession({ url: kit.url, state, connectTimeout: 1000 });
    const unsaved: string[] = [];
    session.addEventListener('unsaved', ({ detail }) => unsaved.push(detail.message));
    await session.connect();
    await session.bind(saying('one'));
    await session.bind({ ...saying('two'), containerPort: 3001 });
    await until(() => unsaved.length > 0);
    assert.match(unsaved[0] ?? '', /full|state\.set took more than 1000 ms/);
    fails = false;
    await until(() => told.at(-1)?.includes('3001') === true);
    fails = true;
    await session.close();
    await until(() => told.at(-1) === undefined);
    assert.equal(await session.closed, undefined);
  }
  await kit.stop();
});

test('an attempt that fails leaves no lock behind', async () => {
  const kit = await FixtureKit.start({ token: 'right' });
  await withFile(async (state) => {
    const options = { url: kit.url, state };
    const failing = new TunnelSession({ ...options, token: 'wrong' });
    await rejects(failing.connect(), AuthError);
    assert.ok(!existsSync(`${state}.lock`) && !existsSync(state));
    const session = new TunnelSession({ ...options, token: 'right' });
    await session.connect();
    assert.ok(existsSync(`${state}.lock`));
    // Of one object of two that share it.
    await rejects(failing.connect(), AuthError);
    assert.ok(existsSync(`${state}.lock`));
    assert.equal(session.state, 'online');
    await session.close();
    assert.ok(!existsSync(`${state}.lock`));
  });
  await kit.stop();
});

test('an id is told to no other kit', async () => {
  const [kit, other] = [await FixtureKit.start(), await FixtureKit.start()];
  const store = stored();
  const first = new TunnelSession({ url: kit.url, state: store });
  await first.connect();
  await until(() => store.text !== undefined);
  const second = new TunnelSession({ url: other.url, state: stored(store.text) });
  await second.connect();
  assert.notEqual(second.id, first.id);
  await Promise.all([first.close(), second.close()]);
  await kit.stop();
  await other.stop();
});

test('a kit that does not know the kept session gets a fresh one, which says whom it replaces', async () => {
  const kit = await FixtureKit.start();
  const kept = JSON.stringify({
    kit: `${kit.url}/api/v1/tunnel/connect`,
    sessionId: 'S-gone',
    bindings: [],
  });
  for (const text of [kept, '', '{', '[]', 'null', '{"kit":1}', kept.replace('[]', '[1]')]) {
    const session = new TunnelSession({ url: kit.url, state: stored(text) });
    await session.connect();
    assert.equal(session.hello?.resumed, false);
    await session.bind(saying('fresh'));
    assert.equal(lastBind(kit)['replaces'], text === kept ? 'S-gone' : undefined);
    await session.close();
  }
  await kit.stop();
});

test('a file that others may read, or that is a link, is not used', async () => {
  const kit = await FixtureKit.start();
  await withFile(async (state) => {
    writeFileSync(state, '{}');
    chmodSync(state, 0o644);
    const open = (): Promise<unknown> => new TunnelSession({ url: kit.url, state }).connect();
    await rejects(open(), OptionsError);
    const target = `${state}.target`;
    writeFileSync(target, 'precious', { mode: 0o600 });
    rmSync(state);
    symlinkSync(target, state);
    await rejects(open(), OptionsError);
    assert.equal(readFileSync(target, 'utf8'), 'precious');
  });
  assert.equal(kit.upgrades.length, 0);
  await kit.stop();
});

test('a link that is put in place of the file is replaced, and a folder that is gone is told', async () => {
  const kit = await FixtureKit.start();
  await withFile(async (state) => {
    const session = new TunnelSession({ url: kit.url, state });
    await session.connect();
    const target = `${state}.target`;
    writeFileSync(target, 'precious');
    rmSync(state);
    symlinkSync(target, state);
    await session.bind(saying('one'));
    assert.equal(readFileSync(target, 'utf8'), 'precious');
    assert.ok(lstatSync(state).isFile());
    rmSync(join(state, '..'), { recursive: true });
    const unsaved: string[] = [];
    session.addEventListener('unsaved', ({ detail }) => unsaved.push(detail.message));
    await session.bind({ ...saying('two'), containerPort: 3001 });
    assert.equal(unsaved.length, 1);
    assert.equal(await kit.session.get('/').text(), 'two');
    await session.close();
  }).catch((error: unknown) => {
    if ((error as { code?: unknown }).code !== 'ENOENT') throw error;
  });
  await kit.stop();
});

test('a port that is refused after a loss costs only itself, and is asked for again', async () => {
  const kit = await FixtureKit.start();
  await using session = new TunnelSession({ url: kit.url, reconnect: true });
  await session.connect();
  const lucky = await session.bind(saying('lucky'));
  const unlucky = await session.bind({ ...saying('unlucky'), containerPort: 3001 });
  const { id } = session;
  const refused: unknown[] = [];
  session.addEventListener('bindRefused', ({ detail }) => refused.push(detail));
  kit.refuseBind = (bind) => (bind['containerPort'] === 3001 ? 'ALREADY_BOUND' : undefined);
  forget(kit);
  await until(() => session.id !== id && session.state === 'online');
  assert.equal(lastBind(kit)['replaces'], id);
  assert.deepEqual(session.bindings, [lucky]);
  assert.equal(await kit.session.get('/').text(), 'lucky');
  assert.equal(refused.length, 1);
  await until(() => refused.length === 2);
  kit.refuseBind = undefined;
  await until(() => session.bindings.length === 2);
  assert.equal(unlucky.containerPort, 3001);
  assert.equal(await kit.session.get('/').text(), 'unlucky');
  await session.close();
  await kit.stop();
});

test('a port that is not wanted any more is not asked for again', async () => {
  const kit = await FixtureKit.start();
  await using session = new TunnelSession({ url: kit.url, reconnect: true });
  await session.connect();
  const bound = await session.bind(saying('no more'));
  kit.refuseBind = () => 'ALREADY_BOUND';
  const refused: unknown[] = [];
  session.addEventListener('bindRefused', ({ detail }) => refused.push(detail));
  forget(kit);
  await until(() => refused.length === 1);
  await bound.unbind();
  kit.refuseBind = undefined;
  await new Promise((resolve) => setTimeout(resolve, 1300));
  assert.equal(kit.session.binds.size, 0);
  await session.close();
  await kit.stop();
});

test('who left the port to the kit takes any when the old one is gone', async () => {
  const kit = await FixtureKit.start();
  await using session = new TunnelSession({ url: kit.url, reconnect: true });
  await session.connect();
  const any = await session.bind({ ...saying('any'), containerPort: 0 });
  await session.bind(saying('first'));
  const before = any.containerPort;
  const { id } = session;
  kit.refuseBind = (bind) => (bind['containerPort'] === before ? 'PORT_IN_USE' : undefined);
  forget(kit);
  await until(() => session.id !== id && session.state === 'online');
  assert.equal(session.bindings.length, 2);
  assert.notEqual(any.containerPort, before);
  assert.equal(await kit.session.get('/', { bindId: any.bindId }).text(), 'any');
  await session.close();
  await kit.stop();
});

test('a state that is none is refused', () => {
  for (const state of ['', 'a\0b', 1, true, {}, { get: () => undefined }, null]) {
    const make = (): unknown => new TunnelSession({ url: 'ws://127.0.0.1:1', state } as never);
    assert.throws(make, OptionsError);
  }
});
