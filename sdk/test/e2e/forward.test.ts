/**
 * With the real kit: what the container reaches, at a port of this machine.
 */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { ForwardError, tunnel, TunnelSession, type ForwardFailure } from '../../src/index.js';
import { rejects } from '../support/assert.js';
import { Cutter } from '../support/cutter.js';
import { freePort, later, listen, until } from '../support/local.js';
import { RealKit } from '../support/real-kit.js';

const sha = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** Sends all of it, and returns all that comes. */
async function through(port: number, bytes: Uint8Array): Promise<Buffer> {
  const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  const chunks: Buffer[] = [];
  socket.on('data', (chunk) => chunks.push(chunk));
  socket.end(bytes);
  await once(socket, 'end');
  return Buffer.concat(chunks);
}

test('a port and a Unix socket of the container are reached, whole and half-closed', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'forward-'));
  const path = join(folder, 'echo.sock');
  const echo = await listen((socket) => socket.pipe(socket));
  const unix = net.createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket));
  unix.listen(path);
  await once(unix, 'listening');
  const allowed = `127.0.0.1:${echo.port},localhost:${echo.port},unix:${path}`;
  const kit = await RealKit.start('--allow-forward', allowed);
  try {
    const bytes = randomBytes(8 << 20);
    for (const from of [echo.port, { host: '127.0.0.1', port: echo.port }, { unix: path }]) {
      await using forward = await tunnel.forward({ ...kit.options, from, localPort: 0 });
      assert.equal(sha(await through(forward.localPort, bytes)), sha(bytes));
    }
  } finally {
    await kit.stop();
    unix.close();
    await echo.stop();
    rmSync(folder, { recursive: true });
  }
});

test('each refusal of the kit has its reason', async () => {
  const nobody = await freePort();
  const kit = await RealKit.start('--allow-forward', `127.0.0.1:${nobody},no-such-name.invalid:*`);
  try {
    await using session = new TunnelSession({ ...kit.options });
    await session.connect();
    const reasons: ForwardFailure[] = [];
    session.addEventListener('forwardFailed', ({ detail }) => reasons.push(detail.reason));
    for (const [from, reason] of [
      [`127.0.0.1:${nobody}`, 'refused'],
      [`127.0.0.1:${kit.port}`, 'denied'],
      ['169.254.169.254:80', 'denied'],
      ['no-such-name.invalid:80', 'dns'],
    ] as const) {
      const forward = await session.forward({ from, localPort: 0 });
      const socket = net.connect(forward.localPort, '127.0.0.1');
      socket.on('error', () => undefined);
      await new Promise((resolve) => socket.once('close', resolve));
      assert.equal(reasons.pop(), reason, from);
    }
  } finally {
    await kit.stop();
  }
  const strict = await RealKit.start('--allow-forward', 'off');
  const refused = tunnel.forward({ ...strict.options, from: 5432 });
  assert.equal((await rejects(refused, ForwardError)).reason, 'not-granted');
  await strict.stop();
});

test('connections go on through cuts', { timeout: 60_000 }, async () => {
  const echo = await listen((socket) => socket.pipe(socket));
  const kit = await RealKit.start();
  const cutter = new Cutter(kit.port);
  const session = new TunnelSession({
    url: await cutter.start(),
    token: kit.options.token,
    reconnect: true,
  });
  try {
    await session.connect();
    const forward = await session.forward({ from: `127.0.0.1:${echo.port}`, localPort: 0 });
    const bytes = randomBytes(12 << 20);
    const over = { yes: false };
    const all = Promise.all([1, 2, 3].map(() => through(forward.localPort, bytes))).finally(
      () => (over.yes = true),
    );
    // A kit that has heard of no stream yet has nothing to keep.
    await until(() => echo.accepted === 3);
    for (let n = 0; n < 4 && !over.yes; n += 1) {
      await later(60);
      await cutter.cut(n, n % 2 === 0 ? 'rst' : 'fin', 8000);
      await until(() => over.yes || session.state === 'online');
    }
    for (const got of await all) assert.equal(sha(got), sha(bytes));
    assert.ok(cutter.cuts > 0);
  } finally {
    await session.close({ graceMs: 0 });
    cutter.stop();
    await kit.stop();
    await echo.stop();
  }
});
