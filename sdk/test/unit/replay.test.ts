import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Lane } from '../../src/mux/lane.js';
import { ACK_BYTES, LANE_BULK_MAX } from '../../src/mux/limits.js';
import type { Waiter } from '../../src/mux/line.js';
import { Replay } from '../../src/mux/replay.js';
import {
  decodeMessage,
  encodeFrame,
  FrameType,
  isCounted,
  MAX_MESSAGE,
  type Frame,
} from '../../src/wire/frame.js';
import { later } from '../support/local.js';

const BOUNDS = { buffer: 64 * 1024, data: 32 * 1024 };
const bytes = (text: string): Buffer => Buffer.from(text);
const increment = (n: number): Buffer => {
  const payload = Buffer.alloc(4);
  payload.writeUInt32BE(n);
  return payload;
};
const ackOf = (count: number): Buffer => {
  const payload = Buffer.alloc(8);
  payload.writeBigUInt64BE(BigInt(count));
  return payload;
};

/** One end of a lane: what it says, and what it was handed. */
class End {
  readonly replay: Replay;
  readonly lane: Lane<Waiter>;
  readonly got: string[] = [];
  /** What left and was not looked at, each message behind its length as on a stream of bytes. */
  private out: Buffer[] = [];
  private inbox = Buffer.alloc(0);
  backlog = 0;

  constructor(bounds = BOUNDS) {
    this.replay = new Replay(bounds);
    this.lane = new Lane(0, this.carrier(), this.replay);
  }

  add(text: string): void {
    this.lane.push(FrameType.Data, 2, bytes(text));
  }

  /** All that may leave now. */
  leave(): Buffer {
    if (this.replay.isUntold) this.lane.push(FrameType.Ack, 0, this.replay.tell());
    this.lane.flush();
    return Buffer.concat(this.out.splice(0));
  }

  /** The same as frames. */
  leaveFrames(): Frame[] {
    const frames: Frame[] = [];
    for (let rest = this.leave(); rest.length > 0;) {
      const end = 4 + rest.readUInt32BE(0);
      assert.ok(end - 4 <= MAX_MESSAGE);
      frames.push(...decodeMessage(rest.subarray(4, end)));
      rest = rest.subarray(end);
    }
    return frames;
  }

  hear(part: Buffer): void {
    this.inbox = Buffer.concat([this.inbox, part]);
    while (this.inbox.length >= 4 && this.inbox.length >= 4 + this.inbox.readUInt32BE(0)) {
      const message = this.inbox.subarray(4, 4 + this.inbox.readUInt32BE(0));
      this.inbox = this.inbox.subarray(4 + message.length);
      this.lane.receive(message, () => {
        for (const frame of decodeMessage(message)) this.take(frame);
      });
    }
  }

  /** What was cut short is not heard, now or later. */
  lose(): void {
    this.inbox = Buffer.alloc(0);
    this.lane.suspend();
    this.out = [];
  }

  resume(count: number): boolean {
    return this.lane.resume(this.carrier(), count);
  }

  private carrier(): { send: (message: Buffer) => void; readonly backlog: number } {
    const send = (message: Buffer): void => {
      this.out.push(increment(message.length), Buffer.from(message));
    };
    return Object.defineProperty({ send, backlog: 0 }, 'backlog', { get: () => this.backlog });
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
  assert.ok(a.resume(ofB));
  assert.ok(b.resume(ofA));
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
  const [a, b] = [new End({ buffer: 4 << 20, data: 4 << 20 }), new End()];
  const names = Array.from({ length: 200 }, (_, n) => String(n));
  for (const name of names) a.add(name.padEnd(2000, '.'));
  a.leave();
  a.lose();
  for (let times = 0; times < 3; times += 1) {
    b.lose();
    // One message of several has room, and the ACK of it is lost.
    a.backlog = LANE_BULK_MAX;
    reconnect(a, b);
    assert.ok(a.replay.isResending);
    a.backlog = 0;
    const first = a.leave();
    b.hear(first.subarray(0, 4 + first.readUInt32BE(0)));
    a.lose();
  }
  b.lose();
  reconnect(a, b);
  b.hear(a.leave());
  assert.deepEqual(
    b.got.map((text) => text.replace(/\.*$/, '')),
    names,
  );
});

test('while frames leave again nothing that counts goes ahead of them, and a PONG does', () => {
  const a = new End({ buffer: 4 << 20, data: 4 << 20 });
  for (let n = 0; n < 3; n += 1) a.add(String(n));
  a.leave();
  a.lose();
  a.lane.push(FrameType.Ping, 0, ackOf(1));
  a.add('3');
  a.backlog = LANE_BULK_MAX;
  assert.ok(a.resume(1));
  a.add('4');
  a.lane.push(FrameType.Pong, 0, ackOf(2));
  assert.deepEqual(
    a.leaveFrames().map(({ type }) => type),
    [FrameType.Pong],
  );
  a.backlog = 0;
  a.lane.flush();
  a.add('5');
  const rest = a.leaveFrames().map(({ payload }) => payload.toString());
  assert.deepEqual(rest, ['1', '2', '3', '4', '5']);
});

