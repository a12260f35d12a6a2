import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import net from 'node:net';
import { test } from 'node:test';
import {
  BindError,
  ClosedError,
  ForwardError,
  OptionsError,
  tunnel,
  TunnelSession,
  type Forward,
  type ForwardFailure,
  type ForwardOptions,
  type TunnelEventMap,
} from '../../src/index.js';
import { Code } from '../../src/wire/code.js';
import { FrameType } from '../../src/wire/frame.js';
import { rejects } from '../support/assert.js';
import { FixtureKit, type KitConfig, type KitStream } from '../support/kit.js';
import { freePort, later, listen, until, wholeWindows } from '../support/local.js';
import { Wire } from '../support/wire.js';

const sha = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

interface Scene {
  kit: FixtureKit;
  session: TunnelSession;
  forward: Forward;
  failures: TunnelEventMap['forwardFailed'][];
  /** Connects, and waits for the stream that is opened for it. */
  caller: () => Promise<{ socket: net.Socket; stream: KitStream; open: object }>;
}

/** A session that forwards, for the length of a test. */
async function forwarding(
  body: (scene: Scene) => Promise<void>,
  options: Partial<ForwardOptions> = {},
  config: KitConfig = {},
  way: (kit: FixtureKit) => Promise<string> = (kit) => Promise.resolve(kit.url),
  maxConnections = 1,
): Promise<void> {
  const kit = await FixtureKit.start({ grants: ['forward', 'tcp-expose'], ...config });
  const session = new TunnelSession({ url: await way(kit), reconnect: true, maxConnections });
  const failures: Scene['failures'] = [];
  session.addEventListener('forwardFailed', ({ detail }) => failures.push(detail));
  const sockets: net.Socket[] = [];
  try {
    await session.connect();
    await until(() => session.connections === maxConnections);
    const forward = await session.forward({ from: 'db:5432', localPort: 0, ...options });
    const caller: Scene['caller'] = async () => {
      const { opened } = kit.session;
      const before = opened.length;
      const socket = net.connect({
        host: forward.localHost,
        port: forward.localPort,
        allowHalfOpen: true,
      });
      sockets.push(socket);
      socket.on('error', () => undefined);
      await until(() => opened.length > before);
      return { socket, ...opened[before]! };
    };
    await body({ kit, session, forward, failures, caller });
  } finally {
    for (const socket of sockets) socket.destroy();
    await session.close({ graceMs: 0 });
    await kit.stop();
  }
}

function reach(stream: KitStream): void {
  stream.session.json(FrameType.StreamConnected, { peer: '10.0.0.5:5432' }, stream.id, stream.lane);
}

/** All that comes, to its end; unlike an iterator this leaves the connection as it is. */
async function read(socket: net.Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  socket.on('data', (chunk) => chunks.push(chunk)).resume();
  await once(socket, 'end');
  return Buffer.concat(chunks);
}

/** Unlike `once` it does not mind how. */
function gone(socket: net.Socket): Promise<unknown> {
  socket.on('error', () => undefined);
  return new Promise((resolve) => socket.once('close', resolve));
}

test('each connection is a stream of an odd id, half-closed from either end', async () => {
  await forwarding(async ({ kit, caller, failures, session }) => {
    for (const first of ['caller', 'target'] as const) {
      const { socket, stream, open } = await caller();
      assert.deepEqual(open, { kind: 'tcp', mode: 'forward', host: 'db', port: 5432 });
      assert.equal(stream.id, first === 'caller' ? 1 : 3);
      // Before it is connected, too.
      socket.write('question');
      await stream.until(() => stream.received === 8);
      reach(stream);
      const said = read(socket);
      if (first === 'caller') {
        socket.end();
        await stream.until(() => stream.ended);
        stream.send(Buffer.from('answer'));
        stream.end();
        assert.equal(String(await said), 'answer');
      } else {
        stream.send(Buffer.from('answer'));
        stream.end();
        assert.equal(String(await said), 'answer');
        socket.end(' and more');
        await stream.until(() => stream.ended);
      }
      const all = first === 'caller' ? 'question' : 'question and more';
      assert.equal(await stream.text(), all);
    }
    await wholeWindows(kit, session);
    assert.equal(kit.session.count(FrameType.Reset), 0);
    assert.deepEqual(failures, []);
  });
});

