/**
 * What passes as it was said: field names in their case, and all that a local server said before it
 * broke.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { exposing } from '../support/exposed.js';
import { answering, later, listen } from '../support/local.js';
import { FixtureKit } from '../support/kit.js';
import { TunnelSession } from '../../src/index.js';
import { Code } from '../../src/wire/code.js';
import { parseObject } from '../../src/wire/control.js';
import { FrameType } from '../../src/wire/frame.js';

/** An exposed port of a kit that grants `capabilities`. */
async function granting(
  port: number,
  capabilities: string[],
  body: (kit: FixtureKit) => Promise<void>,
): Promise<void> {
  const kit = await FixtureKit.start();
  kit.helloOk = { capabilities };
  const session = new TunnelSession({ url: kit.url });
  try {
    await session.connect();
    await session.bind({ mode: 'expose', containerPort: 3000, to: { host: '127.0.0.1', port } });
    await body(kit);
  } finally {
    await session.close({ graceMs: 0 });
    await kit.stop();
  }
}

/** What a server says in all, far above a window, before it breaks. */
const SAID = 300 * 1024;

const ANSWER =
  'HTTP/1.1 200 OK\r\nX-Hub-Signature-256: a\r\nset-Cookie: b\r\nContent-LENGTH: 0\r\n' +
  'Content-Length: 0\r\n\r\n';

test('field names travel as they were written, where the kit grants that', async () => {
  const local = await answering(ANSWER);
  const headers = [
    ['HOST', 'app.example'],
    ['X-Hub-Signature-256', 'sha256=1'],
    ['eTAG', '1'],
  ];
  await granting(local.port, ['header-case'], async (kit) => {
    const offered = parseObject(kit.hellos[0]!, 'HELLO')['capabilities'] as string[];
    assert.ok(offered.includes('header-case'));
    const head = await kit.session.get('/', { headers }).head();
    assert.deepEqual(head.headers, [
      ['X-Hub-Signature-256', 'a'],
      ['set-Cookie', 'b'],
      ['Content-LENGTH', '0'],
    ]);
    assert.deepEqual(local.heads[0]?.split('\r\n').slice(1), [
      `HOST: 127.0.0.1:${local.port}`,
      'X-Hub-Signature-256: sha256=1',
      'eTAG: 1',
    ]);
  });
  await granting(local.port, [], async (kit) => {
    const head = await kit.session.get('/', { headers }).head();
    assert.deepEqual(
      head.headers.map(([name]) => name),
      ['x-hub-signature-256', 'set-cookie', 'content-length'],
    );
  });
  await local.stop();
});

const CHUNKED = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Grpc-Status\r\n';

test('trailers of an answer come behind its last byte, where the kit takes them', async () => {
  for (const size of [0, 5, SAID]) {
    const piece = size === 0 ? '' : `${size.toString(16)}\r\n${'x'.repeat(size)}\r\n`;
    const fields = 'X-Sum: 1\r\ncontent-length: 5\r\nGrpc-Status: 0\r\n';
    const local = await answering(`${CHUNKED}\r\n${piece}0\r\n${fields}\r\n`);
    for (const capabilities of [['trailers', 'header-case'], ['trailers'], []]) {
      await granting(local.port, capabilities, async (kit) => {
        const stream = kit.session.get('/');
        assert.equal((await stream.text()).length, size);
        const lower = !capabilities.includes('header-case');
        const sum = lower ? 'x-sum' : 'X-Sum';
        const status = lower ? 'grpc-status' : 'Grpc-Status';
        const taken = capabilities.includes('trailers');
        const told = [
          [sum, '1'],
          [status, '0'],
        ];
        assert.deepEqual(stream.trailers, taken ? [[size, told]] : []);
        const names = (await stream.head()).headers.map(([name]) => name.toLowerCase());
        assert.equal(names.includes('trailer'), taken);
      });
    }
    // Connections are used again behind them.
    await local.stop();
  }
});

