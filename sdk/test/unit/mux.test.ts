import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Lane } from '../../src/mux/lane.js';
import { MuxSession } from '../../src/mux/session.js';
import type { MuxStream } from '../../src/mux/stream.js';
import { Violation } from '../../src/mux/violation.js';
import { RecvCredit, SendCredit } from '../../src/mux/credit.js';
import { Code } from '../../src/wire/code.js';
import { decodeMessage, decodeReset, encodeFrame, FrameType } from '../../src/wire/frame.js';
import type { Frame } from '../../src/wire/frame.js';
import { throws } from '../support/assert.js';

const WINDOW = 262_144;
const MIB = 1024 * 1024;

/** A session on carriers that only note what is sent. */
class Rig {
  readonly sent: Frame[] = [];
  readonly messages: number[] = [];
  readonly streams = new Map<number, MuxStream>();
  readonly told: string[] = [];
  backlog = 0;
  readonly mux: MuxSession;
  readonly lane: Lane;

  constructor(limits: { streamWindow?: number; sessionWindow?: number; maxStreams?: number } = {}) {
    this.mux = new MuxSession(
      { streamWindow: WINDOW, sessionWindow: 16 * MIB, maxStreams: 4, ...limits },
      {
        accept: (stream) => {
          this.streams.set(stream.id, stream);
          const note = (what: string) => this.told.push(`${stream.id} ${what}`);
          stream.sink = {
            data: (chunk) => note(`data ${chunk.length}`),
            end: () => note('end'),
            reset: (code) => note(`reset ${code}`),
            drain: () => note('drain'),
          };
        },
        control: (frame) => this.told.push(`control ${frame.type}`),
      },
    );
    this.lane = this.addLane(0);
  }

  addLane(index: number): Lane {
    const carrier = {
      send: (message: Buffer): void => {
        // A copy, as a carrier makes: the buffer is used again.
        this.sent.push(...decodeMessage(Buffer.from(message)));
        this.messages.push(message.length);
      },
      backlog: 0,
    };
    Object.defineProperty(carrier, 'backlog', { get: () => this.backlog });
    const lane = new Lane(index, carrier);
    this.mux.addLane(lane);
    return lane;
  }

  receive(type: number, id: number, payload: Buffer | string = '', lane = this.lane): void {
    this.mux.receive(lane, encodeFrame(type, id, Buffer.from(payload)));
  }

  open(id: number, lane = this.lane): MuxStream {
    this.receive(FrameType.StreamOpen, id, '{"kind":"tcp"}', lane);
    return this.streams.get(id)!;
  }

  window(id: number, bytes: number): void {
    const payload = Buffer.alloc(4);
    payload.writeUInt32BE(bytes);
    this.receive(FrameType.Window, id, payload);
  }

  /** What was sent since the last call, as text. */
  flush(): string[] {
    this.lane.flush();
    const lines = this.sent.map(({ type, streamId, payload }) => {
      if (type === FrameType.Reset) return `${streamId} reset ${decodeReset(payload).code}`;
      if (type === FrameType.Window) return `${streamId} window ${payload.readUInt32BE(0)}`;
      if (type === FrameType.Data) return `${streamId} data ${payload.length}`;
      return `${streamId} type ${type}`;
    });
    this.sent.length = 0;
    return lines;
  }
}

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

test('credit is spent, and grows back to its size and no further', () => {
  const send = new SendCredit(100);
  send.spend(60);
  assert.equal(send.available, 40);
  assert.equal(send.grow(61), false);
  assert.equal(send.grow(60), true);
  const recv = new RecvCredit(100);
  assert.equal(recv.received(100), true);
  assert.equal(recv.received(1), false);
  let given = 0;
  for (let at = 0; at < 100; at += 1) given += recv.passedOn(1);
  // What is withheld is never more than a quarter.
  assert.ok(given >= 75);
  assert.equal(recv.received(given), true);
});