test('an ACK or a count of what never left, or is forgotten, cannot be', () => {
  const end = new End();
  const { replay } = end;
  for (const text of ['one', 'two', 'three']) end.add(text);
  assert.ok(!replay.acknowledge(1), 'nothing has left');
  end.leave();
  end.add('four');
  assert.ok(!replay.acknowledge(4));
  assert.ok(!replay.acknowledge(2 ** 53));
  assert.ok(replay.acknowledge(2));
  assert.ok(replay.acknowledge(1), 'an older one says nothing new');
  end.lose();
  assert.ok(!end.resume(1), 'two were acknowledged');
  assert.ok(!end.resume(4));
  assert.ok(replay.isDown);
  assert.ok(end.resume(2));
  const again = end.leaveFrames().map(({ payload }) => payload.toString());
  assert.deepEqual(again, ['three', 'four']);
});

test('what is kept is bounded, and credit gathers into one WINDOW a stream', () => {
  const end = new End();
  const { replay, lane } = end;
  let data = 0;
  while (lane.writable) {
    lane.push(FrameType.Data, 2, Buffer.alloc(1000));
    data += 1;
  }
  assert.equal(data, 33);
  for (let n = 0; n < 500; n += 1) lane.pushCredit(n % 2 === 0 ? 2 : 0, 3);
  assert.equal(end.leaveFrames().length, data);
  assert.ok(replay.acknowledge(data));
  assert.deepEqual(
    end.leaveFrames().map(({ streamId, payload }) => [streamId, payload.readUInt32BE(0)]),
    [
      [2, 750],
      [0, 750],
    ],
  );
  // The same where there is no connection; what does not fit into one is not lost.
  end.lose();
  for (let n = 0; n < 3; n += 1) lane.pushCredit(2, 0x8000_0000);
  assert.ok(end.resume(data));
  const sum = end.leaveFrames().reduce((all, { payload }) => all + payload.readUInt32BE(0), 0);
  assert.equal(sum, 750 * 2 + 3 * 0x8000_0000);
});

test('credit that has not left when the connection is lost leaves with what gathers', () => {
  const end = new End();
  end.lane.pushCredit(2, 5);
  end.leave();
  end.lane.pushCredit(2, 7);
  end.lose();
  end.lane.pushCredit(2, 9);
  assert.ok(end.resume(0));
  const said = end.leaveFrames().map(({ payload }) => payload.readUInt32BE(0));
  assert.deepEqual(said, [5, 16]);
});

test('messages are within their bounds, whatever was kept', () => {
  const end = new End({ buffer: 8 << 20, data: 8 << 20 });
  for (let n = 0; n < 20; n += 1) end.lane.push(FrameType.Data, 2, Buffer.alloc(65_536, n));
  for (let n = 0; n < 300; n += 1) end.add(String(n));
  end.leave();
  end.lose();
  assert.ok(end.resume(0));
  assert.equal(end.leaveFrames().length, 320);
  assert.ok(!end.replay.isResending);
  assert.ok(end.replay.size > 0);
  assert.ok(end.replay.acknowledge(320));
  assert.equal(end.replay.size, 0);
});

test('what was taken is told in time, and frames that nobody understands count as well', async () => {
  const end = new End();
  const hear = (count: number, type: number, size = 0): void => {
    const one = encodeFrame(type, type === FrameType.Ping ? 0 : 2, Buffer.alloc(size));
    const message = Buffer.concat(Array.from({ length: count }, () => one));
    end.hear(Buffer.concat([increment(message.length), message]));
  };
  const acks = (): number[] => {
    end.lane.flush();
    const frames = end.leaveFrames();
    return frames.map(({ payload }) => Number(payload.readBigUInt64BE(0)));
  };
  hear(10, 0x44);
  assert.equal(end.replay.received, 10);
  hear(60, FrameType.Ping, 8);
  assert.equal(end.replay.received, 10);
  await later(100);
  assert.ok(!end.replay.isUntold);
  assert.deepEqual(acks(), [10]);
  hear(60, FrameType.Data);
  // It is told before what would make them too many.
  hear(5, FrameType.Data);
  assert.deepEqual(acks(), [70, 75]);
  for (let n = 0; n < ACK_BYTES / 65_536; n += 1) hear(1, FrameType.Data, 65_536);
  assert.deepEqual(acks(), [78, 79]);
  const counted = Array.from({ length: 256 }, (_, type) => type).filter(isCounted);
  const named = '03 04 05 06 07 08 10 12 13 14 15 16 40 42 44 45';
  assert.equal(counted.map((type) => type.toString(16).padStart(2, '0')).join(' '), named);
});