test('a Unix socket, an address and a port alone are named as the kit knows them', async () => {
  for (const [from, expected] of [
    [5432, { host: 'localhost', port: 5432 }],
    ['[::1]:6379', { host: '::1', port: 6379 }],
    [
      { host: '10.1.2.3', port: 1 },
      { host: '10.1.2.3', port: 1 },
    ],
    ['unix:/run/x.sock', { unix: '/run/x.sock' }],
    [{ unix: '/run/x.sock' }, { unix: '/run/x.sock' }],
  ] as const) {
    const options = { from };
    await forwarding(async ({ caller, forward }) => {
      const { open } = await caller();
      assert.deepEqual(open, { kind: 'tcp', mode: 'forward', ...expected });
      assert.ok(forward.target.length > 0);
    }, options);
  }
});

test('what the kit says no to is told with its reason, and resets the connection', async () => {
  const cases: [number, string, ForwardFailure][] = [
    [Code.RefusedStream, 'db:5432 is not on the list of what may be forwarded', 'denied'],
    [Code.Cancel, 'dns: there is no db', 'dns'],
    [Code.Cancel, 'unreachable: no route to db', 'unreachable'],
    [Code.Cancel, 'refused: nobody listens at db:5432', 'refused'],
    [Code.Cancel, 'timeout: db:5432 did not answer', 'timeout'],
    [Code.Cancel, 'refusedly so', 'lost'],
    [Code.InternalError, 'refused: not by the target', 'lost'],
  ];
  await forwarding(async ({ caller, failures, forward, session }) => {
    for (const [code, why, reason] of cases) {
      const { socket, stream } = await caller();
      const closed = gone(socket);
      stream.abort(code, why);
      await closed;
      const told = failures.shift();
      assert.equal(told?.reason, reason);
      assert.ok(told.message.includes(why), told.message);
      assert.deepEqual([told.target, told.localPort], ['db:5432', forward.localPort]);
      assert.match(told.remoteAddr, /^127\.0\.0\.1:[0-9]+$/);
    }
    // Behind STREAM_CONNECTED it is the end of a connection as any other.
    const { socket, stream } = await caller();
    reach(stream);
    stream.send(Buffer.from('x'));
    await once(socket, 'data');
    const closed = gone(socket);
    stream.abort(Code.Cancel, 'refused: by whoever was there');
    await closed;
    assert.deepEqual(failures, []);
    assert.equal(session.state, 'online');
  });
});

test('a connection that is reset resets its stream, and no other', async () => {
  await forwarding(async ({ caller, failures }) => {
    const other = await caller();
    const { socket, stream } = await caller();
    reach(stream);
    socket.resetAndDestroy();
    await stream.until(() => stream.reset !== undefined);
    assert.equal(stream.reset?.code, Code.Cancel);
    other.socket.end('still here');
    assert.equal(await other.stream.text(), 'still here');
    assert.deepEqual(failures, []);
  });
});

test('STREAM_CONNECTED that cannot be read costs its stream; that of nobody costs nothing', async () => {
  await forwarding(async ({ kit, caller, session }) => {
    const { stream } = await caller();
    kit.session.send(FrameType.StreamConnected, stream.id, Buffer.from('{"peer":1}'));
    await stream.until(() => stream.reset !== undefined);
    assert.equal(stream.reset?.code, Code.ProtocolError);
    // One that is over is ignored, one that never was is answered.
    reach(stream);
    kit.session.json(FrameType.StreamConnected, {}, 99);
    await until(() => kit.session.count(FrameType.Reset) === 2);
    const { socket, stream: next } = await caller();
    socket.end('on');
    assert.equal(await next.text(), 'on');
    assert.equal(session.state, 'online');
  });
});

test('a side that does not read stops the other, and nobody else', async () => {
  const bytes = randomBytes(24 << 20);
  await forwarding(
    async ({ kit, caller, session }) => {
      const [up, down, other] = [await caller(), await caller(), await caller()];
      // Nothing goes back for what arrives: the window bounds it.
      up.socket.end(bytes);
      await up.stream.until(() => up.stream.received === kit.streamWindow);
      // Nobody reads: what the system takes, and a window.
      down.socket.pause();
      let sent = 0;
      const pouring = down.stream.pour(bytes).then(() => (sent = bytes.length));
      other.socket.write('x');
      await other.stream.until(() => other.stream.received === 1);
      await later(50);
      assert.equal(up.stream.received, kit.streamWindow);
      assert.equal(sent, 0);
      let at = 0;
      while (at < bytes.length) {
        await up.stream.until(() => up.stream.received > at);
        up.stream.giveBack(up.stream.received - at);
        at = up.stream.received;
      }
      assert.equal(sha(await up.stream.body()), sha(bytes));
      const got = read(down.socket);
      await pouring;
      down.stream.end();
      assert.equal(sha(await got), sha(bytes));
      assert.equal(session.state, 'online');
    },
    {},
    { manualCredit: true },
  );
});

