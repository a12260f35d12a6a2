/**
 * One object of a process takes the session of another: nothing is lost, whatever the kit says.
 */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import net from 'node:net';
import { test } from 'node:test';
import {
  AuthError,
  ClosedError,
  LostError,
  ResumeExpiredError,
  TunnelSession,
  TunnelTimeoutError,
  type SessionOptions,
} from '../../src/index.js';
import { parseObject } from '../../src/wire/control.js';
import { FrameType } from '../../src/wire/frame.js';
import { rejects } from '../support/assert.js';
import { FixtureKit, type KitConfig } from '../support/kit.js';
import { later, listen, until, wholeWindows, type LocalServer } from '../support/local.js';
import { Wire } from '../support/wire.js';

const sha = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
const web = { mode: 'expose', containerPort: 3000 } as const;

interface Scene {
  kit: FixtureKit;
  first: TunnelSession;
  /** Another object for the session that is wanted. */
  heir: (options?: Partial<SessionOptions>) => TunnelSession;
  /** Answers those who asked for `/slow`. */
  answer: (text: string) => void;
}

/** A kit, and an object that has a session with a port for the web and one for an echo. */
async function scene(
  config: KitConfig,
  options: Partial<SessionOptions>,
  body: (scene: Scene) => Promise<void>,
): Promise<void> {
  const kit = await FixtureKit.start({ replay: true, ...config });
  const echo: LocalServer = await listen((socket: net.Socket) => socket.pipe(socket));
  const all: TunnelSession[] = [];
  const make = (more: Partial<SessionOptions>): TunnelSession => {
    const session = new TunnelSession({ url: kit.url, reconnect: true, ...options, ...more });
    all.push(session);
    return session;
  };
  let answer: (text: string) => void = () => undefined;
  const slow = new Promise<string>((resolve) => (answer = resolve));
  const fetch = async ({ url }: Request): Promise<Response> =>
    new Response(url.endsWith('/slow') ? await slow : 'quick');
  const first = make({});
  await first.connect();
  const to = { host: '127.0.0.1', port: echo.port };
  await first.bind({ mode: 'pull', containerPort: 5432, to });
  await first.bind({ ...web, fetch });
  const heir = (more: Partial<SessionOptions> = {}): TunnelSession =>
    make({ resumeSessionId: first.id ?? '', ...more });
  try {
    await body({ kit, first, heir, answer });
  } finally {
    for (const session of all) await session.close({ graceMs: 0 });
    await echo.stop();
    await kit.stop();
  }
}

/** What the last HELLO said of the session to resume. */
const resumeOf = (kit: FixtureKit): Record<string, unknown> =>
  parseObject(kit.hellos.at(-1)!, 'HELLO')['resume'] as Record<string, unknown>;

const caller = (kit: FixtureKit) => kit.session.caller({ bindId: 1 });
const visit = (kit: FixtureKit, path = '/') => kit.session.get(path, { bindId: 2 });

test('where only options of this side differ, the connection goes on as it is', async () => {
  for (const options of [
    { maxConnections: 4 },
    { reconnect: false, replayBuffer: 0 },
    { requestTimeout: 1234, maxHandlers: 3 },
  ]) {
    // Without `replay` as well: there the streams would end with the connection.
    for (const replay of [true, false]) {
      await scene({ replay }, {}, async ({ kit, first, heir, answer }) => {
        const slow = visit(kit, '/slow');
        await until(() => first['link']?.mux.size === 1);
        const second = heir(options);
        await second.connect();
        assert.ok((await first.closed) instanceof ClosedError);
        assert.equal(await visit(kit).text(), 'quick');
        answer('whole');
        assert.equal(await slow.text(), 'whole');
        assert.equal(kit.upgrades.length, 1);
        assert.equal(second.bindings.length, 2);
        await second.bind({ ...web, fetch: () => new Response('second') });
        assert.equal(await visit(kit).text(), 'second');
        // Its BINDs are not taken for those of the one before.
        await second.bind({ ...web, containerPort: 3001 });
        assert.equal(second.bindings.length, 3);
      });
    }
  }
});

test('who makes fewer connections keeps those that there are, and what runs on them', async () => {
  await scene({}, { maxConnections: 4 }, async ({ kit, first, heir }) => {
    await until(() => first.connections === 4);
    const callers = [0, 1, 2, 3].map((lane) => kit.session.caller({ bindId: 1 }, lane));
    const second = heir({ maxConnections: 1 });
    await second.connect();
    assert.equal(second.connections, 4);
    for (const [n, one] of callers.entries()) one.send(Buffer.from(`a${n}`));
    // Then all of them are lost.
    kit.session.drop();
    await until(() => second.state === 'online' && second.connections === 4);
    for (const one of callers) one.end();
    for (const [n, one] of callers.entries()) assert.equal((await one.body()).toString(), `a${n}`);
    assert.equal(kit.session.count(FrameType.Reset), 0);
    await wholeWindows(kit, second);
  });
});

