import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SendCredit, SessionRecvCredit, StreamRecvCredit } from '../../src/mux/credit.js';
import { holdsLess, Line, type Waiter } from '../../src/mux/line.js';
import { MIB, Rig } from '../support/rig.js';
import { SlowKit } from '../support/slow-kit.js';

const KIB = 1024;

test('credit is spent, and grows back to its size and no further', () => {
  const send = new SendCredit(100);
  send.spend(60);
  assert.deepEqual([send.available, send.outstanding], [40, 60]);
  assert.equal(send.grow(61), false);
  assert.equal(send.grow(60), true);
});

test('session credit goes back in the smaller lumps the less is left', () => {
  const recv = new SessionRecvCredit(16 * MIB, 0);
  recv.passedOn(0);
  assert.ok(recv.received(16 * MIB));
  recv.passedOn(4 * KIB - 1);
  assert.equal(recv.claim(), 0);
  recv.passedOn(1);
  assert.equal(recv.claim(), 4 * KIB);
  recv.passedOn(8 * MIB);
  assert.equal(recv.claim(), 8 * MIB);
  recv.passedOn(2 * MIB - 1);
  assert.equal(recv.claim(), 0, 'a quarter of what is left, or an eighth of the window');
  recv.passedOn(4 * KIB);
  assert.ok(recv.claim() > 0);
});

test('streams share from a half on, and until three quarters are back', () => {
  const recv = new SessionRecvCredit(16 * MIB, 0);
  assert.ok(recv.received(8 * MIB));
  assert.equal(recv.contended, false);
  assert.ok(recv.received(1));
  assert.equal(recv.contended, true);
  recv.passedOn(4 * MIB);
  recv.claimAll();
  assert.equal(recv.contended, true);
  recv.passedOn(1);
  recv.claimAll();
  assert.equal(recv.contended, false);
});

test('a stream withholds less than a quarter, and next to nothing where streams share', () => {
  const alone = new StreamRecvCredit(MIB);
  assert.ok(alone.received(MIB));
  let withheld = 0;
  for (let at = 0; at < MIB / KIB; at += 1) {
    alone.passedOn(KIB);
    withheld += KIB;
    if (alone.claim(0, false) > 0) withheld = 0;
    assert.ok(withheld < MIB / 4);
  }
  const shared = new StreamRecvCredit(MIB);
  assert.ok(shared.received(MIB));
  shared.passedOn(2 * KIB);
  assert.equal(shared.claim(100 * KIB, true), 0, 'as long as there is more to come');
  assert.equal(shared.claim(2 * KIB, true), 2 * KIB);
});

test('credit that went back early does not go back again, and stays within the budget', () => {
  const recv = new SessionRecvCredit(MIB, 300);
  assert.ok(recv.received(1000));
  assert.equal(recv.giveEarly(200), 200);
  assert.equal(recv.giveEarly(200), 100);
  assert.equal(recv.spare, 0);
  recv.earlyLeft(300);
  recv.passedOn(700);
  assert.equal(recv.early, 0);
  assert.equal(recv.claimAll(), 1000);
  assert.equal(recv.available, MIB);
});

test('whoever holds least comes first, of those that hold the same who sent longest ago', () => {
  const line = new Line<Waiter & { rank: number }>(holdsLess);
  let seed = 1;
  const random = (below: number): number => {
    seed = (seed * 48_271) % 2_147_483_647;
    return seed % below;
  };
  const all = Array.from({ length: 300 }, (_, turn) => ({
    id: turn,
    due: 0,
    place: -1,
    rank: random(20),
    turn,
  }));
  for (const waiter of all) line.add(waiter);
  for (let at = 0; at < 2000; at += 1) {
    const waiter = all[random(300)]!;
    if (at % 5 === 0) line.remove(waiter);
    else {
      waiter.rank = random(20);
      line.add(waiter);
    }
  }
  const left = all.filter((waiter) => line.has(waiter));
  left.sort((a, b) => a.rank - b.rank || a.turn - b.turn);
  assert.deepEqual(line.inOrder(), left);
  for (const expected of left) {
    assert.equal(line.first, expected);
    line.remove(expected);
  }
  assert.equal(line.size, 0);
});

test('a thousand who wait are not all looked at for each WINDOW', () => {
  const rig = new Rig({ streamWindow: MIB, sessionWindow: 16 * MIB, maxStreams: 2000 });
  for (let id = 2; id <= 2000; id += 2) rig.open(id).write(Buffer.alloc(MIB));
  rig.flush();
  assert.ok(rig.mux.line.size > 980);
  let looks = 0;
  for (const stream of rig.streams.values()) {
    const pump = stream.pump.bind(stream);
    stream.pump = (most) => {
      looks += 1;
      return pump(most);
    };
  }
  for (let at = 0; at < 1000; at += 1) rig.window(0, 16);
  assert.ok(looks < 1000, `${looks} looks for 1000 WINDOWs`);
});

