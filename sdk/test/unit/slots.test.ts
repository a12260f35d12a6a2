import assert from 'node:assert/strict';
import net from 'node:net';
import { mock, test } from 'node:test';
import type { Overload, Shortage, TunnelSession } from '../../src/index.js';
import { Slots, type SlotUser, type Ticket } from '../../src/local/slots.js';
import { exposing } from '../support/exposed.js';
import type { KitStream } from '../support/kit.js';
import { answering, listen, until } from '../support/local.js';

/** Asks for a place, and notes what becomes of it. */
class Asker implements SlotUser {
  seats = 0;
  away: Shortage | undefined;
  readonly ticket: Ticket;

  constructor(slots: Slots, origin: string) {
    this.ticket = slots.ask(origin, this);
  }

  seated(): void {
    this.seats += 1;
  }

  turnedAway(why: Shortage): void {
    this.away = why;
  }
}

function many(slots: Slots, origin: string, count: number): Asker[] {
  return Array.from({ length: count }, () => new Asker(slots, origin));
}

function seated(askers: Asker[]): number {
  return askers.filter(({ seats }) => seats > 0).length;
}

test('one address leaves the last eighth of the places to others', () => {
  const slots = new Slots(80, 'connections');
  const greedy = many(slots, 'greedy', 200);
  assert.equal(seated(greedy), 70);
  for (const visitor of ['a', 'b', 'c', 'd', 'e']) assert.equal(seated(many(slots, visitor, 2)), 2);
  assert.equal(slots.total, 80);
  for (const { ticket } of greedy) ticket.leave();
  assert.equal(slots.line, 0);
});

test('a place that is given back goes to the address that holds least', async () => {
  const slots = new Slots(8, 'connections');
  const greedy = many(slots, 'greedy', 20);
  const others = [...many(slots, 'a', 3), ...many(slots, 'b', 1)];
  assert.equal(seated(others), 1, 'the last one is kept for who holds little');
  greedy[0]?.ticket.leave();
  await until(() => seated(others) === 2);
  assert.equal(others[3]?.seats, 1, 'b had none');
  assert.equal(seated(greedy), 7);
  for (const { ticket } of [...greedy, ...others]) ticket.leave();
  for (const { ticket } of greedy) ticket.leave();
  assert.deepEqual([slots.total, slots.line], [0, 0]);
});

test('nobody waits for ever, and nobody at all in a line that is full', async () => {
  const slots = new Slots(1, 'handlers');
  const [first, ...rest] = many(slots, '', 1100);
  assert.equal(first?.seats, 1);
  assert.equal(slots.line, 1024);
  assert.equal(rest.at(-1)?.away, 'handlers');
  await until(() => rest.every(({ away }) => away === 'handlers'));
  assert.equal(slots.line, 0);
  first.ticket.leave();
  assert.equal(new Asker(slots, '').seats, 1);
});

test('where the system ran short, what is taken is all there is, until more is tried', async () => {
  const slots = new Slots(100, 'connections');
  const all = many(slots, 'a', 20);
  all[19]?.ticket.ranShort();
  assert.equal(slots.total, 19);
  const newcomer = new Asker(slots, 'b');
  assert.equal(newcomer.seats, 0);
  await until(() => newcomer.away !== undefined && all[19]?.away !== undefined);
  assert.deepEqual([newcomer.away, all[19]?.away], ['descriptors', 'descriptors']);
  await until(() => {
    const again = new Asker(slots, 'c');
    if (again.seats === 0) again.ticket.leave();
    return again.seats === 1;
  });
});

/** Notes what a session says of an overload. */
function overloads(session: TunnelSession): Overload[] {
  const all: Overload[] = [];
  session.addEventListener('overloaded', ({ detail }) => all.push(detail));
  return all;
}

async function isTurnedAway(stream: KitStream): Promise<void> {
  const { status, headers } = await stream.head();
  assert.equal(status, 503);
  assert.ok(headers.some(([name, value]) => name === 'retry-after' && value === '1'));
  assert.match(await stream.text(), /at the other end of the tunnel\. Try again\./);
}

