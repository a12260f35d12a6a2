import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EARLY_BUDGET, LANE_BULK_MAX } from '../../src/mux/limits.js';
import { Violation } from '../../src/mux/violation.js';
import { SendCredit } from '../../src/mux/credit.js';
import { Code } from '../../src/wire/code.js';
import { FrameType } from '../../src/wire/frame.js';
import { throws } from '../support/assert.js';
import { MIB, Rig } from '../support/rig.js';

const WINDOW = 262_144;

test('credit is spent in whole bytes only', () => {
  const credit = new SendCredit(WINDOW);
  for (const bytes of [NaN, undefined, 0.5]) throws(() => credit.spend(bytes as number), TypeError);
  assert.equal(credit.available, WINDOW);
});

test('bytes that were given away before they left reset their stream', () => {
  const rig = new Rig();
  const stream = rig.open(2);
  const bytes = new Uint8Array(2 * WINDOW);
  assert.equal(stream.write(bytes), false);
  structuredClone(bytes.buffer, { transfer: [bytes.buffer] });
  rig.window(2, WINDOW);
  assert.equal(stream.over, true);
  assert.deepEqual(rig.told, ['2 reset 2']);
});

test('a sender sends what both windows allow, and goes on with either', () => {
  const rig = new Rig({ sessionWindow: 280_000 });
  const a = rig.open(2);
  const b = rig.open(4);
  assert.equal(a.write(Buffer.alloc(300_000)), false);
  assert.equal(b.write(Buffer.alloc(100_000)), false);
  const sent = (id: number): number =>
    rig
      .flush()
      .filter((line) => line.startsWith(`${id} data`))
      .reduce((sum, line) => sum + Number(line.split(' ')[2]), 0);
  // The first one leaves something for the second.
  assert.ok(sent(2) < WINDOW);
  const { available } = rig.mux.sendCredit;
  assert.ok(available > 0 && available < 100_000);
  rig.window(0, 280_000 - available);
  assert.deepEqual(rig.told, ['4 drain']);
  assert.equal(a.write(Buffer.alloc(1)), false);
  rig.window(2, 100_000);
  rig.window(0, 280_000 - rig.mux.sendCredit.available);
  assert.equal(rig.told.at(-1), '2 drain');
});

test('blocked streams take turns', () => {
  const rig = new Rig();
  rig.backlog = 1 * MIB;
  const a = rig.open(2);
  const b = rig.open(4);
  assert.equal(a.write(Buffer.alloc(130_000)), false);
  assert.equal(b.write(Buffer.alloc(130_000)), false);
  assert.deepEqual(rig.flush(), []);
  rig.backlog = 0;
  rig.mux.laneDrained(rig.lane);
  const order = rig.flush().map((line) => line[0]);
  assert.deepEqual(order, ['2', '4', '2', '4']);
});

test('who waits for room in a lane is not passed by those who have not waited', () => {
  const rig = new Rig();
  rig.backlog = 1 * MIB;
  assert.equal(rig.open(2).write(Buffer.alloc(1000)), false);
  // Some has left, and not yet so much that the lane is called drained.
  rig.backlog = LANE_BULK_MAX - 1;
  assert.equal(rig.open(4).write(Buffer.alloc(1000)), false);
  const place = Buffer.alloc(2000);
  assert.equal(rig.open(6).writeInPlace(place, 9, 1009), false);
  assert.deepEqual(rig.flush(), []);
  rig.mux.laneDrained(rig.lane);
  assert.deepEqual(rig.flush(), ['2 data 1000', '4 data 1000', '6 data 1000']);
});

/** Streams that always have more to send, on a lane that always has room for one piece only. */
function crowd(count: number): { rig: Rig; drain: () => string[] } {
  const rig = new Rig({ streamWindow: 16 * MIB, sessionWindow: 64 * MIB, maxStreams: 200 });
  rig.backlog = 1 * MIB;
  for (let id = 2; id <= 2 * count; id += 2) rig.open(id).write(Buffer.alloc(4 * MIB));
  const push = rig.lane.push.bind(rig.lane);
  rig.lane.push = (type, id, payload) => {
    push(type, id, payload);
    rig.backlog = 1 * MIB;
  };
  const drain = (): string[] => {
    rig.backlog = LANE_BULK_MAX - 1;
    rig.mux.laneDrained(rig.lane);
    return rig.flush();
  };
  return { rig, drain };
}

test('who sends little finds room before a round of all who send much', () => {
  const { rig, drain } = crowd(100);
  const echo = rig.open(202);
  for (let at = 0; at < 300; at += 1) {
    for (let others = at % 7; others > 0; others -= 1) drain();
    echo.write(Buffer.alloc(100));
    assert.deepEqual(drain().at(0), '202 data 100');
  }
});

