/**
 * The ways to name a local server, and what becomes of a request on its way there.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import type { AddressInfo, Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { OptionsError, type BindOptions } from '../../src/index.js';
import { rejects } from '../support/assert.js';
import { exposing } from '../support/exposed.js';
import type { FixtureKit } from '../support/kit.js';
import { listen } from '../support/local.js';

const dir = mkdtempSync(join(tmpdir(), 'hoody-targets-'));
after(() => rmSync(dir, { recursive: true }));

/** Says what it was asked. */
const say: http.RequestListener = (request, response) => {
  const { url, method, headers } = request;
  let bytes = 0;
  request.on('data', (chunk: Buffer) => (bytes += chunk.length));
  request.on('end', () => {
    response.setHeader('Location', `http://${headers.host ?? ''}/shop/next`);
    response.end(JSON.stringify({ url, method, headers, bytes }));
  });
};

async function listening(server: Server, where: string | number, host?: string): Promise<number> {
  if (typeof where === 'string') server.listen(where);
  else server.listen(where, host);
  await once(server, 'listening');
  return (server.address() as AddressInfo | null)?.port ?? 0;
}

async function stop(server: http.Server): Promise<void> {
  server.closeAllConnections();
  server.close();
  await once(server, 'close');
}

interface Said {
  url: string;
  headers: Record<string, string>;
  bytes: number;
}

async function asked(kit: FixtureKit, target = '/', more: object = {}): Promise<Said> {
  const stream = kit.session.get(target, more);
  const text = await stream.text();
  assert.equal((await stream.head()).status, 200, text);
  return JSON.parse(text) as Said;
}

async function refused(kit: FixtureKit, target = '/'): Promise<[number, string]> {
  const stream = kit.session.get(target);
  const text = await stream.text();
  return [(await stream.head()).status, text];
}

/** Exposes a target, and nothing else. */
function exposed(
  bind: Partial<BindOptions>,
  body: (kit: FixtureKit) => Promise<void>,
): Promise<void> {
  return exposing(undefined, ({ kit }) => body(kit), { bind });
}

test('a Unix socket is exposed, goes away, and comes back', async () => {
  const path = join(dir, 'app.sock');
  for (const to of [`unix:${path}`, { socketPath: path }]) {
    let server = http.createServer(say);
    await listening(server, path);
    await exposed({ to }, async (kit) => {
      const said = await asked(kit, '/a?b');
      assert.deepEqual([said.url, said.headers['host']], ['/a?b', 'localhost']);
      await stop(server);
      const [status, text] = await refused(kit);
      assert.equal(status, 502);
      assert.match(text, /app\.sock \((ENOENT|ECONNREFUSED)\)/);
      server = http.createServer(say);
      await listening(server, path);
      assert.equal((await asked(kit)).url, '/');
    });
    await stop(server);
  }
});

test('a path of a server is exposed, and nothing beside it', async () => {
  const server = http.createServer(say);
  const port = await listening(server, 0, '127.0.0.1');
  await exposed({ to: `http://localhost:${port}/shop` }, async (kit) => {
    const headers = [
      ['host', 'app.example'],
      ['referer', 'http://app.example/a'],
    ];
    const said = await asked(kit, '/a?b=/..', { headers });
    assert.equal(said.url, '/shop/a?b=/..');
    assert.equal(said.headers['referer'], `http://localhost:${port}/shop/a`);
    const stream = kit.session.get('/', { headers });
    const fields = new Map((await stream.head()).headers);
    assert.equal(fields.get('location'), 'http://app.example/next');
    for (const target of ['/../admin', '/%2e%2e/admin', '/..%2fadmin', '/..;/admin']) {
      assert.equal((await refused(kit, target))[0], 400, target);
    }
  });
  await stop(server);
});

test('a port alone, and none at all, are those of localhost on either family', async () => {
  for (const host of ['127.0.0.1', '::1']) {
    const server = http.createServer(say);
    const port = await listening(server, 0, host);
    for (const to of [port, String(port), `:${port}`, `localhost:${port}`]) {
      await exposed({ to }, async (kit) => {
        assert.equal((await asked(kit)).headers['host'], `localhost:${port}`);
      });
    }
    await exposed({ containerPort: port }, async (kit) => {
      assert.equal((await asked(kit)).headers['host'], `localhost:${port}`);
    });
    await exposed({ containerPort: null, to: port }, async (kit) => {
      assert.equal((await asked(kit)).url, '/');
    });
    await stop(server);
  }
});

test('fields of ours take the place of the visitor’s, and others stay', async () => {
  const server = http.createServer(say);
  const port = await listening(server, 0, '127.0.0.1');
  const headers = { 'X-Api-Key': 'k', Accept: 'text/plain' };
  await exposed({ to: port, headers }, async (kit) => {
    const sent = [
      ['host', 'a'],
      ['x-api-key', 'forged'],
      ['ACCEPT', '*/*'],
      ['x-more', '1'],
    ];
    const { headers: got } = await asked(kit, '/', { headers: sent });
    assert.deepEqual([got['x-api-key'], got['accept'], got['x-more']], ['k', 'text/plain', '1']);
    // A TRACE shows them to nobody.
    const stream = kit.session.request('TRACE', '/', { headers: sent, body: 'none' });
    const { headers: echoed } = JSON.parse(await stream.text()) as Said;
    assert.deepEqual([echoed['x-api-key'], echoed['x-more']], [undefined, '1']);
  });
  await stop(server);
});