test('with other proof the kit is asked, and streams go on over the next connection', async () => {
  for (const lanes of [1, 3]) {
    await scene({}, { maxConnections: lanes }, async ({ kit, first, heir, answer }) => {
      await until(() => first.connections === lanes);
      const bytes = randomBytes(6 << 20);
      const callers = Array.from({ length: lanes }, (_, lane) =>
        kit.session.caller({ bindId: 1 }, lane),
      );
      const slow = visit(kit, '/slow');
      const poured = callers.map((one) => one.pour(bytes).then(() => one.end()));
      let last = first;
      for (let n = 0; n < 10; n += 1) {
        const next = heir({ token: () => 'as-good', kitHeaders: { 'x-n': String(n) } });
        await next.connect();
        assert.ok((await last.closed) instanceof ClosedError);
        assert.equal(await visit(kit).text(), 'quick');
        assert.equal(next.bindings.length, 2);
        last = next;
      }
      answer('whole');
      assert.equal(await slow.text(), 'whole');
      await Promise.all(poured);
      for (const one of callers) assert.equal(sha(await one.body()), sha(bytes));
      assert.equal(kit.session.count(FrameType.Reset), 0);
      assert.equal(kit.session.count(FrameType.Bind), 2);
      await until(() => last.connections === lanes);
      await wholeWindows(kit, last);
    });
  }
});

test('whoever is refused, or gives up, leaves the object that has the session as it was', async () => {
  const token = 'right';
  await scene({ token }, { token }, async ({ kit, first, heir, answer }) => {
    const events: string[] = [];
    for (const type of ['lost', 'closed', 'takenOver'] as const)
      first.addEventListener(type, () => events.push(type));
    const slow = visit(kit, '/slow');
    const one = caller(kit);
    await until(() => first['link']?.mux.size === 2);
    await rejects(heir({ token: 'wrong' }).connect(), AuthError);
    await rejects(heir({ token: () => 'wrong' }).connect(), AuthError);
    kit.refuseUpgrade = 503;
    const other = { token: () => token, reconnect: false };
    await rejects(heir(other).connect(), LostError);
    kit.refuseUpgrade = undefined;
    // What comes while the kit is silent is not taken at first, and then it is.
    kit.greetsNobody = true;
    const waiting = heir({ ...other, connectTimeout: 1000 }).connect();
    await until(() => first['link']!['members'].get(0)?.held !== undefined);
    one.send(Buffer.from('while it waits'));
    await rejects(waiting, TunnelTimeoutError);
    const signal = AbortSignal.timeout(200);
    assert.equal((await rejects(heir({ ...other, signal }).connect(), Error)).name, 'TimeoutError');
    kit.greetsNobody = false;
    await until(() => one.received === 14);
    assert.equal(await visit(kit).text(), 'quick');
    answer('whole');
    assert.equal(await slow.text(), 'whole');
    assert.deepEqual([first.state, first.bindings.length, events], ['online', 2, []]);
    // And the next one gets it.
    const second = heir(other);
    await second.connect();
    one.end();
    assert.equal((await one.body()).toString(), 'while it waits');
    assert.equal(kit.session.count(FrameType.Reset), 0);
  });
});

test('a kit that does not know the session leaves it to the object that has it', async () => {
  for (const isOlder of [false, true]) {
    await scene({}, {}, async ({ kit, first, heir }) => {
      kit.isOlder = isOlder;
      const { session } = kit;
      const one = caller(kit);
      kit.sessions.clear();
      const error = await rejects(heir({ token: () => 'other' }).connect(), ResumeExpiredError);
      assert.equal(error.code, 'RESUME_EXPIRED');
      assert.equal(resumeOf(kit)['only'], true);
      assert.equal(kit.sessions.size, isOlder ? 1 : 0);
      if (isOlder) await until(() => kit.session.lanes.size === 0);
      kit.sessions.clear();
      kit.sessions.set(session.id, session);
      one.send(Buffer.from('still here'));
      one.end();
      assert.equal((await one.body()).toString(), 'still here');
      assert.equal(first.state, 'online');
    });
  }
});