test('streams on a full lane have the same part of it, in whatever pieces, and whenever they came', () => {
  const { rig, drain } = crowd(10);
  const sent = new Map<string, number>();
  const many = (times: number): void => {
    for (let at = 0; at < times; at += 1) {
      for (const line of drain()) {
        const [id = '', , bytes] = line.split(' ');
        sent.set(id, (sent.get(id) ?? 0) + Number(bytes));
      }
    }
  };
  many(100);
  sent.clear();
  const small = rig.open(100);
  const more = (): void => {
    for (let at = 0; at < 8; at += 1) small.write(Buffer.alloc(1000));
  };
  small.sink!.drain = more;
  more();
  rig.open(102).write(Buffer.alloc(4 * MIB));
  many(500);
  const parts = [...sent.values()];
  assert.equal(parts.length, 12);
  const [least, most] = [Math.min(...parts), Math.max(...parts)];
  assert.ok(most - least <= 2 * 65_536, `${least} to ${most} bytes`);
});

test('bytes that their share covers in part leave in place, and only the rest is copied', () => {
  const rig = new Rig({ streamWindow: MIB, sessionWindow: MIB });
  rig.open(2).write(Buffer.alloc(MIB));
  rig.flush();
  const stream = rig.open(4);
  const buffer = Buffer.alloc(60_009, 'x');
  assert.equal(stream.writeInPlace(buffer, 9, 60_009), false);
  buffer.fill('y');
  const [first] = rig.flush();
  assert.match(first ?? '', /^4 data [0-9]+$/);
  rig.window(0, MIB - rig.mux.sendCredit.available);
  rig.lane.flush();
  const rest = rig.sent.filter(({ streamId }) => streamId === 4);
  const bytes = Buffer.concat(rest.map(({ payload }) => payload));
  assert.equal(bytes.length + Number(first?.split(' ')[2]), 60_000);
  assert.ok(bytes.every((octet) => octet === 0x78));
});

/** A session whose local sides take nothing, and hold all that they may but for `spare` bytes. */
function holdingAll(spare = 0): Rig {
  const rig = new Rig({ streamWindow: MIB, sessionWindow: MIB, maxStreams: 100 });
  let left = MIB + EARLY_BUDGET - spare;
  for (let id = 2; left > 0; id += 2) {
    rig.open(id);
    for (let at = 0; at < 16 && left > 0; at += 1) {
      const length = Math.min(left, 65_536);
      rig.receive(FrameType.Data, id, Buffer.alloc(length));
      left -= length;
    }
  }
  return rig;
}

test('who has stalled is cut only while others are short', () => {
  const rig = holdingAll();
  const resets = (): string[] => rig.told.filter((line) => line.includes('reset'));
  for (let now = 0; now <= 40_000; now += 500) rig.mux.sweep(now);
  assert.deepEqual(resets(), [], 'all of them hold something');
  rig.receive(FrameType.StreamOpen, 1000, '{"kind":"tcp"}');
  assert.deepEqual(
    rig.flush().filter((line) => line.startsWith('1000')),
    ['1000 reset 6'],
  );
  rig.mux.sweep(40_500);
  assert.deepEqual(resets(), ['2 reset 8'], 'the one that has stalled for longest');
});

test('much that is missing is made good as soon as the budget has it again', () => {
  const rig = holdingAll(1000);
  for (const stream of rig.streams.values()) {
    // Its credit went back before: nothing of it goes back now.
    if (stream.early > MIB / 2) stream.consumed(stream.early);
  }
  rig.open(1000);
  rig.flush();
  rig.receive(FrameType.Data, 1000, Buffer.alloc(10));
  const given = rig.flush().filter((line) => line.startsWith('0 window'));
  const bytes = given.reduce((sum, line) => sum + Number(line.split(' ')[2]), 0);
  assert.ok(bytes > MIB / 8, `${bytes} for what others hold, and not this one`);
});

test('an end waits for what is queued, and a reset does not', () => {
  const rig = new Rig();
  rig.backlog = 1 * MIB;
  const a = rig.open(2);
  a.write(Buffer.alloc(10));
  a.end();
  const b = rig.open(4);
  b.write(Buffer.alloc(10));
  b.reset(Code.Cancel, 'enough');
  assert.deepEqual(rig.flush(), ['4 reset 7']);
  rig.backlog = 0;
  rig.mux.laneDrained(rig.lane);
  assert.deepEqual(rig.flush(), ['2 data 10', '2 type 19']);
  assert.deepEqual(rig.told, []);
});

