import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import net from 'node:net';
import { test } from 'node:test';
import { TunnelSession } from '../../src/index.js';
import { FrameType } from '../../src/wire/frame.js';
import { parseObject } from '../../src/wire/control.js';
import { FixtureKit } from '../support/kit.js';
import { later, until, wholeWindows } from '../support/local.js';
import { Wire } from '../support/wire.js';

const web = { mode: 'expose', containerPort: 3000 } as const;

/** A server that sends back what it gets. */
async function echoing(): Promise<{ server: net.Server; port: number }> {
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => undefined);
    socket.pipe(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { server, port: (server.address() as net.AddressInfo).port };
}

interface Scene {
  kit: FixtureKit;
  wire: Wire;
  session: TunnelSession;
}

async function scene(
  body: (scene: Scene) => Promise<void>,
  port = 1,
  maxConnections = 1,
): Promise<void> {
  const kit = await FixtureKit.start({ replay: true });
  const wire = new Wire(kit.port);
  const session = new TunnelSession({ url: await wire.start(), reconnect: true, maxConnections });
  await session.connect();
  await session.bind({ mode: 'pull', containerPort: 5432, to: { host: '127.0.0.1', port } });
  await until(() => session.connections === maxConnections);
  try {
    await body({ kit, wire, session });
  } finally {
    await session.close({ graceMs: 0 });
    wire.stop();
    await kit.stop();
  }
}

const sha = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

for (const lanes of [1, 4]) {
  test(
    `${lanes}: streams go on through cuts at every byte, in both directions`,
    { timeout: 120_000 },
    async () => {
      const echo = await echoing();
      const run = async ({ kit, wire, session }: Scene): Promise<void> => {
        const { id } = session;
        const callers = Array.from({ length: lanes }, (_, lane) => kit.session.caller({}, lane));
        const said = callers.map(() => [] as Buffer[]);
        for (const way of ['up', 'down'] as const) {
          // Over the answer to the upgrade, and to HELLO or JOIN, too, once a cut falls into the next
          // connection.
          for (let at = 1; at <= 90; at += 1) {
            wire[way] = at;
            const { cuts } = wire;
            callers.forEach((caller, n) => {
              const part = randomBytes(40);
              said[n]!.push(part);
              caller.send(part);
            });
            await until(() => callers.every((it, n) => it.received === said[n]!.length * 40));
            await until(() => session.state === 'online' && session.connections === lanes);
            if (wire.cuts === cuts) wire[way] = Infinity;
          }
        }
        for (const [n, caller] of callers.entries()) {
          caller.end();
          assert.equal(sha(await caller.body()), sha(Buffer.concat(said[n]!)));
        }
        assert.ok(wire.cuts > 100, `${wire.cuts} cuts`);
        assert.equal(session.id, id);
        assert.equal(kit.session.count(FrameType.Bind), 1);
        assert.equal(kit.session.count(FrameType.Reset), 0);
        await wholeWindows(kit, session);
      };
      await scene(run, echo.port, lanes);
      echo.server.close();
    },
  );

  test(
    `${lanes}: bulk both ways goes on through many cuts, and windows are whole after it`,
    { timeout: 120_000 },
    async () => {
      const echo = await echoing();
      const run = async ({ kit, wire, session }: Scene): Promise<void> => {
        const bytes = randomBytes(12 << 20);
        const callers = Array.from({ length: lanes }, (_, lane) => kit.session.caller({}, lane));
        let isOver = false;
        const cut = async (): Promise<void> => {
          for (let n = 0; n < 12 && !isOver; n += 1) {
            wire[n % 2 === 0 ? 'up' : 'down'] = 200_000 + 50_000 * n;
            await until(() => wire.cuts > n || isOver);
          }
        };
        const cutting = cut();
        await Promise.all(callers.map((caller) => caller.pour(bytes).then(() => caller.end())));
        for (const caller of callers) assert.equal(sha(await caller.body()), sha(bytes));
        isOver = true;
        await cutting;
        assert.ok(wire.cuts >= 10, `${wire.cuts} cuts`);
        assert.equal(kit.session.count(FrameType.Reset), 0);
        await until(() => session.state === 'online' && session.connections === lanes);
        await wholeWindows(kit, session);
      };
      await scene(run, echo.port, lanes);
      echo.server.close();
    },
  );
}

test('a request that waits for its answer is answered over the next connection', async () => {
  await scene(async ({ kit, session }) => {
    let answer: (text: string) => void = () => undefined;
    const slow = new Promise<string>((resolve) => (answer = resolve));
    await session.bind({ ...web, fetch: async () => new Response(await slow) });
    const visitor = kit.session.get('/');
    await until(() => session['link']?.mux.size === 1);
    kit.refuseUpgrade = 503;
    kit.session.drop();
    await until(() => session.state === 'lost');
    answer('said while nobody could hear it');
    const bound = session.bind({ mode: 'pull', containerPort: 5433 });
    await later(100);
    kit.refuseUpgrade = undefined;
    assert.equal(await visitor.text(), 'said while nobody could hear it');
    assert.equal((await bound).containerPort, 5433);
    assert.equal(kit.session.count(FrameType.Bind), 3);
    const resume = parseObject(kit.hellos.at(-1)!, 'HELLO')['resume'] as Record<string, unknown>;
    assert.equal(resume['epoch'], 1);
    assert.deepEqual(resume['lanes'], []);
    assert.ok(Number(resume['attempt']) >= 1);
  });
});

test('a kit without memory, or that lies about its count, costs the streams and not the session', async () => {
  for (const lie of [undefined, 1_000_000, 0]) {
    await scene(async ({ kit, session }) => {
      await session.bind({ ...web, fetch: () => new Promise<Response>(() => undefined) });
      kit.session.get('/');
      await until(() => session['link']?.mux.size === 1);
      await later(60);
      const { mux } = session['link']!;
      const before = kit.session;
      if (lie === undefined) kit.forgets = true;
      else kit.helloOk = { received: lie };
      kit.events.once('hello', () => {
        kit.forgets = true;
        kit.helloOk = {};
      });
      before.drop();
      await until(() => mux.size === 0 && session.state === 'online');
      assert.equal(session.id, before.id);
      assert.equal(session.bindings.length, 2);
      assert.notEqual(session['link']?.mux, mux);
      // And goes on once more.
      const again = new Promise((resolve) =>
        session.addEventListener('resumed', resolve, { once: true }),
      );
      kit.session.drop();
      await Promise.race([again, session.closed]);
      assert.deepEqual([session.state, session.id], ['online', before.id]);
    });
  }
});

test('an ACK of what was never sent ends the session', async () => {
  await scene(async ({ kit, session }) => {
    const ack = Buffer.alloc(8);
    ack.writeBigUInt64BE(99n);
    kit.session.send(FrameType.Ack, 0, ack);
    assert.equal((await session.closed)?.code, 'PROTOCOL');
  });
});

test('replay is offered by who dials again alone, and an older kit grants nothing', async () => {
  for (const [options, offered] of [
    [{}, true],
    [{ reconnect: false }, false],
    [{ replayBuffer: 0 }, false],
    [{ maxConnections: 2 }, true],
  ] as const) {
    const kit = await FixtureKit.start();
    const session = new TunnelSession({ url: kit.url, reconnect: true, ...options });
    await session.connect();
    const { capabilities } = parseObject(kit.hellos[0]!, 'HELLO');
    assert.equal(Array.isArray(capabilities) && capabilities.includes('replay'), offered);
    assert.equal(session['link']?.memory, undefined);
    await session.close();
    await kit.stop();
  }
});
