import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import net from 'node:net';
import { test } from 'node:test';
import { TunnelSession } from '../../src/index.js';
import { RealKit } from '../support/real-kit.js';
import { Wire } from '../support/wire.js';

const sha = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

test(
  'a connection into the container goes on through cuts, whole',
  { timeout: 60_000 },
  async () => {
    const kit = await RealKit.start();
    const { url, token } = kit.options;
    const wire = new Wire(Number(new URL(url).port));
    const echo = net.createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket));
    echo.listen(0, '127.0.0.1');
    await once(echo, 'listening');
    const { port } = echo.address() as net.AddressInfo;
    const session = new TunnelSession({ url: await wire.start(), token, reconnect: true });
    await session.connect();
    assert.ok(session.hello?.capabilities.includes('replay'));
    const to = { host: '127.0.0.1', port };
    const bound = await session.bind({ mode: 'pull', containerPort: 0, to });
    const cut = (): void => {
      if (wire.cuts < 10) wire[wire.cuts % 2 === 0 ? 'up' : 'down'] = 300_000 + 77_777 * wire.cuts;
    };
    session.addEventListener('resumed', cut);
    cut();
    const bytes = randomBytes(16 << 20);
    const caller = net.connect({
      port: bound.containerPort,
      host: '127.0.0.1',
      allowHalfOpen: true,
    });
    const chunks: Buffer[] = [];
    caller.on('data', (chunk) => chunks.push(chunk));
    caller.end(bytes);
    await once(caller, 'end');
    assert.equal(sha(Buffer.concat(chunks)), sha(bytes));
    assert.equal(wire.cuts, 10);
    await session.close();
    wire.stop();
    echo.close();
    await kit.stop();
  },
);
