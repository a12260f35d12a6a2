/**
 * With the real kit: objects of one process take a session from each other while it is used.
 */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { AuthError, ResumeExpiredError, TunnelSession } from '../../src/index.js';
import { rejects } from '../support/assert.js';
import { later } from '../support/local.js';
import { RealKit } from '../support/real-kit.js';

const sha = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
const bytes = randomBytes(16 << 20);

test(
  'visitors and a download notice nothing of who has the session',
  { timeout: 60_000 },
  async () => {
    const kit = await RealKit.start();
    const { token } = kit.options;
    const server = createServer((request, response) => {
      if (request.url !== '/bulk') return void response.end('hi');
      // As slow as the other objects need.
      const send = async (): Promise<void> => {
        for (let at = 0; at < bytes.length; at += 1 << 18) {
          response.write(bytes.subarray(at, at + (1 << 18)));
          await later(20);
        }
        response.end();
      };
      void send();
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const first = new TunnelSession({ ...kit.options, reconnect: true, maxConnections: 2 });
    await first.connect();
    const to = { host: '127.0.0.1', port };
    const { containerPort } = await first.bind({ mode: 'expose', containerPort: 0, to });
    const page = `http://127.0.0.1:${containerPort}/`;
    const download = fetch(`${page}bulk`).then((response) => response.arrayBuffer());
    let isOver = false;
    const statuses = new Map<number, number>();
    const visit = async (): Promise<void> => {
      while (!isOver) {
        const { status } = await fetch(page).then(async (it) => (await it.text(), it));
        statuses.set(status, (statuses.get(status) ?? 0) + 1);
      }
    };
    const visitors = [visit(), visit(), visit()];
    const resumeSessionId = first.id ?? '';
    let last = first;
    for (let n = 0; n < 4; n += 1) {
      for (const options of [
        { token: () => token },
        { kitHeaders: { 'x-n': String(n) } },
        { maxConnections: 1 },
        { maxConnections: 4, requestTimeout: 5000 + n },
      ]) {
        const wrong = { ...kit.options, token: () => 'wrong', resumeSessionId };
        await rejects(new TunnelSession(wrong).connect(), AuthError);
        assert.equal(last.state, 'online');
        const all = { ...kit.options, reconnect: true, resumeSessionId, ...options };
        const next = new TunnelSession(all);
        await next.connect();
        await last.closed;
        assert.deepEqual(
          [next.id, next.bindings[0]?.containerPort],
          [resumeSessionId, containerPort],
        );
        last = next;
        await later(20);
      }
    }
    assert.equal(sha(new Uint8Array(await download)), sha(bytes));
    isOver = true;
    await Promise.all(visitors);
    assert.deepEqual([...statuses.keys()], [200], JSON.stringify([...statuses]));
    await last.close();
    const late = new TunnelSession({ ...kit.options, resumeSessionId });
    await rejects(late.connect(), ResumeExpiredError);
    server.closeAllConnections();
    server.close();
    await kit.stop();
  },
);