test('trailers of a request come behind its last byte', async () => {
  for (const [body, text] of [
    ['', '0\r\nX-Sum: 1\r\n\r\n'],
    ['hello', '5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n'],
  ] as const) {
    let got = '';
    const local = await listen((socket) => {
      socket.on('data', (chunk) => {
        got += chunk.toString();
        if (got.endsWith('\r\n\r\n') && got.includes('0\r\nX-Sum')) {
          socket.write('HTTP/1.1 204 No Content\r\n\r\n');
        }
      });
    });
    await granting(local.port, ['trailers'], async (kit) => {
      const headers = [
        ['host', 'a'],
        ['trailer', 'X-Sum'],
        ['te', 'trailers'],
      ];
      const stream = kit.session.request('POST', '/', { headers, body: 'chunked' });
      if (body !== '') stream.send(Buffer.from(body));
      kit.session.json(FrameType.StreamTrailers, { headers: [['X-Sum', '1']] }, stream.id);
      kit.session.json(FrameType.StreamTrailers, { headers: [['X-Sum', '2']] }, stream.id);
      stream.end();
      assert.equal((await stream.head()).status, 204);
      const [head = '', ...rest] = got.split('\r\n\r\n');
      assert.equal(rest.join('\r\n\r\n'), text);
      assert.match(head, /\r\ntrailer: X-Sum\r\nte: trailers\r\nconnection: TE$/);
      // A bad one costs its stream, and no more.
      const bad = kit.session.request('POST', '/', { headers, body: 'chunked' });
      kit.session.json(FrameType.StreamTrailers, { headers: [['a', 'b\r\nc: d']] }, bad.id);
      await bad.until(() => bad.reset !== undefined);
      assert.equal(bad.reset!.code, Code.ProtocolError);
    });
    await local.stop();
  }
});

const SWITCH = 'HTTP/1.1 101 Switching Protocols\r\n';

test('a 101 is an upgrade only where Connection says so', async () => {
  for (const [fields, status] of [
    ['Upgrade: websocket\r\n', 502],
    ['Upgrade: websocket\r\nConnection: close\r\n', 502],
    ['Upgrade: websocket\r\nConnection: upgraded\r\n', 502],
    ['Connection: Upgrade\r\n', 502],
    ['Upgrade: WebSocket\r\nconnection: keep-alive, UPGRADE\r\n', 101],
  ] as const) {
    const local = await answering(`${SWITCH}${fields}\r\n`);
    await granting(local.port, ['header-case'], async (kit) => {
      const headers = [
        ['Connection', 'Upgrade'],
        ['UPGRADE', 'websocket'],
      ];
      const stream = kit.session.get('/', { headers, isUpgrade: true });
      const head = await stream.head();
      assert.equal(head.status, status, fields);
      assert.ok(local.heads[0]?.endsWith('\r\nConnection: Upgrade\r\nUPGRADE: websocket'));
      if (status === 101) {
        assert.deepEqual(head.headers, [
          ['connection', 'Upgrade'],
          ['Upgrade', 'websocket'],
        ]);
      }
      stream.abort(Code.Cancel);
    });
    await local.stop();
  }
});

/** Servers that break, by how their visitors see them; each has said `SAID` bytes. */
const BREAKING = {
  'a body by length': 'HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n',
  'a chunked body': 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n900000\r\n',
  'a socket': `${SWITCH}Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n`,
};

for (const [what, head] of Object.entries(BREAKING)) {
  test(`what a server said before it broke reaches a visitor who reads slowly: ${what}`, async () => {
    const isUpgrade = what === 'a socket';
    const local = await listen((socket) => {
      socket.once('data', () => {
        socket.write(head + 'x'.repeat(SAID));
        if (!isUpgrade) socket.end();
      });
    });
    const config = { streamWindow: 262_144, manualCredit: true };
    await exposing(
      local.port,
      async ({ kit }) => {
        const stream = kit.session.get('/', { isUpgrade });
        await stream.until(() => stream.received === 262_144);
        // All of it has left the server by now, whose end is no end of the bytes on their way.
        await later(50);
        for (const socket of local.open) if (isUpgrade) socket.resetAndDestroy();
        await later(50);
        assert.equal(stream.reset, undefined, 'it waits for what was said');
        stream.giveBack(262_144);
        await stream.until(() => stream.reset !== undefined);
        assert.equal(stream.received, SAID);
        assert.equal(stream.ended, false);
        assert.equal(stream.reset!.code, Code.Cancel);
      },
      { kit: config },
    );
    await local.stop();
  });
}
