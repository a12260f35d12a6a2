/**
 * Slow is not stalled: what the system still holds for a slow local server is looked up.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { test } from 'node:test';
import { connectionOf, readTables, unreadOf } from '../../src/local/unread.js';
import { CUT_BLIND_AFTER_MS, LOOK_EVERY_MS } from '../../src/mux/limits.js';
import { listen, until } from '../support/local.js';
import { FrameType } from '../../src/wire/frame.js';
import { Stalls, type Below } from '../../src/mux/stalls.js';
import type { MuxStream } from '../../src/mux/stream.js';
import { MIB, Rig } from '../support/rig.js';

/** Time in which anything may be cut, with what a look or two may add. */
const LATE_MS = 30_000 + 3 * LOOK_EVERY_MS;

class Bench {
  readonly rig = new Rig({ streamWindow: MIB, sessionWindow: 16 * MIB, maxStreams: 200 });
  readonly below = new Map<string, Below>();
  readonly looks: number[] = [];
  now = 0;
  canTell = true;

  /** Streams use up nearly all credit, and others are short of it. */
  constructor() {
    this.rig.unread = (connections) => {
      this.looks.push(connections.size);
      const found = [...this.below].filter(([name]) => this.canTell && connections.has(name));
      return Promise.resolve(new Map(found));
    };
    for (let id = 2; id <= 100; id += 2) {
      const stream = this.rig.open(id);
      stream.sink!.connection = () => String(id);
      this.below.set(String(id), { unsent: 4 * MIB, unread: 100_000 });
    }
    for (let left = 47.5 * MIB, id = 2; left > 0; id += 2) {
      for (let at = 0; at < 16 && left > 0; at += 1) {
        const length = Math.min(left, MIB / 16);
        this.rig.receive(FrameType.Data, id, Buffer.alloc(length));
        left -= length;
      }
    }
    this.rig.flush();
  }

