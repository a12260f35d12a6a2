/**
 * What arrives in small pieces for a local side that is slow.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { MuxStream } from '../../src/mux/stream.js';
import { GATHER_ABOVE, GATHER_BYTES } from '../../src/mux/limits.js';
import { encodeFrame, FrameType } from '../../src/wire/frame.js';
import { Rig } from '../support/rig.js';

/** A stream whose local side takes nothing until it is told to. */
function slow(rig: Rig): { stream: MuxStream; told: (number | 'end' | 'reset')[]; all: Buffer[] } {
  const told: (number | 'end' | 'reset')[] = [];
  const all: Buffer[] = [];
  const stream = rig.open(2);
  stream.sink = {
    data: (chunk) => {
      told.push(chunk.length);
      all.push(chunk);
    },
    end: () => told.push('end'),
    reset: () => told.push('reset'),
    drain: () => undefined,
  };
  return { stream, told, all };
}

function drip(rig: Rig, count: number, from = 0): void {
  for (let at = 0; at < count; at += 1) {
    rig.receive(FrameType.Data, 2, Buffer.from([(from + at) % 256]));
  }
}

test('small pieces are handed on at once, but not to who holds much, and none is lost', () => {
  const rig = new Rig();
  const { stream, told, all } = slow(rig);
  drip(rig, GATHER_ABOVE);
  assert.equal(told.length, GATHER_ABOVE);
  drip(rig, 10, GATHER_ABOVE);
  assert.equal(told.length, GATHER_ABOVE);
  assert.equal(stream.held, GATHER_ABOVE + 10);
  stream.consumed(1);
  assert.equal(told.at(-1), 10, 'it holds less, so that it gets what is there');
  stream.consumed(GATHER_ABOVE + 9);
  drip(rig, 1, GATHER_ABOVE + 10);
  assert.equal(told.at(-1), 1);
  const bytes = Buffer.concat(all);
  for (const [at, octet] of bytes.entries()) assert.equal(octet, at % 256);
});

test('what has gathered comes before a large piece, and before the end', () => {
  const rig = new Rig();
  const { told } = slow(rig);
  rig.receive(FrameType.Data, 2, Buffer.alloc(GATHER_ABOVE));
  drip(rig, 3);
  rig.receive(FrameType.Data, 2, Buffer.alloc(60_000));
  drip(rig, GATHER_BYTES + 5);
  rig.receive(FrameType.Eof, 2);
  assert.deepEqual(told, [GATHER_ABOVE, 3, 60_000, GATHER_BYTES, 5, 'end']);
});

test('what has gathered for a stream that is reset gives its credit back', () => {
  const rig = new Rig();
  const { stream, told } = slow(rig);
  rig.receive(FrameType.Data, 2, Buffer.alloc(GATHER_ABOVE));
  drip(rig, 9);
  rig.receive(FrameType.Reset, 2, Buffer.from([0, 7]));
  assert.deepEqual(told, [GATHER_ABOVE, 'reset']);
  assert.equal(stream.held, 0);
  const { recvCredit } = rig.mux as unknown as {
    recvCredit: { available: number; withheld: number; window: number };
  };
  assert.equal(recvCredit.available + recvCredit.withheld, recvCredit.window);
});

test('a byte that is held does not keep the message that brought it', () => {
  const rig = new Rig();
  const { all } = slow(rig);
  const large = encodeFrame(FrameType.Data, 2, Buffer.alloc(60_000));
  const small = encodeFrame(FrameType.Data, 2, Buffer.from('x'));
  rig.mux.receive(rig.lane, Buffer.concat([small, large]));
  const kept = all.map(({ buffer }) => buffer.byteLength);
  assert.equal(kept[0], 1);
  assert.ok((kept[1] ?? Infinity) < 70_000);
});
