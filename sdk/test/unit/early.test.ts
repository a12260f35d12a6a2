/**
 * A local server that answers, and leaves while it is still being written to.
 */
import assert from 'node:assert/strict';
import type net from 'node:net';
import { test } from 'node:test';
import { exposing } from '../support/exposed.js';
import { later, listen, until, type LocalServer } from '../support/local.js';

const MIB = 1024 * 1024;

/** Answers the first bytes of each connection, and closes it with what it has not read. */
function leaving(answer: string, leave: (socket: net.Socket) => void): Promise<LocalServer> {
  return listen((socket) => {
    socket.once('data', () => {
      socket.pause();
      socket.write(answer, () => leave(socket));
    });
  });
}

const HEAD = 'HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\n';
/** With bytes that were not read a connection is reset, and not ended. */
const WAYS = {
  reset: (socket: net.Socket) => void socket.resetAndDestroy(),
  'end and reset': (socket: net.Socket) => void socket.end(() => socket.resetAndDestroy()),
  'close unread': (socket: net.Socket) => void setTimeout(() => socket.destroy(), 1),
};

for (const [name, leave] of Object.entries(WAYS)) {
  test(`an answer that comes before the body was sent is passed on: ${name}`, async () => {
    const local = await leaving(HEAD + 'early', leave);
    await exposing(local.port, async ({ kit }) => {
      for (let at = 0; at < 25; at += 1) {
        const body = at % 2 === 0 ? 'length' : 'chunked';
        const headers = body === 'length' ? [['content-length', String(3 * MIB)]] : [];
        const stream = kit.session.request('POST', '/', { body, headers });
        const pouring = stream.pour(Buffer.alloc(3 * MIB)).then(() => stream.end());
        assert.equal((await stream.head()).status, 413);
        assert.equal(await stream.text(), 'early');
        await pouring;
      }
      await until(() => local.open.size === 0);
    });
    await local.stop();
  });
}

test('an answer that breaks off with a reset never looks whole', async () => {
  const local = await leaving('HTTP/1.1 200 OK\r\n\r\nhalf of it', WAYS.reset);
  await exposing(local.port, async ({ kit }) => {
    for (let at = 0; at < 10; at += 1) {
      const headers = [['content-length', String(3 * MIB)]];
      const stream = kit.session.request('POST', '/', { body: 'length', headers });
      const pouring = stream.pour(Buffer.alloc(3 * MIB)).catch(() => undefined);
      await until(() => stream.reset !== undefined || stream.ended);
      assert.ok(!stream.ended, 'a reset is no end');
      await pouring;
    }
  });
  await local.stop();
});

test('a server that leaves without an answer is a 502', async () => {
  const local = await leaving('', WAYS.reset);
  await exposing(local.port, async ({ kit }) => {
    const headers = [['content-length', String(3 * MIB)]];
    const stream = kit.session.request('POST', '/', { body: 'length', headers });
    const pouring = stream.pour(Buffer.alloc(3 * MIB));
    assert.equal((await stream.head()).status, 502);
    await pouring;
  });
  await local.stop();
});

test('a server that ended, and then takes no more, is told of to a caller who sends', async () => {
  const local = await listen((socket) => {
    socket.end('bye');
    socket.once('data', () => socket.resetAndDestroy());
  });
  await exposing(
    local.port,
    async ({ kit }) => {
      const stream = kit.session.caller();
      assert.equal(await stream.text(), 'bye');
      for (; stream.reset === undefined; await later(2)) stream.send(Buffer.alloc(10));
    },
    { bind: { kind: 'tcp', mode: 'pull' } },
  );
  await local.stop();
});

test('the last words of a TCP server reach a caller who still sends, and the reset after them', async () => {
  const local = await leaving('bye', WAYS.reset);
  await exposing(
    local.port,
    async ({ kit }) => {
      for (let at = 0; at < 25; at += 1) {
        const stream = kit.session.caller();
        const pouring = stream.pour(Buffer.alloc(3 * MIB)).catch(() => undefined);
        await until(() => stream.reset !== undefined);
        assert.equal(Buffer.concat(stream.chunks).toString(), 'bye');
        assert.ok(!stream.ended, 'a reset is no end');
        await pouring;
      }
    },
    { bind: { kind: 'tcp', mode: 'pull' } },
  );
  await local.stop();
});
