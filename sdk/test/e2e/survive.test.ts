import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import net from 'node:net';
import { test } from 'node:test';
import { TunnelSession } from '../../src/index.js';
import { RealKit } from '../support/real-kit.js';
import { until } from '../support/local.js';
import { Wire } from '../support/wire.js';

const sha = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

for (const lanes of [1, 4]) {
  test(
    `connections into the container go on through cuts, whole, with ${lanes} to the kit`,
    { timeout: 90_000 },
    async () => {
      const kit = await RealKit.start();
      const { url, token } = kit.options;
      const wire = new Wire(Number(new URL(url).port));
      const echo = net.createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket));
      echo.listen(0, '127.0.0.1');
      await once(echo, 'listening');
      const { port } = echo.address() as net.AddressInfo;
      const session = new TunnelSession({
        url: await wire.start(),
        token,
        reconnect: true,
        maxConnections: lanes,
      });
      await session.connect();
      assert.ok(session.hello?.capabilities.includes('replay'));
      const to = { host: '127.0.0.1', port };
      const { containerPort } = await session.bind({ mode: 'pull', containerPort: 0, to });
      await until(() => session.connections === lanes);
      let isOver = false;
      const cut = async (): Promise<void> => {
        for (let n = 0; n < 10 && !isOver; n += 1) {
          wire[n % 2 === 0 ? 'up' : 'down'] = 300_000 + 77_777 * n;
          await until(() => wire.cuts > n || isOver);
        }
      };
      const cutting = cut();
      const bytes = randomBytes(16 << 20);
      const call = async (): Promise<void> => {
        const caller = net.connect({
          port: containerPort,
          host: '127.0.0.1',
          allowHalfOpen: true,
        });
        const chunks: Buffer[] = [];
        caller.on('data', (chunk) => chunks.push(chunk));
        caller.end(bytes);
        await once(caller, 'end');
        assert.equal(sha(Buffer.concat(chunks)), sha(bytes));
      };
      await Promise.all(Array.from({ length: lanes }, call));
      isOver = true;
      await cutting;
      assert.equal(wire.cuts, 10);
      await until(() => session.state === 'online' && session.connections === lanes);
      await session.close();
      wire.stop();
      echo.close();
      await kit.stop();
    },
  );
}
