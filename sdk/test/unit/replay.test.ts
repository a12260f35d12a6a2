import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Replay, isCounted } from '../../src/mux/replay.js';
import { decodeMessage, FrameType, MAX_MESSAGE, type Frame } from '../../src/wire/frame.js';

const BOUNDS = { buffer: 64 * 1024, data: 32 * 1024 };
const bytes = (text: string): Buffer => Buffer.from(text);
const increment = (n: number): Buffer => {
  const payload = Buffer.alloc(4);
  payload.writeUInt32BE(n);
  return payload;
};

/** One end: what it adds, and what it was handed. */
class End {
  readonly replay = new Replay(BOUNDS);
  readonly got: string[] = [];
  private inbox = Buffer.alloc(0);

  add(text: string): void {
    this.replay.add(FrameType.Data, 2, bytes(text));
  }

  /** All that may leave now, each message behind its length as on a stream of bytes. */
  leave(): Buffer {
    const parts: Buffer[] = [];
    const frame = (message: Buffer): void => {
      parts.push(increment(message.length), Buffer.from(message));
    };
    for (let message = this.replay.take(); message !== undefined; message = this.replay.take()) {
      frame(message);
    }
    if (this.replay.isUntold) {
      const ack = Buffer.alloc(17);
      ack[0] = FrameType.Ack;
      ack[8] = 8;
      this.replay.tell().copy(ack, 9);
      frame(ack);
    }
    return Buffer.concat(parts);
  }

  hear(part: Buffer): void {
    this.inbox = Buffer.concat([this.inbox, part]);
    while (this.inbox.length >= 4 && this.inbox.length >= 4 + this.inbox.readUInt32BE(0)) {
      const message = this.inbox.subarray(4, 4 + this.inbox.readUInt32BE(0));
      this.inbox = this.inbox.subarray(4 + message.length);
      for (const frame of decodeMessage(message)) this.take(frame);
      this.replay.took(message);
    }
  }

  /** What was cut short is not heard, now or later. */
  lose(): void {
    this.inbox = Buffer.alloc(0);
    this.replay.lost();
  }

  private take({ type, payload }: Frame): void {
    if (type === FrameType.Data) this.got.push(payload.toString());
    if (type !== FrameType.Ack) return;
    assert.ok(this.replay.acknowledge(Number(payload.readBigUInt64BE(0))));
  }
}

/** Both ends say what they have taken, and go on. */
function reconnect(a: End, b: End): void {
  const [ofA, ofB] = [a.replay.received, b.replay.received];
  assert.ok(a.replay.resumed(ofB));
  assert.ok(b.replay.resumed(ofA));
}

test('with a cut at every byte both ways nothing is lost, doubled or out of order', () => {
  const talk = (a: End, b: End): void => {
    for (let n = 0; n < 5; n += 1) {
      a.add(`a${n}${'x'.repeat(n * 3)}`);
      b.add(`b${n}`);
    }
  };
  const size = ((): number => {
    const [a, b] = [new End(), new End()];
    talk(a, b);
    return a.leave().length + 40;
  })();
  for (let cutA = 0; cutA <= size; cutA += 1) {
    for (let cutB = 0; cutB <= size; cutB += 3) {
      const [a, b] = [new End(), new End()];
      const saidA: string[] = [];
      const saidB: string[] = [];
      for (let round = 0; round < 3; round += 1) {
        talk(a, b);
        saidA.push(...['a0', 'a1xxx', 'a2xxxxxx', 'a3xxxxxxxxx', 'a4xxxxxxxxxxxx']);
        saidB.push(...['b0', 'b1', 'b2', 'b3', 'b4']);
        const [fromA, fromB] = [a.leave(), b.leave()];
        b.hear(fromA.subarray(0, cutA));
        a.hear(fromB.subarray(0, cutB));
        // What answers it is cut as well.
        const [ackA, ackB] = [a.leave(), b.leave()];
        b.hear(ackA.subarray(0, Math.max(0, cutA - fromA.length)));
        a.hear(ackB.subarray(0, Math.max(0, cutB - fromB.length)));
        a.lose();
        b.lose();
        // Added while there is no connection.
        a.add('down');
        saidA.push('down');
        reconnect(a, b);
      }
      b.hear(a.leave());
      a.hear(b.leave());
      b.hear(a.leave());
      assert.deepEqual(b.got, saidA, `cut at ${cutA}, ${cutB}`);
      assert.deepEqual(a.got, saidB, `cut at ${cutA}, ${cutB}`);
      assert.equal(a.replay.size, 0);
      assert.equal(b.replay.size, 0);
    }
  }
});