for (const lanes of [1, 3]) {
  test(`with ${lanes} connections forwarded ones go on through cuts`, async () => {
    let wire: Wire | undefined;
    const way = (kit: FixtureKit): Promise<string> => (wire = new Wire(kit.port)).start();
    await forwarding(
      async ({ kit, session, caller }) => {
        const bytes = randomBytes(4 << 20);
        const callers = [await caller(), await caller(), await caller()];
        const all = callers.map(async ({ socket, stream }) => {
          reach(stream);
          socket.end(bytes);
          const got = read(socket);
          await stream.pour(bytes);
          stream.end();
          assert.equal(sha(await got), sha(bytes));
          assert.equal(sha(await stream.body()), sha(bytes));
        });
        const over = { yes: false };
        const cutting = (async () => {
          for (let n = 0; n < 6 && !over.yes; n += 1) {
            wire![n % 2 === 0 ? 'up' : 'down'] = 150_000 + 70_000 * n;
            await until(() => wire!.cuts > n || over.yes);
          }
        })();
        await Promise.all(all);
        over.yes = true;
        await cutting;
        assert.ok(wire!.cuts >= 3, `${wire!.cuts} cuts`);
        assert.equal(kit.session.count(FrameType.Reset), 0);
        await until(() => session.state === 'online' && session.connections === lanes);
        await wholeWindows(kit, session);
      },
      {},
      { replay: true },
      way,
      lanes,
    );
    wire?.stop();
  });
}

test('a connection that comes while there is no kit waits for it', async () => {
  for (const replay of [true, false]) {
    await forwarding(
      async ({ kit, session, forward, failures }) => {
        await session.bind({ mode: 'pull', containerPort: 5433 });
        kit.refuseUpgrade = 503;
        kit.session.drop();
        await until(() => session.state === 'lost');
        const socket = net.connect(forward.localPort, '127.0.0.1');
        socket.end('early');
        const left = net.connect(forward.localPort, '127.0.0.1');
        await once(left, 'connect');
        left.destroy();
        await later(60);
        kit.refuseUpgrade = undefined;
        const streams = (): KitStream[] => kit.session.opened.map(({ stream }) => stream);
        await until(() => streams().some(({ received }) => received === 5));
        for (const stream of streams()) stream.end();
        await read(socket);
        assert.deepEqual(failures, []);
      },
      {},
      { replay },
    );
  }
});

test('past the streams of a session a connection waits for room', async () => {
  await forwarding(
    async ({ kit, caller, forward, session }) => {
      const callers = [await caller(), await caller()];
      const mux = session['link']!.mux;
      mux.limits.maxStreams = 2;
      const socket = net.connect(forward.localPort, '127.0.0.1');
      socket.on('error', () => undefined);
      socket.end('at last');
      await later(80);
      assert.equal(kit.session.opened.length, 2);
      callers[0]!.stream.abort(Code.Cancel);
      await until(() => kit.session.opened.length === 3);
      assert.equal(await kit.session.opened[2]!.stream.text(), 'at last');
    },
    {},
    { maxStreams: 8 },
  );
});

test('a kit that grants no forward is told of in words, at once', async () => {
  const kit = await FixtureKit.start();
  await using session = await new TunnelSession({ url: kit.url }).connect();
  const refusal = await session.forward({ from: 5432 }).catch((error: unknown) => error);
  assert.ok(refusal instanceof ForwardError);
  assert.deepEqual([refusal.code, refusal.reason], ['FORWARD', 'not-granted']);
  assert.match(refusal.message, /--allow-forward/);
  const called = tunnel.forward({ url: kit.url, from: 5432 });
  await rejects(called, ForwardError);
  await session.close();
  await rejects(session.forward({ from: 5432 }), ClosedError);
  await rejects(new TunnelSession({ url: kit.url }).forward({ from: 1 }), OptionsError);
  await kit.stop();
});