test('bulk lies where it was read and is one message', () => {
  const rig = new Rig();
  const stream = rig.open(2);
  const buffer = Buffer.alloc(9 + 65_536, 'x');
  stream.writeInPlace(buffer, 9, buffer.length);
  assert.deepEqual(rig.messages, [9 + 65_536]);
  assert.equal(rig.sent[0]?.payload.length, 65_536);
});

test('credit goes back when bytes were passed on, for the stream and for the session', () => {
  const rig = new Rig({ sessionWindow: 262_144 });
  const stream = rig.open(2);
  for (let at = 0; at < 2; at += 1) rig.receive(FrameType.Data, 2, Buffer.alloc(65_536));
  assert.deepEqual(rig.flush(), []);
  stream.consumed(65_536);
  assert.deepEqual(rig.flush(), ['0 window 65536', '2 window 65536']);
});

test('a stream that is over lets go of its local side', () => {
  const rig = new Rig();
  const [ended, reset, dropped] = [2, 4, 6].map((id) => rig.open(id));
  rig.receive(FrameType.Eof, 2);
  assert.ok(ended?.sink);
  ended.end();
  rig.receive(FrameType.Reset, 4, Buffer.from([0, 7]));
  rig.mux.dropLane(rig.lane, 'gone');
  for (const stream of [ended, reset, dropped]) assert.equal(stream?.sink, undefined);
  assert.deepEqual(rig.told, ['2 end', '4 reset 7', '6 reset 7']);
});

test('a reset stream gives back the session credit of what it held, once', () => {
  const rig = new Rig({ sessionWindow: 524_288 });
  const stream = rig.open(2);
  for (let at = 0; at < 3; at += 1) rig.receive(FrameType.Data, 2, Buffer.alloc(65_536));
  rig.receive(FrameType.Reset, 2, Buffer.from([0, 7]));
  stream.consumed(65_536);
  assert.deepEqual(rig.flush(), ['0 window 196608']);
  // Late DATA still gives its session credit back, and is otherwise ignored.
  rig.receive(FrameType.Data, 2, Buffer.alloc(65_536));
  assert.deepEqual(rig.flush(), ['0 window 65536']);
  assert.equal(rig.mux.size, 0);
});

test('what a finished stream still holds does not narrow the session', () => {
  const rig = new Rig({ sessionWindow: 262_144 });
  const stream = rig.open(2);
  rig.receive(FrameType.Data, 2, Buffer.alloc(65_536));
  rig.receive(FrameType.Eof, 2);
  stream.end();
  assert.deepEqual(rig.flush(), ['2 type 19', '0 window 65536']);
  stream.consumed(65_536);
  assert.deepEqual(rig.flush(), []);
});

test('a bad frame of a stream costs the stream, and only it', () => {
  const rig = new Rig();
  rig.open(2);
  rig.open(4);
  for (let at = 0; at < 5; at += 1) rig.receive(FrameType.Data, 2, Buffer.alloc(65_536));
  assert.deepEqual(rig.flush().slice(0, 2), ['2 reset 3']);
  rig.window(4, 1);
  assert.deepEqual(rig.flush(), ['4 reset 3']);
  rig.receive(FrameType.Data, 8, 'never opened');
  rig.receive(FrameType.Data, 3, 'not ours');
  assert.deepEqual(rig.flush(), ['8 reset 1', '3 reset 1']);
  rig.receive(FrameType.StreamOpen, 6, '{"kind":"what"}');
  rig.receive(FrameType.StreamOpen, 7, '{"kind":"tcp"}');
  assert.deepEqual(rig.flush(), ['6 reset 1', '7 reset 1']);
  rig.open(8);
  rig.receive(FrameType.Eof, 8);
  rig.receive(FrameType.Data, 8, 'after the end');
  rig.open(10);
  rig.receive(FrameType.Eof, 10, 'not empty');
  rig.open(12);
  rig.window(12, 0);
  assert.deepEqual(rig.flush(), ['8 reset 4', '10 reset 5', '12 reset 1']);
  assert.equal(rig.mux.size, 0);
});

test('a RESET is never answered with one', () => {
  const rig = new Rig();
  rig.open(2);
  rig.receive(FrameType.Reset, 2, Buffer.from([0]));
  rig.receive(FrameType.Reset, 2, Buffer.from([0, 1]));
  rig.receive(FrameType.Reset, 100, Buffer.from([0, 1]));
  assert.deepEqual(rig.flush(), []);
  assert.deepEqual(rig.told, ['2 reset 5']);
});

test('more streams than granted are refused', () => {
  const rig = new Rig({ maxStreams: 2 });
  rig.open(2);
  rig.open(4);
  rig.open(6);
  assert.deepEqual(rig.flush(), ['6 reset 6']);
});