test('past the connections visitors get a 503, others a place, and the user a word', async () => {
  const local = await listen((socket) => {
    socket.on('data', () => socket.write('HTTP/1.1 200 OK\r\n\r\nand no end'));
  });
  await exposing(
    local.port,
    async ({ kit, session }) => {
      const told = overloads(session);
      const remoteAddr = '203.0.113.9:1';
      const all = Array.from({ length: 20 }, () => kit.session.get('/', { remoteAddr }));
      const heads = await Promise.all(all.map((stream) => stream.head()));
      const served = all.filter((_, at) => heads[at]?.status === 200);
      assert.equal(served.length, 7);
      for (const stream of all) if (!served.includes(stream)) await isTurnedAway(stream);
      await until(() => told.reduce((sum, { refused }) => sum + refused, 0) === 13);
      assert.equal(told[0]?.reason, 'connections');
      assert.match(told[0].message, /raise maxLocalConnections/);
      const other = kit.session.get('/', { remoteAddr: '203.0.113.10:1' });
      assert.equal((await other.head()).status, 200);
      await isTurnedAway(kit.session.get('/', { remoteAddr: '203.0.113.11:1' }));
      const waits = kit.session.get('/', { remoteAddr: '203.0.113.11:1' });
      served[0]?.abort(7);
      assert.equal((await waits.head()).status, 200);
    },
    { session: { maxLocalConnections: 8 } },
  );
  await local.stop();
});

test('callers past the connections are refused, and the kit may say so', async () => {
  const local = await listen(() => undefined);
  await exposing(
    local.port,
    async ({ kit }) => {
      const callers = Array.from({ length: 5 }, () => kit.session.caller());
      await until(() => callers.filter(({ reset }) => reset !== undefined).length === 2);
      for (const { reset } of callers) assert.ok(reset === undefined || reset.code === 6);
    },
    {
      session: { maxLocalConnections: 4 },
      bind: { mode: 'pull', containerPort: 5432 },
    },
  );
  await local.stop();
});

test('past the handlers visitors get a 503, and answers that are slow to leave hold none', async () => {
  const pending: ((response: Response) => void)[] = [];
  const fetch = (request: Request): Promise<Response> | Response => {
    if (request.url.endsWith('/stream')) return new Response(new ReadableStream());
    return new Promise((resolve) => pending.push(resolve));
  };
  await exposing(
    undefined,
    async ({ kit, session }) => {
      const told = overloads(session);
      for (let at = 0; at < 10; at += 1) {
        assert.equal((await kit.session.get('/stream').head()).status, 200);
      }
      const running = Array.from({ length: 3 }, () => kit.session.get('/'));
      await until(() => pending.length === 3);
      await isTurnedAway(kit.session.get('/'));
      assert.equal(told[0]?.reason, 'handlers');
      const waits = kit.session.get('/');
      const leaves = kit.session.get('/');
      leaves.abort(7);
      pending[0]?.(new Response('done'));
      assert.equal(await running[0]?.text(), 'done');
      await until(() => pending.length === 4);
      pending[3]?.(new Response('late'));
      assert.equal(await waits.text(), 'late');
      assert.equal(pending.length, 4, 'who has left is not asked for');
    },
    { bind: { fetch }, session: { maxHandlers: 4 } },
  );
});

test('a machine without descriptors says so, and does not blame the server', async () => {
  const local = await answering('HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok');
  await exposing(local.port, async ({ kit, session }) => {
    const told = overloads(session);
    const short = mock.method(net.Socket.prototype, 'connect', function (this: net.Socket) {
      setImmediate(() => {
        this.destroy(Object.assign(new Error('too many open files'), { code: 'EMFILE' }));
      });
      return this;
    });
    await isTurnedAway(kit.session.get('/'));
    assert.equal(told[0]?.reason, 'descriptors');
    assert.match(told[0].message, /ulimit/);
    short.mock.restore();
    await until(() => session.state === 'online');
    for (;;) {
      const stream = kit.session.get('/');
      if ((await stream.head()).status === 200) break;
    }
  });
  await local.stop();
});