test('a connection that is lost while frames leave again begins anew with them', () => {
  const [a, b] = [new End(), new End()];
  for (let n = 0; n < 200; n += 1) a.add(String(n));
  a.leave();
  a.lose();
  for (let times = 0; times < 3; times += 1) {
    b.lose();
    reconnect(a, b);
    assert.ok(a.replay.isResending);
    // One message of several, and the ACK of it is lost.
    const message = a.replay.take()!;
    b.hear(Buffer.concat([increment(message.length), message]));
    a.lose();
  }
  b.lose();
  reconnect(a, b);
  b.hear(a.leave());
  assert.deepEqual(
    b.got,
    Array.from({ length: 200 }, (_, n) => String(n)),
  );
});

test('an ACK or a count of what never left, or is forgotten, cannot be', () => {
  const replay = new Replay(BOUNDS);
  for (const text of ['one', 'two', 'three']) replay.add(FrameType.Data, 2, bytes(text));
  assert.ok(!replay.acknowledge(1), 'nothing has left');
  replay.take();
  replay.add(FrameType.Data, 2, bytes('four'));
  assert.ok(!replay.acknowledge(4));
  assert.ok(!replay.acknowledge(2 ** 53));
  assert.ok(replay.acknowledge(2));
  assert.ok(replay.acknowledge(1), 'an older one says nothing new');
  replay.lost();
  assert.ok(!replay.resumed(1), 'two were acknowledged');
  assert.ok(!replay.resumed(4));
  assert.ok(replay.isDown);
  assert.ok(replay.resumed(2));
  const again = decodeMessage(replay.take()!).map(({ payload }) => payload.toString());
  assert.deepEqual(again, ['three', 'four']);
});

test('what is kept is bounded, and credit gathers into one WINDOW a stream', () => {
  const replay = new Replay(BOUNDS);
  let data = 0;
  while (replay.hasRoom) {
    replay.add(FrameType.Data, 2, Buffer.alloc(1000));
    data += 1;
  }
  assert.equal(data, 33);
  for (let n = 0; n < 500; n += 1) replay.add(FrameType.Window, n % 2 === 0 ? 2 : 0, increment(3));
  const frames = decodeMessage(replay.take()!);
  assert.equal(frames.length, data);
  assert.ok(!replay.hasMore);
  assert.ok(replay.acknowledge(data));
  const windows = decodeMessage(replay.take()!);
  assert.deepEqual(
    windows.map(({ streamId, payload }) => [streamId, payload.readUInt32BE(0)]),
    [
      [2, 750],
      [0, 750],
    ],
  );
  // The same where there is no connection; what does not fit into one is not lost.
  replay.lost();
  for (let n = 0; n < 3; n += 1) replay.add(FrameType.Window, 2, increment(0x8000_0000));
  assert.ok(replay.resumed(data));
  let sum = 0;
  for (let message = replay.take(); message !== undefined; message = replay.take()) {
    for (const frame of decodeMessage(message)) sum += frame.payload.readUInt32BE(0);
  }
  assert.equal(sum, 750 * 2 + 3 * 0x8000_0000);
});

test('messages are within their bounds, whatever was kept', () => {
  const replay = new Replay({ buffer: 8 << 20, data: 8 << 20 });
  for (let n = 0; n < 20; n += 1) replay.add(FrameType.Data, 2, Buffer.alloc(65_536, n));
  for (let n = 0; n < 300; n += 1) replay.add(FrameType.Data, 2, bytes(String(n)));
  replay.take();
  replay.lost();
  assert.ok(replay.resumed(0));
  const sizes: number[] = [];
  for (let message = replay.take(); message !== undefined; message = replay.take()) {
    assert.ok(message.length <= MAX_MESSAGE);
    sizes.push(decodeMessage(message).length);
  }
  assert.equal(
    sizes.reduce((a, b) => a + b),
    320,
  );
  assert.ok(!replay.isResending);
});

test('what was taken is told in time, and frames that nobody understands count as well', () => {
  const replay = new Replay(BOUNDS);
  const message = (count: number, type: number, size = 0): Buffer => {
    const one = Buffer.alloc(9 + size);
    one[0] = type;
    one.writeUInt32BE(size, 5);
    return Buffer.concat(Array.from({ length: count }, () => one));
  };
  assert.ok(!replay.took(message(10, 0x44)));
  assert.equal(replay.received, 10);
  assert.ok(!replay.took(message(60, FrameType.Ping)));
  assert.equal(replay.received, 10);
  assert.ok(!replay.tellsBefore(message(54, FrameType.Data)));
  assert.ok(replay.tellsBefore(message(55, FrameType.Data)));
  assert.ok(replay.tellsBefore(message(4, FrameType.Data, 65_400)));
  assert.ok(replay.took(message(22, FrameType.Data)));
  assert.equal(replay.tell().readBigUInt64BE(0), 32n);
  assert.ok(!replay.isUntold);
  assert.ok(replay.took(message(2, FrameType.Data, 65_536)));
  const counted = Array.from({ length: 256 }, (_, type) => type).filter(isCounted);
  const named = '03 04 05 06 07 08 10 12 13 14 15 16 40 42 44 45';
  assert.equal(counted.map((type) => type.toString(16).padStart(2, '0')).join(' '), named);
});
