import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { AdminError, AuthError, LostError, OptionsError, tunnel } from '../../src/index.js';
import { parseMetrics } from '../../src/client/metrics.js';
import { rejects } from '../support/assert.js';
import { freePort } from '../support/local.js';

test('each endpoint is asked beside connect, with the token', async () => {
  const seen: string[] = [];
  const server = createServer((request, response) => {
    seen.push(`${request.method ?? ''} ${request.url ?? ''}`);
    if (request.headers.authorization !== 'Bearer t') {
      response.writeHead(401, { 'www-authenticate': 'Bearer' }).end('{"error":"no"}');
    } else if (request.method === 'DELETE' && request.url?.includes('S-gone') === true) {
      response.writeHead(404).end('{"error":"unknown session"}');
    } else if (request.url?.endsWith('metrics') === true) {
      response.end('# HELP a b\nhoody_tunnel_sessions_active 2\nx{k="v\\"w"} 1.5\nx{k="u"} 2\n');
    } else {
      response.writeHead(request.method === 'DELETE' ? 202 : 200).end('{"total":1,"status":"ok"}');
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const url = `ws://127.0.0.1:${port}/prefix/api/v1/tunnel/connect`;
  const admin = tunnel.admin({ url, token: 't' });
  assert.equal((await admin.health()).status, 'ok');
  assert.equal((await admin.sessions()).total, 1);
  assert.equal((await admin.bindings()).total, 1);
  await admin.tunnels();
  assert.equal((await admin.metrics()).value('hoody_tunnel_sessions_active'), 2);
  await admin.killSession('S-1', { graceMs: 50 });
  const base = '/prefix/api/v1/tunnel';
  assert.deepEqual(seen, [
    `GET ${base}/health`,
    `GET ${base}/sessions`,
    `GET ${base}/bindings`,
    `GET ${base}/tunnels`,
    `GET ${base}/metrics`,
    `DELETE ${base}/sessions/S-1?grace_ms=50`,
  ]);
  const gone = await rejects(admin.killSession('S-gone'), AdminError);
  assert.equal(gone.status, 404);
  assert.match(gone.message, /unknown session/);
  await rejects(admin.killSession('S-1', { graceMs: 5001 }), OptionsError);
  await rejects(tunnel.admin({ url, token: 'wrong' }).sessions(), AuthError);
  const aborted = AbortSignal.abort(new Error('enough'));
  assert.equal((await rejects(admin.health({ signal: aborted }), Error)).message, 'enough');
  server.close();
  server.closeAllConnections();
  const nobody = tunnel.admin({ url: `ws://127.0.0.1:${await freePort()}` });
  await rejects(nobody.health(), LostError);
});

test('metrics are samples with labels', () => {
  const metrics = parseMetrics(
    '# TYPE a counter\na{k="v\\"w",l="m"} 1.5 123\na{k="u"} 2\nb +Inf\n',
  );
  assert.equal(metrics.samples.length, 3);
  assert.deepEqual(metrics.samples[0]?.labels, { k: 'v"w', l: 'm' });
  assert.equal(metrics.value('a'), 3.5);
  assert.equal(metrics.value('a', { k: 'u' }), 2);
  assert.equal(metrics.value('b'), Infinity);
  assert.equal(metrics.value('c'), undefined);
});