test('a kit that does not forward any more resets who comes, and says why', async () => {
  await forwarding(async ({ kit, session, forward, failures }) => {
    kit.config.grants = [];
    const again = new Promise((resolve) =>
      session.addEventListener('resumed', resolve, { once: true }),
    );
    kit.sessions.clear();
    kit.events.once('hello', () => undefined);
    session['link']!['members'].get(0)!.socket.terminate();
    await again;
    const socket = net.connect(forward.localPort, '127.0.0.1');
    socket.on('error', () => undefined);
    await gone(socket);
    assert.deepEqual(
      failures.map(({ reason }) => reason),
      ['not-granted'],
    );
  });
});

test('the port is that of the target, or the next one; one that was asked for is that one', async () => {
  const port = await freePort();
  const holder = await listen((socket) => socket.destroy(), '127.0.0.1', port);
  await forwarding(
    async ({ session, forward }) => {
      assert.ok(forward.localPort > port && forward.localPort < port + 100);
      const asked = session.forward({ from: 5432, localPort: port });
      const refusal = await asked.catch((error: unknown) => error);
      assert.ok(refusal instanceof ForwardError);
      assert.equal(refusal.reason, 'listen');
      assert.match(refusal.message, new RegExp(`127.0.0.1:${port}`));
      const any = await session.forward({ from: 'unix:/run/x.sock' });
      assert.ok(any.localPort > 0);
      await any.close();
      await rejects(once(net.connect(any.localPort, '127.0.0.1'), 'connect'), Error);
    },
    { from: { host: 'db', port }, localPort: undefined },
  );
  await holder.stop();
});

test('this machine listens on loopback, unless told otherwise and to whom', async () => {
  const strangers = { localHost: '0.0.0.0', allowFrom: ['192.0.2.0/24', '2001:db8::/32'] };
  await forwarding(async ({ kit, forward }) => {
    const socket = net.connect(forward.localPort, '127.0.0.1');
    socket.on('error', () => undefined);
    await gone(socket);
    assert.equal(kit.session.opened.length, 0);
  }, strangers);
  const friends = { localHost: '::', allowFrom: ['127.0.0.0/8', '::1'] };
  await forwarding(async ({ kit, forward }) => {
    for (const host of ['127.0.0.1', '::1']) {
      const before = kit.session.opened.length;
      const socket = net.connect(forward.localPort, host);
      await until(() => kit.session.opened.length > before);
      socket.destroy();
    }
  }, friends);
});

test('what is no forward is refused before anything is opened', async () => {
  const wrong: [object, RegExp][] = [
    [{}, /from is needed/],
    [{ from: 0 }, /not a target/],
    [{ from: { host: 'a b', port: 1 } }, /^from\.host/],
    [{ from: { host: 'db' } }, /^from\.port/],
    [{ from: { host: 'db', port: 1, path: '/' } }, /path is no option of from/],
    [{ from: { unix: 'run/x.sock' } }, /slash/],
    [{ from: { unix: '/x', port: 1 } }, /either/],
    [{ from: 'http://db:80/x' }, /for expose/],
    [{ from: 1, localPort: 65_536 }, /localPort/],
    [{ from: 1, localHost: 'example.com' }, /localHost/],
    [{ from: 1, localHost: '0.0.0.0' }, /allowFrom/],
    [{ from: 1, localHost: '::' }, /allowFrom/],
    [{ from: 1, allowFrom: [] }, /allowFrom/],
    [{ from: 1, allowFrom: '10.0.0.0/33' }, /allowFrom/],
    [{ from: 1, allowFrom: '10.0.0' }, /allowFrom/],
    [{ from: 1, allowFrom: [1] }, /allowFrom/],
    [{ from: 1, to: 2 }, /to is no option/],
  ];
  await forwarding(async ({ session, kit }) => {
    for (const [options, why] of wrong) {
      for (const call of [
        () => session.forward(options as ForwardOptions),
        () => tunnel.forward({ url: kit.url, ...(options as ForwardOptions) }),
      ]) {
        const refusal = await call().catch((error: unknown) => error);
        assert.ok(refusal instanceof OptionsError, JSON.stringify(options));
        assert.match(refusal.message, why);
      }
    }
    assert.equal(kit.sessions.size, 1);
  });
});

