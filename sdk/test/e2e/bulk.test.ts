/**
 * Bulk through the real kit: whole, in order, and in little memory.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer, request, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { tunnel } from '../../src/index.js';
import { PACKAGE, RealKit, start } from '../support/real-kit.js';

const GIB = 1024 * 1024 * 1024;
const CHUNK = Buffer.allocUnsafe(1024 * 1024);
for (let at = 0; at < CHUNK.length; at += 1) CHUNK[at] = (at * 31) ^ (at >> 8);

/** A server that sends as many octets as the path says, and hashes what it gets. */
async function bulkServer(): Promise<{ port: number; stop: () => void }> {
  const server = createServer((req, res) => {
    if (req.method === 'PUT') {
      const hash = createHash('sha256');
      req.on('data', (chunk: Buffer) => hash.update(chunk));
      req.on('end', () => res.end(hash.digest('hex')));
      return;
    }
    let left = Number(req.url?.slice(1));
    res.writeHead(200, { 'content-length': left });
    const more = (): void => {
      while (left > 0) {
        const part = CHUNK.subarray(0, Math.min(left, CHUNK.length));
        left -= part.length;
        if (!res.write(part)) return void res.once('drain', more);
      }
      res.end();
    };
    more();
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const stop = (): void => {
    server.close();
    server.closeAllConnections();
  };
  return { port: (server.address() as AddressInfo).port, stop };
}

test('a download of 2 GiB keeps the client under 150 MiB', { timeout: 120_000 }, async (t) => {
  const kit = await RealKit.start();
  const local = await bulkServer();
  const client = start(process.execPath, [
    `${PACKAGE}dist-test/test/e2e/programs/client.js`,
    JSON.stringify({ ...kit.options, to: { host: '127.0.0.1', port: local.port } }),
  ]);
  const port = Number(await client.says(/port (\d+)/));
  const startedAt = performance.now();
  const page = request({ host: '127.0.0.1', port, path: `/${2 * GIB}` }).end();
  const [response] = (await once(page, 'response')) as [IncomingMessage];
  let got = 0;
  response.on('data', (chunk: Buffer) => {
    // A look at one octet of each read tells a shift or a gap.
    assert.equal(chunk[0], CHUNK[got % CHUNK.length]);
    got += chunk.length;
  });
  await once(response, 'end');
  const seconds = (performance.now() - startedAt) / 1000;
  assert.equal(got, 2 * GIB);
  // A line that it begins from now on tells of all that came before.
  client.output = '';
  await client.says(/\n/);
  const peak = Number(await client.says(/^peak (\d+) KiB$/m)) / 1024;
  t.diagnostic(`peak RSS ${peak.toFixed(0)} MiB, ${(2147 / seconds).toFixed(0)} MB/s`);
  // Bun's own heap starts larger; the bound is the same.
  assert.ok(peak < 150, `${peak} MiB`);
  await client.stop();
  local.stop();
  await kit.stop();
});

test('an upload of 256 MiB arrives whole', { timeout: 60_000 }, async () => {
  const kit = await RealKit.start();
  const local = await bulkServer();
  const to = { host: '127.0.0.1', port: local.port };
  await using app = await tunnel.expose({ ...kit.options, containerPort: 0, to });
  for (const framing of [{ 'content-length': String(256 * CHUNK.length) }, {}]) {
    const hash = createHash('sha256');
    const { containerPort: port } = app.bind;
    const put = request({ host: '127.0.0.1', port, method: 'PUT', path: '/', headers: framing });
    for (let at = 0; at < 256; at += 1) {
      hash.update(CHUNK);
      if (!put.write(CHUNK)) await once(put, 'drain');
    }
    put.end();
    const [response] = (await once(put, 'response')) as [IncomingMessage];
    let text = '';
    for await (const chunk of response) text += String(chunk);
    assert.equal(text, hash.digest('hex'));
  }
  await app.close();
  local.stop();
  await kit.stop();
});