  async pass(ms: number, each: () => void = () => undefined): Promise<void> {
    for (const end = this.now + ms; this.now < end;) {
      this.now += 500;
      each();
      this.rig.mux.sweep(this.now);
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /** The other end of a connection reads; a reading may miss what it still has. */
  take(name: string, bytes: number): void {
    const { unsent = 0, unread } = this.below.get(name) ?? {};
    this.below.set(
      name,
      unread === undefined
        ? { unsent: unsent - bytes, unread }
        : { unsent, unread: unread - bytes },
    );
  }

  get cut(): string[] {
    return this.rig.told.filter((line) => line.endsWith(' reset 8'));
  }
}

test('who takes a little now and then is never cut, and who takes nothing is', async () => {
  const bench = new Bench();
  for (let id = 2; id < 40; id += 2)
    bench.below.set(String(id), { unsent: MIB, unread: undefined });
  await bench.pass(600_000, () => {
    for (const name of bench.below.keys()) {
      // Each once in 25 s, at another time; one of them never.
      const isDue = (bench.now / 500 + Number(name)) % 50 === 0;
      if (isDue && name !== '40') bench.take(name, 100);
    }
    if (bench.now > LATE_MS) assert.deepEqual(bench.cut, ['40 reset 8']);
  });
});

test('who takes nothing is cut in time, one after the other until nobody is short', async () => {
  const bench = new Bench();
  const whole = { unsent: MIB, unread: 1000 };
  await bench.pass(29_500, () => {
    // That the other end was not told of, or nothing was, is no movement.
    const missed = [whole, { ...whole, unread: undefined }, undefined][(bench.now / 500) % 3];
    if (missed === undefined) bench.below.delete('2');
    else bench.below.set('2', missed);
  });
  bench.below.set('2', whole);
  assert.deepEqual(bench.cut, []);
  await bench.pass(LATE_MS - 29_500);
  assert.ok(bench.cut.length > 0 && bench.cut.length < 10, `${bench.cut.length} were cut`);
  assert.equal(bench.cut[0], '2 reset 8', 'the one that has stalled for longest');
});

test('all are looked up in one reading, and not at each sweep', async () => {
  const bench = new Bench();
  await bench.pass(29_500);
  assert.ok(bench.looks.length <= 29_500 / LOOK_EVERY_MS, `${bench.looks.length} readings`);
  assert.deepEqual(new Set(bench.looks), new Set([48]), 'whoever holds something');
});

test('where nobody tells what lies below, a stall is waited for several times as long', async () => {
  const bench = new Bench();
  bench.canTell = false;
  await bench.pass(CUT_BLIND_AFTER_MS - 500);
  assert.deepEqual(bench.cut, []);
  await bench.pass(3 * LOOK_EVERY_MS);
  assert.ok(bench.cut.length > 0);
});

test('what was seen long ago is seen anew before anybody is cut for it', async () => {
  let unread = 1000;
  const stalls = new Stalls(() => Promise.resolve(new Map([['x', { unsent: 1000, unread }]])));
  const rig = new Rig();
  const stream = rig.open(2);
  stream.sink!.connection = () => 'x';
  rig.receive(FrameType.Data, 2, 'abc');
  const look = async (now: number): Promise<MuxStream | undefined> => {
    stalls.look([stream], now);
    await new Promise((resolve) => setImmediate(resolve));
    return stalls.longest([stream], now);
  };
  for (let now = 0; now < 33_000; now += 3000) assert.equal(await look(now), undefined);
  assert.equal(await look(33_000), stream);
  unread = 900;
  assert.equal(stalls.longest([stream], 100_000), undefined);
  assert.equal(await look(100_000), undefined);
  for (let now = 103_000; now < 130_000; now += 3000) assert.equal(await look(now), undefined);
  assert.equal(await look(130_000), stream);
});

test('nothing is looked up where nobody could be cut', () => {
  const rig = new Rig();
  rig.unread = () => assert.fail('nobody is short');
  const stream = rig.open(2);
  stream.sink!.connection = () => 'x';
  rig.receive(FrameType.Data, 2, Buffer.alloc(1000));
  for (let now = 0; now < 100_000; now += 500) rig.mux.sweep(now);
  assert.equal(stream.over, false);
});

const TABLE =
  '  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n' +
  '   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n' +
  '   1: 0100007F:9C40 0100007F:1F90 01 00001000:00000007 01:00000014 00000000     0\n' +
  '10002: 0100007F:1F90 0100007F:9C40 01 00000000:00000234 00:00000000 00000000     0\n' +
  '   3: 0100007F:9C41 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0\n';
const TABLE6 =
  '  sl  local_address                         remote_address                        st tx_queue rx_queue\n' +
  '   0: 00000000000000000000000001000000:9C42 00000000000000000000000001000000:1F90 01 00000005:00000000 00:00000000\n' +
  '   1: 0000000000000000FFFF00000100007F:1F90 0000000000000000FFFF00000100007F:9C42 01 00000000:00000002 00:00000000\n';

test("the system's tables are read for both ends of a connection", () => {
  const [a, b, c, d] = [40_000, 40_001, 40_002, 40_003].map((port) => connectionOf(port, 8080));
  const found = readTables([TABLE + TABLE, TABLE6], new Set([a!, b!, c!, d!]));
  const expected = [
    [a, { unsent: 0x1000, unread: 0x234 }],
    [c, { unsent: 5, unread: 2 }],
  ];
  assert.deepEqual([...found], expected, 'without those that hold nothing, or are not there');
  assert.deepEqual(readTables(['', 'x\n'], new Set([a!])), new Map());
});

test('on Linux it shows when the other end reads', async () => {
  // Elsewhere nothing is known.
  if (process.platform !== 'linux') return;
  for (const host of ['127.0.0.1', '::1']) {
    let reader: net.Socket | undefined;
    const local = await listen((socket) => (reader = socket.pause()), host);
    const writer = net.connect(local.port, host);
    await once(writer, 'connect');
    const name = connectionOf(writer.localPort!, writer.remotePort!);
    const look = async (): Promise<Below | undefined> =>
      (await unreadOf(new Set([name]))).get(name);
    writer.write(Buffer.alloc(20_000_000));
    let before: Below | undefined;
    // Until the system takes no more.
    for (let last = ''; before === undefined || last !== JSON.stringify(before);) {
      last = JSON.stringify(before);
      await new Promise((resolve) => setTimeout(resolve, 100));
      before = await look();
    }
    await until(() => reader !== undefined);
    reader!.on('data', () => reader!.pause());
    // A runtime may have read ahead.
    for (
      let now: Below | undefined = before;
      JSON.stringify(now) === JSON.stringify(before);
      now = await look()
    ) {
      reader!.resume();
    }
    writer.destroy();
    await local.stop();
  }
});