test('a forward that is closed lets what runs finish, and then no longer', async () => {
  await forwarding(async ({ caller, forward, session }) => {
    const [ends, stays] = [await caller(), await caller()];
    const closing = forward.close({ graceMs: 400 });
    await rejects(once(net.connect(forward.localPort, '127.0.0.1'), 'connect'), Error);
    ends.socket.end('bye');
    assert.equal(await ends.stream.text(), 'bye');
    ends.stream.end();
    assert.equal(stays.stream.reset, undefined);
    await closing;
    await stays.stream.until(() => stays.stream.reset !== undefined);
    assert.equal(ends.stream.reset, undefined);
    assert.equal(session.state, 'online');
  });
});

test('one-call forwards share a session, and the last one ends it', async () => {
  const kit = await FixtureKit.start({ grants: ['forward'] });
  const options = { url: kit.url, localPort: 0 };
  const one = await tunnel.forward({ ...options, from: { host: 'db', port: 5432 } });
  const two = await tunnel.forward({ ...options, from: 6379 });
  const web = await tunnel.pull({ url: kit.url, containerPort: 5432 });
  assert.equal(one.session, two.session);
  assert.equal(one.session, web.session);
  assert.deepEqual(
    [one.localHost, one.target, two.target],
    ['127.0.0.1', 'db:5432', 'localhost:6379'],
  );
  const told: string[] = [];
  for (const [name, it] of Object.entries({ one, two, web })) {
    it.addEventListener('request', () => told.push(`${name} request`));
    it.addEventListener('forwardFailed', () => told.push(`${name} failed`));
  }
  const socket = net.connect(two.localPort, one.localHost);
  socket.end('hello');
  await until(() => kit.session.opened.length === 1);
  assert.equal(await kit.session.opened[0]!.stream.text(), 'hello');
  kit.session.opened[0]!.stream.end();
  await until(() => told.length === 1);
  net.connect(one.localPort, one.localHost).on('error', () => undefined);
  await until(() => kit.session.opened.length === 2);
  kit.session.opened[1]!.stream.abort(Code.RefusedStream, 'no');
  await until(() => told.length >= 3);
  // A connection that was refused is an exchange that is over, too.
  assert.deepEqual(told.sort(), ['one failed', 'one request', 'two request']);
  await web.close();
  await one.close();
  assert.equal(await one.closed, undefined);
  assert.equal(two.session.state, 'online');
  await two.close();
  assert.equal(two.session.state, 'closed');
  await until(() => kit.sessions.size === 0);
  await kit.stop();
});

test('an exchange is told when it is over, with its target', async () => {
  await forwarding(async ({ caller, session }) => {
    const reports: TunnelEventMap['request'][] = [];
    session.addEventListener('request', ({ detail }) => reports.push(detail));
    const { socket, stream } = await caller();
    socket.end('12345');
    await stream.text();
    stream.send(Buffer.from('123'));
    stream.end();
    await read(socket);
    await until(() => reports.length === 1);
    const { kind, target, bytesIn, bytesOut, error } = reports[0]!;
    assert.deepEqual([kind, target, bytesIn, bytesOut, error], ['tcp', 'db:5432', 3, 5, undefined]);
  });
});

test('raw TCP is exposed where the kit grants it, and refused in words where not', async () => {
  const local = await listen((socket) => socket.pipe(socket));
  const to = { host: '127.0.0.1', port: local.port };
  await forwarding(async ({ kit, session }) => {
    const binding = await session.bind({ kind: 'tcp', mode: 'expose', containerPort: 0, to });
    assert.deepEqual([binding.kind, binding.mode], ['tcp', 'expose']);
    const caller = kit.session.caller({ bindId: binding.bindId, containerPort: 20_001 });
    caller.send(Buffer.from('\x16\x03\x01 no HTTP at all'));
    caller.end();
    assert.equal(await caller.text(), '\x16\x03\x01 no HTTP at all');
    kit.refuseBind = () => 'INVALID_KIND';
    const refusal = await session
      .bind({ kind: 'tcp', mode: 'expose', containerPort: 1, to })
      .catch((error: unknown) => error);
    assert.ok(refusal instanceof BindError);
    assert.match(refusal.message, /newer kit.*--no-tcp-expose/);
    kit.refuseBind = undefined;
    await using app = await tunnel.expose({ url: kit.url, kind: 'tcp', containerPort: 2222, to });
    assert.equal(app.url, 'tcp://127.0.0.1:2222');
    for (const more of [{ hostHeader: 'keep' }, { headers: { a: 'b' } }, { fetch: () => 1 }]) {
      const odd = { kind: 'tcp', mode: 'expose', containerPort: 3, ...more };
      await rejects(session.bind(odd as never), OptionsError);
    }
  });
  await local.stop();
});
