/**
 * Several lanes, each of which outlives its connections (PROTOCOL §9).
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import net from 'node:net';
import { test } from 'node:test';
import { TunnelSession } from '../../src/index.js';
import { FrameType } from '../../src/wire/frame.js';
import { parseObject } from '../../src/wire/control.js';
import { FixtureKit, type KitStream } from '../support/kit.js';
import { later, until, wholeWindows } from '../support/local.js';

const LIMIT = { timeout: 60_000 };

interface Scene {
  kit: FixtureKit;
  session: TunnelSession;
  callers: KitStream[];
  lost: string[];
}

/** A session with three lanes, and a caller on each who hears back what it says. */
async function scene(body: (scene: Scene) => Promise<void>): Promise<void> {
  const echo = net.createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => undefined);
    socket.pipe(socket);
  });
  echo.listen(0, '127.0.0.1');
  await once(echo, 'listening');
  const { port } = echo.address() as net.AddressInfo;
  const kit = await FixtureKit.start({ replay: true });
  const session = new TunnelSession({ url: kit.url, reconnect: true, maxConnections: 3 });
  const lost: string[] = [];
  session.addEventListener('lost', (event) => lost.push(event.detail.reason));
  await session.connect();
  await session.bind({ mode: 'pull', containerPort: 5432, to: { host: '127.0.0.1', port } });
  await until(() => session.connections === 3);
  const callers = [0, 1, 2].map((lane) => kit.session.caller({}, lane));
  try {
    await hears(callers);
    await body({ kit, session, callers, lost });
  } finally {
    await session.close({ graceMs: 0 });
    await kit.stop();
    echo.close();
  }
}

async function hears(callers: KitStream[]): Promise<void> {
  const before = callers.map(({ received }) => received);
  for (const caller of callers) caller.send(randomBytes(1000));
  await until(() => callers.every(({ received }, n) => received === before[n]! + 1000));
}

test(
  'while the primary is lost the others go on, and what is asked waits for it',
  LIMIT,
  async () => {
    await scene(async ({ kit, session, callers, lost }) => {
      kit.refuseUpgrade = 503;
      kit.session.drop(0);
      await until(() => session.connections === 2);
      await hears(callers.slice(1));
      callers.push(kit.session.caller({}, 2));
      await hears([callers[3]!]);
      callers[0]!.send(randomBytes(500));
      const bound = session.bind({ mode: 'pull', containerPort: 5433 });
      await later(300);
      assert.equal(session.state, 'online');
      assert.equal(callers[0]!.received, 1000);
      kit.refuseUpgrade = undefined;
      assert.equal((await bound).containerPort, 5433);
      await until(() => callers[0]!.received === 1500);
      const said = parseObject(kit.hellos.at(-1)!, 'HELLO')['resume'] as Record<string, unknown>;
      const lanes = said['lanes'] as { index: number; nonce: string }[];
      assert.deepEqual(lanes.map(({ index }) => index).sort(), [1, 2]);
      assert.equal(kit.session.joins.length, 2, 'none of the others was joined again');
      assert.deepEqual(lost, []);
      for (const caller of callers) caller.end();
      await wholeWindows(kit, session);
    });
  },
);

test(
  'the last lane that stands is lost as a whole session is, and all comes back',
  LIMIT,
  async () => {
    await scene(async ({ kit, session, callers, lost }) => {
      kit.refuseUpgrade = 503;
      for (const lane of [0, 2, 1]) {
        kit.session.drop(lane);
        await later(30);
      }
      await until(() => session.state === 'lost');
      assert.equal(lost.length, 1);
      for (const caller of callers) caller.send(randomBytes(500));
      kit.refuseUpgrade = undefined;
      await until(() => callers.every(({ received }) => received === 1500));
      await until(() => session.connections === 3 && session.state === 'online');
      const received = kit.session.joins.map((join) => join['received']);
      assert.deepEqual(received.slice(0, 2), [0, 0]);
      assert.ok(received.slice(2).every((count) => Number(count) > 0));
      for (const caller of callers) caller.end();
      await wholeWindows(kit, session);
    });
  },
);

test(
  'a lane that the kit drops from its answer, or that is lost meanwhile, is joined again',
  LIMIT,
  async () => {
    for (const names of [[], [1, 2]]) {
      await scene(async ({ kit, session, callers }) => {
        kit.helloOk = { lanes: names };
        if (names.length > 0) {
          // It says that it keeps one which is lost while HELLO is on its way.
          kit.events.once('hello', () => kit.session.lanes.get(1)?.terminate());
        }
        kit.session.drop(0);
        await until(() => kit.hellos.length === 2);
        kit.helloOk = {};
        await until(() => session.connections === 3);
        await hears(callers);
        for (const caller of callers) caller.end();
        await wholeWindows(kit, session);
      });
    }
  },
);

test('a lane that begins anew costs its own streams, and no credit', LIMIT, async () => {
  await scene(async ({ kit, session, callers }) => {
    kit.forgets = true;
    // What is said now arrives nowhere: neither DATA nor credit.
    kit.session.lanes.get(1)?.pause();
    const bytes = randomBytes(400_000);
    callers[1]!.send(bytes);
    await later(100);
    kit.session.drop(1);
    const { mux } = session['link']!;
    await until(() => kit.session.joins.length === 3 && session.connections === 3);
    assert.equal(kit.session.joins[2]!['received'] !== undefined, true);
    assert.equal(mux.size, 2);
    await hears([callers[0]!, callers[2]!]);
    const again = kit.session.caller({}, 1);
    await hears([again]);
    for (const caller of [callers[0]!, callers[2]!, again]) caller.end();
    await wholeWindows(kit, session);
    // The second time it goes on, from counts that began anew.
    kit.forgets = false;
    const last = kit.session.caller({}, 1);
    await hears([last]);
    kit.session.drop(1);
    await hears([last]);
  });
});

test('JOIN_OK of what cannot be ends the session', LIMIT, async () => {
  for (const joinOk of [
    { received: 1_000_000 },
    { received: 0 },
    { received: undefined, dataReceived: 10 ** 9, creditReceived: 0 },
    { received: undefined, dataReceived: 0, creditReceived: 10 ** 9 },
  ]) {
    await scene(async ({ kit, session }) => {
      await later(60);
      kit.joinOk = joinOk;
      kit.session.drop(1);
      assert.equal((await session.closed)?.code, 'PROTOCOL', JSON.stringify(joinOk));
      await until(() => kit.session.count(FrameType.Goaway) > 0);
    });
  }
});

test('a session is ended on a lane that stands, where the primary is lost', LIMIT, async () => {
  await scene(async ({ kit, session }) => {
    kit.refuseUpgrade = 503;
    kit.session.drop(0);
    await until(() => session.connections === 2);
    await session.close({ graceMs: 0 });
    assert.equal(kit.session.count(FrameType.Goaway), 1);
  });
});
