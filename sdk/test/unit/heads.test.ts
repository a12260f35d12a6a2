/**
 * Heads of local servers: octet by octet, and those that never become one.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { HeadTooLarge } from '../../src/local/head.js';
import { HeadReader } from '../../src/local/head-reader.js';
import { exposing } from '../support/exposed.js';
import { throws } from '../support/assert.js';
import { listen } from '../support/local.js';

const GOOD = 'HTTP/1.1 200 OK\r\nA: b\r\nC:\t\u00e9 \r\n\r\n';

function read(reader: HeadReader, text: string, step: number): number {
  const bytes = Buffer.from(text, 'latin1');
  for (let at = 0; at < bytes.length; at += step) {
    const end = Math.min(bytes.length, at + step);
    const stop = reader.feed(bytes, at, end);
    if (reader.head !== undefined) return stop;
    assert.equal(stop, end);
  }
  return -1;
}

test('a head in pieces of any size is the same head, and ends where it ends', () => {
  for (let step = 1; step <= GOOD.length + 10; step += 1) {
    const reader = new HeadReader();
    assert.ok(reader.isUntouched);
    assert.equal(read(reader, GOOD + 'body\r\n\r\n', step), GOOD.length, `by ${step}`);
    const headers = [
      ['A', 'b'],
      ['C', '\u00e9'],
    ];
    assert.deepEqual(reader.head, { minor: 1, status: 200, headers });
  }
});

test('a head may have its bound, and no octet more', () => {
  const start = 'HTTP/1.1 200 OK\r\nA: ';
  const limits = { bytes: 8192, fields: 20 };
  const most = limits.bytes;
  const fits = `${start}${'x'.repeat(most - start.length)}\r\n\r\n`;
  const large = `${start}${'x'.repeat(most - start.length + 1)}\r\n\r\n`;
  const endless = 'HTTP/1.1 200 OK\r\nA: b' + 'x'.repeat(most);
  const fields = (count: number): string => `HTTP/1.1 200 OK\r\n${'A: b\r\n'.repeat(count)}\r\n`;
  for (const step of [7, 1000, 65_536]) {
    for (const text of [fits, fields(20)]) {
      assert.equal(read(new HeadReader(limits), text, step), text.length);
    }
    for (const text of [large, endless, fields(21)]) {
      throws(() => read(new HeadReader(limits), text, step), HeadTooLarge);
    }
  }
});

/** What each server sends before it waits for ever. */
const HANGING = {
  'a bare CR': 'HTTP/1.1 200 OK\rA: b',
  'a CR before the CR LF': 'HTTP/1.1 200 OK\r\nA: b\r\r\n',
  'a NUL': 'HTTP/1.1 200 OK\r\nA: b\0',
  'a DEL in the first line': 'HTTP/1.1 200 \x7f',
  'a line without a colon': 'HTTP/1.1 200 OK\r\nA\r\n',
  'a field without a name': 'HTTP/1.1 200 OK\r\n: b\r\n',
  'a folded line': 'HTTP/1.1 200 OK\r\nA: b\r\n c\r\n',
  'an empty line first': '\r\nHTTP/1.1 200 OK\r\n',
  'no status': 'HTTP/1.1\r\n',
  'a status of two digits': 'HTTP/1.1 20 OK\r\n',
  'another version': 'HTTP/2.0 200 OK\r\n',
  'a banner': '220 ready\r\n',
  'a banner without an end': 'SSH-2',
  'a page without a head': '<html>',
  'a TLS alert': '\x15\x03\x01\0\x02\x02\x28',
  'a head without an end': `HTTP/1.1 200 OK\r\n${'A: b\r\n'.repeat(9000)}`,
  'a line without an end': `HTTP/1.1 200 ${'x'.repeat(300_000)}`,
};

for (const [name, answer] of Object.entries(HANGING)) {
  test(`a server whose answer has ${name} is a 502 at once`, { timeout: 20_000 }, async () => {
    for (const inPieces of [false, true]) {
      const local = await listen((socket) => {
        socket.once('data', () => {
          const half = inPieces ? answer.length >> 1 : answer.length;
          socket.write(answer.slice(0, half), 'latin1');
          setTimeout(() => socket.write(answer.slice(half), 'latin1'), 20);
        });
      });
      await exposing(local.port, async ({ kit }) => {
        const stream = kit.session.get('/');
        assert.equal((await stream.head()).status, 502);
        assert.match(
          await stream.text(),
          name === 'a TLS alert' ? /speaks TLS/ : /is not HTTP\/1\.1|larger than maxHead/,
        );
      });
      await local.stop();
    }
  });
}

test('an answer whose lines end in bare LF is passed on at once, in one piece or two', async () => {
  const answer = 'HTTP/1.1 200 OK\nContent-Length : 2\n\nok';
  for (const half of [0, 12, answer.indexOf('\n\n') + 1]) {
    const local = await listen((socket) => {
      socket.once('data', () => {
        socket.write(answer.slice(0, half), 'latin1');
        setTimeout(() => socket.write(answer.slice(half), 'latin1'), 20);
      });
    });
    await exposing(local.port, async ({ kit }) => {
      const stream = kit.session.get('/');
      assert.equal((await stream.head()).status, 200);
      assert.equal(await stream.text(), 'ok');
    });
    await local.stop();
  }
});