test('what breaks the session is a violation with its code', () => {
  const rig = new Rig({ sessionWindow: 262_144, maxStreams: 200 });
  const code = (body: () => void): number => throws(body, Violation).code;
  assert.equal(
    code(() => rig.window(0, 1)),
    Code.FlowControlError,
  );
  assert.equal(
    code(() => rig.window(0, 0)),
    Code.ProtocolError,
  );
  assert.equal(
    code(() => rig.mux.receive(rig.lane, Buffer.alloc(0))),
    Code.ProtocolError,
  );
  rig.open(2);
  assert.equal(
    code(() => rig.open(2)),
    Code.ProtocolError,
  );
  // So much goes back early, and no more.
  const most = 262_144 + EARLY_BUDGET;
  const fill = (): void => {
    for (let id = 4, sent = 0; sent <= most; id += 2) {
      rig.open(id);
      for (let at = 0; at < 4; at += 1, sent += 65_536) {
        rig.receive(FrameType.Data, id, Buffer.alloc(65_536));
      }
    }
  };
  assert.equal(code(fill), Code.FlowControlError);
});

test('streams of a dropped lane end, and those of the others go on', () => {
  const rig = new Rig();
  const second = rig.addLane(1);
  // Ids grow over all lanes together, and so may arrive out of order.
  rig.open(4, second);
  rig.open(2);
  rig.mux.dropLane(second, 'gone');
  assert.deepEqual(rig.told, ['4 reset 7']);
  assert.equal(rig.mux.size, 1);
  rig.mux.abandon('over');
  assert.deepEqual(rig.told, ['4 reset 7', '2 reset 7']);
});

test('a frame of a stream is taken from any lane', () => {
  const rig = new Rig();
  const second = rig.addLane(1);
  rig.open(2, second);
  rig.receive(FrameType.Data, 2, 'here');
  assert.deepEqual(rig.told, ['2 data 4']);
});

test('credit that went down with a lane comes back when the lane is joined again', () => {
  const rig = new Rig({ sessionWindow: WINDOW });
  const second = rig.addLane(1);
  rig.open(2, second).write(Buffer.alloc(100_000));
  rig.receive(FrameType.Data, 2, 'abc', second);
  assert.equal(rig.mux.sendCredit.available, WINDOW - 100_000);
  rig.mux.dropLane(second, 'gone');
  assert.equal(rig.mux.joinsWith(1).dataReceived, 3);
  // Of the bytes that were sent the kit says that it got 60,000; for those a WINDOW will come.
  rig.mux.settleLane(1, 60_000);
  assert.equal(rig.mux.sendCredit.available, WINDOW - 60_000);
  const cannotBe = (received: number) => {
    throws(() => rig.mux.settleLane(1, received), Violation);
  };
  cannotBe(60_001);
  rig.mux.settleLane(1, undefined);
});

test('a session whose kit does not tell what it received knows when it has run dry', () => {
  const rig = new Rig({ sessionWindow: WINDOW, maxStreams: 100 });
  rig.mux.sweep(1000);
  const second = rig.addLane(1);
  for (let id = 2; id <= 64; id += 2) rig.open(id, second).write(Buffer.alloc(WINDOW));
  rig.mux.dropLane(second, 'gone');
  rig.open(66).write(Buffer.alloc(WINDOW));
  assert.equal(rig.mux.ranDry, false);
  rig.mux.sweep(31_000);
  assert.equal(rig.mux.ranDry, true);
  rig.window(0, 100_000);
  assert.equal(rig.mux.ranDry, false);
});

test('what a slow local side takes is told in time, also behind the EOF of the kit', () => {
  const rig = new Rig({ maxStreams: 300 });
  const slow = rig.open(2);
  rig.receive(FrameType.Data, 2, Buffer.alloc(60_000));
  rig.receive(FrameType.Eof, 2);
  for (let at = 0; at < 5; at += 1) {
    const now = at * 10_000;
    rig.mux.sweep(now);
    slow.consumed(1000);
    rig.mux.sweep(now + 500);
    rig.mux.sweep(now + 2000);
    assert.deepEqual(rig.flush(), [], 'it would cost quick ones a frame');
    rig.mux.sweep(now + 2500);
    assert.deepEqual(rig.flush(), ['2 window 1000']);
    rig.mux.sweep(now + 5000);
    assert.deepEqual(rig.flush(), [], 'nothing moves');
  }
  // Many do not make a flood of it.
  const ids = Array.from({ length: 200 }, (_, at) => 4 + 2 * at);
  for (const id of ids) {
    const stream = rig.open(id);
    rig.receive(FrameType.Data, id, 'abc');
    stream.consumed(3);
  }
  const told = [100_000, 102_000, 102_500, 103_000].map((now) => {
    rig.mux.sweep(now);
    return rig.flush().length;
  });
  assert.deepEqual(told, [0, 128, 72, 0]);
});