/** A certificate and its key, signed by itself. */
function certificate(name: string): { cert: string; key: string } {
  const [key, cert] = [join(dir, `${name}.key`), join(dir, `${name}.crt`)];
  const subject = ['-subj', `/CN=${name}`, '-addext', `subjectAltName=DNS:${name}`];
  const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'];
  const files = ['-keyout', key, '-out', cert];
  execFileSync('openssl', ['req', '-x509', ...kind, ...subject, ...files], { stdio: 'ignore' });
  return { cert: readFileSync(cert, 'utf8'), key: readFileSync(key, 'utf8') };
}

test('a server behind TLS is trusted on this machine, or by its authority, or not', async () => {
  const [own, other] = [certificate('localhost'), certificate('other.example')];
  const server = https.createServer(own, say);
  const port = await listening(server, 0, '127.0.0.1');
  const to = `https://localhost:${port}`;
  const big = Buffer.alloc(3_000_000, 'x');
  for (const bind of [
    {},
    { upstreamCa: own.cert },
    { upstreamCa: [Buffer.from(own.cert)] },
    { upstreamInsecure: true },
  ]) {
    await exposed({ to, ...bind }, async (kit) => {
      const headers = [
        ['host', 'app.example'],
        ['content-length', String(big.length)],
      ];
      const body = 'length';
      const stream = kit.session.request('PUT', '/put', { headers, body });
      await stream.pour(big);
      stream.end();
      const said = JSON.parse(await stream.text()) as Said;
      assert.deepEqual([said.bytes, said.headers['host']], [big.length, `localhost:${port}`]);
      // Over the same connection.
      assert.equal((await asked(kit, '/again')).url, '/again');
    });
  }
  await exposed({ to, upstreamCa: other.cert }, async (kit) => {
    const [status, text] = await refused(kit);
    assert.equal(status, 502);
    assert.match(text, /certificate is not trusted \([A-Z_]+\): give upstreamCa/);
  });
  await exposed({ to, upstreamCa: other.cert, upstreamInsecure: true }, async (kit) => {
    assert.equal((await asked(kit)).url, '/');
  });
  await stop(server);
});

test('whoever named a server with the wrong scheme is told', async () => {
  const plain = http.createServer(say);
  const port = await listening(plain, 0, '127.0.0.1');
  await exposed({ to: `https://127.0.0.1:${port}` }, async (kit) => {
    const [status, text] = await refused(kit);
    assert.equal(status, 502);
    assert.match(text, /this server does not speak TLS: expose http:/);
  });
  await stop(plain);
  const secure = https.createServer(certificate('localhost'), say);
  const securePort = await listening(secure, 0, '127.0.0.1');
  await exposed({ to: securePort }, async (kit) => {
    const [status, text] = await refused(kit);
    assert.equal(status, 502);
    assert.match(text, /If it speaks TLS, expose https:/);
  });
  await stop(secure);
});

test('an answer that is TLS is told for what it is', async () => {
  for (const record of ['15030300020228', '160303007a0200']) {
    const local = await listen((socket) => {
      socket.once('data', () => socket.write(Buffer.from(record, 'hex')));
    });
    await exposed({ to: local.port }, async (kit) => {
      const [status, text] = await refused(kit);
      assert.equal(status, 502);
      assert.match(text, /speaks TLS: expose https:/);
    });
    await local.stop();
  }
});

test('odd targets and fields are refused before anything is bound', async () => {
  await exposing(3000, async ({ session }) => {
    const refusals: [object, RegExp][] = [
      [{ to: 'http://user:hunter2@h:1' }, /no user and no password/],
      [{ to: '' }, /is not a target/],
      [{ to: {} }, /to\.host/],
      [{ to: { host: 'a', port: 1, path: '/' } }, /path is no option of to/],
      [{ to: { socketPath: '/a', port: 1 } }, /either a socketPath or/],
      [{ to: 3000, upstreamInsecure: true }, /for https targets alone/],
      [{ to: 'https://h:1', upstreamCa: 'ca.pem' }, /upstreamCa must be certificates/],
      [{ to: 3000, headers: { Host: 'a' } }, /headers: Host belongs to the message/],
      [{ to: 3000, headers: { Connection: 'close' } }, /belongs to the message/],
      [{ to: 3000, headers: { a: 'b\r\nc: d' } }, /no header field/],
    ];
    for (const [bind, why] of refusals) {
      const options = { mode: 'expose', containerPort: 0, ...bind } as BindOptions;
      const error = await rejects(session.bind(options), OptionsError);
      assert.match(error.message, why);
      assert.doesNotMatch(error.message, /hunter2/);
    }
    const pull = { mode: 'pull', containerPort: 0, to: 'http://h:1/a' } as const;
    await assert.rejects(session.bind(pull), /a path and https: are for HTTP/);
  });
});
