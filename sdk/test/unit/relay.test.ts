import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TunnelSession, type BindOptions } from '../../src/index.js';
import { FixtureKit, type KitStream } from '../support/kit.js';
import { freePort, listen, until, type LocalServer } from '../support/local.js';
import type net from 'node:net';

async function pulled(
  serve: (socket: net.Socket) => void,
  body: (call: () => KitStream, local: LocalServer) => Promise<void>,
  options: Partial<BindOptions> = {},
): Promise<void> {
  const kit = await FixtureKit.start();
  const local = await listen(serve);
  const session = new TunnelSession({ url: kit.url });
  try {
    await session.connect();
    const to = { host: '127.0.0.1', port: local.port };
    await session.bind({ mode: 'pull', containerPort: 0, to, ...options });
    await body(() => kit.session.caller(), local);
  } finally {
    await session.close();
    await local.stop();
    await kit.stop();
  }
}

test('a FIN from the caller leaves the answer its way', async () => {
  await pulled(
    (socket) => {
      let seen = '';
      socket.on('data', (chunk) => (seen += chunk.toString()));
      socket.on('end', () => socket.end(`got ${seen}`));
    },
    async (call) => {
      const stream = call();
      stream.send(Buffer.from('question'));
      stream.end();
      assert.equal(await stream.text(), 'got question');
    },
  );
});

test('a FIN from the server leaves the caller its way', async () => {
  let seen = '';
  await pulled(
    (socket) => {
      socket.end('banner');
      socket.on('data', (chunk) => (seen += chunk.toString()));
    },
    async (call, local) => {
      const stream = call();
      assert.equal(await stream.text(), 'banner');
      stream.send(Buffer.from('still here'));
      await until(() => seen === 'still here');
      stream.end();
      await until(() => local.open.size === 0);
    },
  );
});

test('a RESET becomes RST, and RST a RESET', async () => {
  let code = '';
  await pulled(
    (socket) => {
      socket.on('error', (error: NodeJS.ErrnoException) => (code = error.code ?? ''));
      socket.on('data', (chunk) => {
        if (chunk.toString() === 'die') socket.resetAndDestroy();
      });
    },
    async (call, local) => {
      const first = call();
      first.send(Buffer.from('x'));
      await until(() => local.open.size === 1);
      first.abort(7, 'gone');
      await until(() => code === 'ECONNRESET');
      const second = call();
      second.send(Buffer.from('die'));
      await until(() => second.reset !== undefined);
      assert.equal(second.ended, false);
    },
  );
});

test('a server that is not there resets the caller', async () => {
  const kit = await FixtureKit.start();
  const session = new TunnelSession({ url: kit.url });
  await session.connect();
  const port = await freePort();
  await session.bind({ mode: 'pull', containerPort: 0, to: { host: '127.0.0.1', port } });
  const stream = kit.session.caller();
  stream.send(Buffer.from('hello?'));
  await until(() => stream.reset !== undefined);
  assert.match(stream.reset?.reason ?? '', /ECONNREFUSED/);
  await session.close();
  await kit.stop();
});

test('sixty-four megabytes come back in order', async () => {
  await pulled(
    (socket) => socket.pipe(socket),
    async (call) => {
      const bytes = Buffer.alloc(64 * 1024 * 1024);
      for (let at = 0; at < bytes.length; at += 4) bytes.writeUInt32BE(at, at);
      const stream = call();
      await stream.pour(bytes);
      stream.end();
      assert.ok((await stream.body()).equals(bytes));
    },
  );
});

test('a server is told who is calling ahead of the first byte', async () => {
  for (const proxyProtocol of [1, 2] as const) {
    let seen = Buffer.alloc(0);
    await pulled(
      (socket) => {
        socket.on('data', (chunk) => (seen = Buffer.concat([seen, chunk])));
        socket.on('end', () => socket.end('bye'));
      },
      async (call) => {
        const stream = call();
        // It comes before the connection to the server stands.
        stream.send(Buffer.from('question'));
        stream.end();
        assert.equal(await stream.text(), 'bye');
      },
      { proxyProtocol },
    );
    const end = seen.length - 'question'.length;
    assert.equal(seen.subarray(end).toString(), 'question');
    const text = seen.subarray(0, end).toString('latin1');
    assert.match(text, proxyProtocol === 1 ? /^PROXY .*\r\n$/ : /^\r\n\r\n\0\r\nQUIT\n/);
  }
});