test('a sender sends what both windows allow, and goes on with either', () => {
  const rig = new Rig({ sessionWindow: 300_000 });
  const a = rig.open(2);
  const b = rig.open(4);
  assert.equal(a.write(Buffer.alloc(300_000)), false);
  assert.equal(b.write(Buffer.alloc(100_000)), false);
  const total = rig.flush().reduce((sum, line) => sum + Number(line.split(' ')[2]), 0);
  assert.equal(total, 300_000);
  rig.window(0, 100_000);
  const more = rig.flush();
  assert.ok(more.every((line) => line.startsWith('4 ')));
  assert.deepEqual(rig.told, ['4 drain']);
  rig.window(2, 50_000);
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
  for (let at = 0; at < 4; at += 1) rig.receive(FrameType.Data, 2, Buffer.alloc(65_536));
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
  const rig = new Rig({ sessionWindow: 262_144 });
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

/** Sends `mib` MiB on a stream. */
function fill(rig: Rig, id: number, mib: number): void {
  for (let at = 0; at < mib * 16; at += 1) rig.receive(FrameType.Data, id, Buffer.alloc(65_536));
}

/** Streams 2 and 4 have used up what the budget has room for, and 6 most of the session's window. */
function stalledRig(): Rig {
  const rig = new Rig({ streamWindow: 16 * MIB, sessionWindow: 16 * MIB });
  for (const id of [2, 4, 6]) rig.open(id);
  rig.mux.sweep(1000);
  for (const [at, id] of [2, 4, 6].entries()) {
    fill(rig, id, 14);
    rig.mux.sweep(1500 + 1100 * at);
    assert.deepEqual(rig.flush(), []);
    rig.mux.sweep(2000 + 1100 * at);
    assert.deepEqual(rig.flush(), id === 6 ? [] : [`0 window ${14 * MIB}`]);
  }
  return rig;
}

test('stalled streams give session credit back early, no more of it than the budget', () => {
  const rig = stalledRig();
  rig.mux.sweep(60_000);
  assert.equal(rig.mux['earlyTotal'], 28 * MIB);
  assert.deepEqual(rig.flush(), [], 'credit is withheld, and nobody waits for it');
});

test('where others wait past the budget, what took nothing for three seconds is reset', () => {
  const rig = stalledRig();
  rig.open(8);
  // Stream 2 has taken nothing since 1000, stream 4 since 2000.
  rig.mux.sweep(4300);
  assert.deepEqual(rig.flush(), ['2 reset 8', `0 window ${14 * MIB}`]);
  assert.equal(rig.told.at(-1), '2 reset 8');
  rig.mux.sweep(60_000);
  assert.deepEqual(rig.flush(), []);
});

test('a stream that took bytes within three seconds is not reset', () => {
  const rig = stalledRig();
  for (const id of [2, 4]) rig.streams.get(id)?.consumed(1);
  rig.open(8);
  rig.mux.sweep(6500);
  assert.deepEqual(rig.flush(), ['6 reset 8', `0 window ${14 * MIB}`]);
});

test('a stream that goes on after stalls is reset after thirty seconds only', () => {
  const rig = stalledRig();
  for (const id of [2, 4, 6]) rig.streams.get(id)?.consumed(1);
  rig.open(8);
  rig.mux.sweep(34_000);
  assert.deepEqual(rig.flush(), []);
  rig.mux.sweep(34_300);
  assert.deepEqual(rig.flush(), ['2 reset 8', `0 window ${14 * MIB}`]);
});

test('what finished streams still hold gives credit back once the budget has room again', () => {
  const rig = stalledRig();
  const finished = rig.streams.get(6);
  rig.receive(FrameType.Eof, 6);
  finished?.end();
  assert.deepEqual(rig.flush(), ['6 type 19']);
  rig.receive(FrameType.Reset, 2, Buffer.from([0, 7]));
  rig.mux.sweep(60_000);
  assert.deepEqual(rig.flush(), [`0 window ${14 * MIB}`]);
  finished?.consumed(14 * MIB);
  assert.equal(rig.mux['earlyTotal'], 14 * MIB);
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
  const rig = new Rig({ sessionWindow: 262_144 });
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
  rig.open(4);
  for (let at = 0; at < 4; at += 1) {
    rig.receive(FrameType.Data, at % 2 === 0 ? 2 : 4, Buffer.alloc(65_536));
  }
  assert.equal(
    code(() => rig.receive(FrameType.Data, 2, Buffer.alloc(1))),
    Code.FlowControlError,
  );
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
  assert.equal(rig.mux.dataReceived(1), 3);
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
  const rig = new Rig({ sessionWindow: WINDOW });
  rig.mux.sweep(1000);
  const second = rig.addLane(1);
  rig.open(2, second).write(Buffer.alloc(WINDOW));
  rig.mux.dropLane(second, 'gone');
  rig.open(4).write(Buffer.alloc(1));
  assert.equal(rig.mux.ranDry, false);
  rig.mux.sweep(31_000);
  assert.equal(rig.mux.ranDry, true);
  rig.window(0, 100_000);
  assert.equal(rig.mux.ranDry, false);
});