test('the answer to HELLO is cut at every byte, and one of the two has the session', async () => {
  const kit = await FixtureKit.start({ replay: true });
  const wire = new Wire(kit.port);
  const url = await wire.start();
  const echo = await listen((socket) => socket.pipe(socket));
  let last = new TunnelSession({ url, reconnect: true });
  await last.connect();
  const to = { host: '127.0.0.1', port: echo.port };
  await last.bind({ mode: 'pull', containerPort: 5432, to });
  const one = caller(kit);
  let sent = 0;
  let [refused, got] = [0, 0];
  for (let at = 1; at <= 480; at += 7) {
    const resumeSessionId = last.id ?? '';
    const next = new TunnelSession({ url, reconnect: true, resumeSessionId, token: () => 'x' });
    next['config'].reconnect = false;
    wire.down = at;
    const error = await next.connect().catch((thrown: unknown) => thrown);
    wire.down = Infinity;
    if (error instanceof TunnelSession) {
      next['config'].reconnect = true;
      last = next;
      got += 1;
    } else refused += 1;
    await until(() => last.state === 'online');
    one.send(Buffer.alloc(10, 'x'));
    sent += 10;
    await until(() => one.received === sent);
  }
  assert.ok(refused > 20 && got > 5, `${refused} and ${got}`);
  assert.equal(kit.session.count(FrameType.Reset), 0);
  assert.equal(kit.session.count(FrameType.Bind), 1);
  one.end();
  await one.body();
  await wholeWindows(kit, last);
  await last.close();
  await echo.stop();
  wire.stop();
  await kit.stop();
});

test('a connection that is lost while another object asks is left to that one', async () => {
  for (const isRight of [true, false]) {
    const options = { token: 'right', reconnect: true };
    await scene({ token: 'right' }, options, async ({ kit, first, heir }) => {
      const one = caller(kit);
      let say: () => void = () => undefined;
      const gate = new Promise<void>((resolve) => (say = resolve));
      const token = (): Promise<string> => gate.then(() => (isRight ? 'right' : 'wrong'));
      const second = heir({ token });
      const connecting = second.connect();
      connecting.catch(() => undefined);
      await until(() => first['bequest'].isAsked);
      kit.session.drop();
      await until(() => first['link'] === undefined);
      await later(400);
      assert.equal(kit.upgrades.length, 1);
      say();
      if (isRight) {
        await connecting;
        assert.equal(first.state, 'closed');
      } else {
        await rejects(connecting, AuthError);
        await until(() => first.state === 'online' && kit.upgrades.length === 3);
      }
      one.send(Buffer.from('on and on'));
      one.end();
      assert.equal((await one.body()).toString(), 'on and on');
      assert.equal(await visit(kit).text(), 'quick');
      assert.equal(kit.session.count(FrameType.Reset), 0);
    });
  }
});

test('of several objects that ask, each gets it from the one before', async () => {
  await scene({}, {}, async ({ kit, heir }) => {
    const one = caller(kit);
    const all = [1, 2, 3, 4].map((n) => heir({ kitHeaders: { 'x-n': String(n) } }));
    await Promise.all(all.map((session) => session.connect()));
    one.send(Buffer.from('once'));
    one.end();
    assert.equal((await one.body()).toString(), 'once');
    const online = all.filter(({ state }) => state === 'online');
    assert.equal(online.length, 1);
    assert.equal(kit.session.count(FrameType.Reset), 0);
  });
});

test('an object that is closed while another one asks ends the session for both', async () => {
  await scene({ replay: false }, {}, async ({ kit, first, heir }) => {
    let say: () => void = () => undefined;
    const gate = new Promise<string>((resolve) => (say = () => resolve('x')));
    const connecting = heir({ token: () => gate }).connect();
    connecting.catch(() => undefined);
    await until(() => first['bequest'].isAsked);
    await first.close({ graceMs: 0 });
    await until(() => kit.sessions.size === 0);
    say();
    await rejects(connecting, ResumeExpiredError);
    assert.equal(await first.closed, undefined);
  });
});

test('a binding that the kit refused is asked for by the next object', async () => {
  await scene({ replay: false }, {}, async ({ kit, first, heir }) => {
    kit.refuseBind = ({ containerPort }) => (containerPort === 3000 ? 'ALREADY_BOUND' : undefined);
    const { session } = kit;
    kit.sessions.delete(session.id);
    session.drop();
    await until(() => first.state === 'online' && first.id !== session.id);
    assert.equal(first.bindings.length, 1);
    const second = heir({ resumeSessionId: first.id ?? '' });
    await second.connect();
    kit.refuseBind = undefined;
    await until(() => second.bindings.length === 2);
    assert.equal(await kit.session.get('/').text(), 'quick');
  });
});

test('while streams wait, another session is asked for only when the kit knows theirs no more', async () => {
  await scene({}, {}, async ({ kit, first }) => {
    const { session } = kit;
    const one = caller(kit);
    await until(() => first['link']?.mux.size === 1);
    session.drop();
    await until(() => kit.upgrades.length === 2 && first.state === 'online');
    assert.equal(resumeOf(kit)['only'], true);
    assert.equal(first.id, session.id);
    kit.sessions.delete(session.id);
    session.drop();
    await until(() => first.state === 'online' && first.id !== session.id);
    assert.equal(kit.upgrades.length, 4);
    assert.equal(resumeOf(kit)['only'], undefined);
    assert.equal(first.bindings.length, 2);
    assert.equal(one.ended, false);
    // Nothing would be lost now.
    kit.session.drop();
    await until(() => kit.upgrades.length === 5 && first.state === 'online');
    assert.equal(resumeOf(kit)['only'], undefined);
  });
});
