import assert from 'node:assert/strict';
import { test } from 'node:test';
import { exposing } from '../support/exposed.js';
import { listen, type LocalServer } from '../support/local.js';

const BIG = 4 * 1024 * 1024;

/** A server with one large and one small answer. */
async function files(): Promise<LocalServer> {
  return listen((socket) => {
    let pending = '';
    socket.on('data', (chunk) => {
      pending += chunk.toString('latin1');
      for (let end = pending.indexOf('\r\n\r\n'); end >= 0; end = pending.indexOf('\r\n\r\n')) {
        const length = pending.startsWith('GET /big') ? BIG : 100;
        pending = pending.slice(end + 4);
        socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${length}\r\n\r\n`);
        socket.write(Buffer.alloc(length));
      }
    });
  });
}

test('a hundred visitors who read nothing leave credit for small exchanges', async () => {
  const local = await files();
  await exposing(
    local.port,
    async ({ kit }) => {
      const { session } = kit;
      const stuck = Array.from({ length: 100 }, () => session.get('/big'));
      for (const stream of stuck) await stream.head();
      let before = -1;
      for (let sent = 0; sent !== before;) {
        // Until nothing moves any more.
        before = sent;
        await new Promise((resolve) => setTimeout(resolve, 200));
        sent = stuck.reduce((sum, { received }) => sum + received, 0);
      }
      assert.ok(before > kit.sessionWindow / 2, 'they hold most of the window');
      for (let at = 0; at < 200; at += 1) {
        const small = session.get('/small');
        assert.equal((await small.body()).length, 100);
        small.giveBack(100);
      }
      for (const stream of stuck) assert.equal(stream.reset, undefined);
    },
    { kit: { manualCredit: true } },
  );
  await local.stop();
});
