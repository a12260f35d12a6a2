import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import net from 'node:net';
import { test } from 'node:test';
import { TunnelSession } from '../../src/index.js';
import { gaveUp, judge, patience, type Pulse } from '../../src/client/failover.js';
import { FixtureKit } from '../support/kit.js';
import { until, wholeWindows } from '../support/local.js';
import { Wire } from '../support/wire.js';

const heard = (at: number, more: Partial<Pulse> = {}): Pulse => ({
  heardAt: at,
  askedAt: undefined,
  roundTrip: undefined,
  ...more,
});

test('a silent lane that carries streams is asked, and given up while others are heard', () => {
  const lane = { acknowledged: 5 };
  assert.equal(judge(lane, heard(0), true, [heard(499)], 499), 'fine');
  assert.equal(judge(lane, heard(0), true, [heard(500)], 500), 'ask');
  assert.equal(judge(lane, heard(0), false, [heard(500)], 500), 'fine');
  const asked = heard(0, { askedAt: 500 });
  assert.equal(judge(lane, asked, true, [heard(1900)], 1999), 'fine');
  assert.equal(judge(lane, asked, true, [heard(499), heard(1900)], 2000), 'give up');
  // The network is silent as a whole: another connection would not be better.
  assert.equal(judge(lane, asked, true, [heard(499)], 9000), 'fine');
  assert.equal(judge(lane, asked, true, [], 9000), 'fine');
});

test('while an answer is awaited, lanes that are as silent are asked too', () => {
  const idle = { acknowledged: 0 };
  const asked = heard(0, { askedAt: 500 });
  assert.equal(judge(idle, heard(100), false, [asked], 800), 'fine');
  assert.equal(judge(idle, heard(100), false, [asked], 900), 'ask');
  assert.equal(judge(idle, heard(600), false, [asked], 900), 'fine');
});

test('each give-up without anything acknowledged doubles the patience, up to ten seconds', () => {
  const lane = { acknowledged: 5 };
  const seen: number[] = [];
  for (let times = 0; times < 5; times += 1) {
    seen.push(patience(lane, heard(0)));
    gaveUp(lane);
  }
  assert.deepEqual(seen, [1500, 3000, 6000, 10_000, 10_000]);
  lane.acknowledged = 6;
  assert.equal(patience(lane, heard(0)), 1500);
  gaveUp(lane);
  assert.equal(patience(lane, heard(0)), 3000);
  // Four round trips where those take longer, also past the bound.
  assert.equal(patience(lane, heard(0, { roundTrip: 500 })), 4000);
  assert.equal(patience(lane, heard(0, { roundTrip: 3000 })), 12_000);
});

for (const silent of [0, 1]) {
  test(
    `lane ${silent} falls silent: its streams go on by another connection, and nobody is told`,
    { timeout: 60_000 },
    async () => {
      const echo = net.createServer((socket) => socket.pipe(socket));
      echo.listen(0, '127.0.0.1');
      await once(echo, 'listening');
      const { port } = echo.address() as net.AddressInfo;
      const kit = await FixtureKit.start({ replay: true });
      const wire = new Wire(kit.port);
      const url = await wire.start();
      const session = new TunnelSession({ url, reconnect: true, maxConnections: 2 });
      const lost: string[] = [];
      session.addEventListener('lost', (event) => lost.push(event.detail.reason));
      await session.connect();
      await session.bind({ mode: 'pull', containerPort: 5432, to: { host: '127.0.0.1', port } });
      await until(() => session.connections === 2);
      const callers = [kit.session.caller({}, 0), kit.session.caller({}, 1)];
      for (const caller of callers) caller.send(randomBytes(100));
      await until(() => callers.every(({ received }) => received === 100));
      const frozenAt = performance.now();
      wire.freeze(silent);
      const others = setInterval(() => callers[1 - silent]!.send(randomBytes(10)), 50);
      callers[silent]!.send(randomBytes(900));
      await until(() => callers[silent]!.received === 1000);
      clearInterval(others);
      // The silence that ends any connection is half as long again, and more.
      const took = performance.now() - frozenAt;
      assert.ok(took < 4500, `${took.toFixed(0)} ms`);
      assert.deepEqual(lost, []);
      assert.equal(session.connections, 2);
      for (const caller of callers) caller.end();
      await wholeWindows(kit, session);
      await session.close({ graceMs: 0 });
      wire.stop();
      await kit.stop();
      echo.close();
    },
  );
}