test('one stream alone fills its window and keeps it filled', () => {
  const rig = new Rig({ streamWindow: MIB, sessionWindow: 16 * MIB });
  const stream = rig.open(2);
  stream.write(Buffer.alloc(2 * MIB));
  assert.equal(stream.outstanding, MIB);
  rig.window(2, 64 * KIB);
  assert.equal(stream.outstanding, MIB);
});

/** What became of small exchanges while others read slowly. */
interface Small {
  /** The longest that one took to be served, or refused, in milliseconds. */
  longest: number;
  served: number;
  refused: number;
  /** The least that a slow reader got, in bytes a millisecond. */
  slowest: number;
}

/** Small exchanges for half a minute, while `count` visitors who came at once read slowly. */
function slowReaders(kit: SlowKit, count: number, rate: number): Small {
  const slow = Array.from({ length: count }, () => kit.open(rate));
  const chunk = Buffer.alloc(64 * KIB);
  const pour = (id: number): void => {
    const stream = kit.rig.streams.get(id)!;
    while (stream.write(chunk));
    stream.sink!.drain = () => pour(id);
  };
  for (const { id } of slow) pour(id);
  const result: Small = { longest: 0, served: 0, refused: 0, slowest: Infinity };
  while (kit.now < 30_000) {
    const asked = kit.now;
    const small = kit.open(1000);
    kit.rig.streams.get(small.id)?.write(Buffer.alloc(100));
    const isAnswered = (): boolean => small.taken === 100 || small.reset !== undefined;
    while (!isAnswered() && kit.now - asked < 10_000) kit.step(10);
    assert.ok(isAnswered(), `nothing for ten seconds, with ${count} slow readers`);
    if (small.reset === undefined) result.served += 1;
    else result.refused += 1;
    result.longest = Math.max(result.longest, kit.now - asked);
    kit.leave(small);
    for (let at = 0; at < 5; at += 1) kit.step(10);
  }
  for (const { taken, reset } of slow) {
    assert.equal(reset, undefined, 'slow is not stalled');
    result.slowest = Math.min(result.slowest, taken / kit.now);
  }
  return result;
}

for (const [count, rate] of [
  [40, 50],
  [300, 10],
  [1000, 4],
] as const) {
  test(`${count} visitors at ${rate} KB/s stop nobody`, () => {
    const { longest, refused, slowest } = slowReaders(new SlowKit(false), count, rate);
    assert.ok(longest <= 20, `a small answer took ${longest} ms`);
    assert.equal(refused, 0);
    assert.ok(slowest >= rate / 2, `one got ${slowest} KB/s`);
  });
}

test('forty slow visitors stop nobody with an older kit, which withholds a quarter', () => {
  const { longest, refused, slowest } = slowReaders(new SlowKit(true), 40, 50);
  assert.ok(longest <= 100, `a small answer took ${longest} ms`);
  assert.equal(refused, 0);
  assert.ok(slowest > 0);
});

for (const [count, rate] of [
  [300, 10],
  [1000, 4],
] as const) {
  test(`${count} who come at once to an older kit leave newcomers an answer in a second`, () => {
    const { longest, served, refused } = slowReaders(new SlowKit(true), count, rate);
    assert.ok(longest <= 1000, `a small answer took ${longest} ms`);
    assert.ok(served > 0 && served + refused === 500, `${served} served, ${refused} refused`);
  });
}

/** Uploads to local servers that take `rate` bytes a millisecond. */
function slowUploads(kit: SlowKit, count: number, rate: number): void {
  const { rig } = kit;
  const queues = new Map<number, number>();
  const uploads = Array.from({ length: count }, () => kit.open(0, 10 * MIB));
  for (const { id } of uploads) {
    queues.set(id, 0);
    rig.streams.get(id)!.sink!.data = (bytes) => queues.set(id, queues.get(id)! + bytes.length);
  }
  let quick = 0;
  while (kit.now < 40_000) {
    kit.step(10);
    for (const [id, held] of queues) {
      const taken = Math.min(held, rate * 10);
      queues.set(id, held - taken);
      rig.streams.get(id)?.consumed(taken);
    }
    const small = kit.open(0, 100);
    const stream = rig.streams.get(small.id)!;
    let got = 0;
    stream.sink!.data = (bytes) => {
      got += bytes.length;
      stream.consumed(bytes.length);
    };
    for (let at = 0; at < 100 && got < 100; at += 1) kit.step(10);
    assert.equal(got, 100, `a small upload waits for a second, with ${count} slow ones`);
    quick += 1;
    kit.leave(small);
  }
  assert.ok(quick > 1000);
  for (const { reset } of uploads) assert.equal(reset, undefined, 'slow is not stalled');
}

test('forty uploads to slow servers stop nobody and are not cut, even from an older kit', () => {
  slowUploads(new SlowKit(true), 40, 4);
});
