import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MaskedFrame } from '../../src/client/masked.js';

/** Reads a masked frame as RFC 6455 says, octet by octet. */
function unmask(frame: Buffer): Buffer {
  assert.equal(frame[0], 0x82);
  let at = 2;
  let length = frame[1]! & 0x7f;
  assert.ok((frame[1]! & 0x80) !== 0);
  if (length === 126) {
    length = frame.readUInt16BE(2);
    assert.ok(length > 125);
    at = 4;
  } else if (length === 127) {
    length = Number(frame.readBigUInt64BE(2));
    assert.ok(length > 65_535);
    at = 10;
  }
  const mask = frame.subarray(at, at + 4);
  const payload = Buffer.from(frame.subarray(at + 4));
  assert.equal(payload.length, length);
  for (let octet = 0; octet < length; octet += 1) payload[octet]! ^= mask[octet & 3]!;
  return payload;
}

test('a frame of any size comes back as it was', () => {
  const all = Buffer.allocUnsafe(262_144);
  for (let at = 0; at < all.length; at += 1) all[at] = at * 7;
  const sizes = [
    1, 2, 3, 4, 5, 9, 125, 126, 127, 8191, 8192, 8193, 65_535, 65_536, 65_545, 262_144,
  ];
  for (const size of sizes) {
    for (const offset of [0, 1, 2, 3]) {
      const message = all.subarray(offset, Math.min(offset + size, all.length));
      const frame = MaskedFrame.of(message, 1);
      assert.ok(unmask(frame.bytes).equals(message), `${size} at ${offset}`);
      // It can be had back as it was, and is what was written all the same.
      assert.ok(frame.read().equals(message));
      assert.ok(unmask(frame.bytes).equals(message));
      frame.release();
    }
  }
});

test('masks differ from frame to frame', () => {
  const seen = new Set<string>();
  for (let at = 0; at < 5000; at += 1) {
    seen.add(MaskedFrame.of(Buffer.alloc(1), 1).bytes.subarray(2, 6).toString('hex'));
  }
  assert.ok(seen.size > 4990);
});

test('memory is used again when all its users have released it, and no sooner', () => {
  const bulk = (fill: number): Buffer => Buffer.alloc(60_000, fill);
  const first = MaskedFrame.of(bulk(1), 2);
  first.release();
  const second = MaskedFrame.of(bulk(2), 1);
  assert.notEqual(second, first);
  assert.ok(first.read().equals(bulk(1)));
  first.release();
  const third = MaskedFrame.of(bulk(3).subarray(7), 1);
  assert.equal(third, first);
  assert.ok(unmask(third.bytes).equals(bulk(3).subarray(7)));
});
