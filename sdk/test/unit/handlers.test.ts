/**
 * What handlers are told, what becomes of what they throw, and what is said of their bodies.
 */
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { brotliCompressSync, deflateSync, gzipSync } from 'node:zlib';
import { tunnel } from '../../src/index.js';
import { FixtureKit } from '../support/kit.js';
import { later, until } from '../support/local.js';
import { printing, serving } from '../support/serving.js';

test('a handler is told who asks, and at which binding', async () => {
  await serving(
    (_request, { remoteAddr, binding }) => {
      return Response.json([remoteAddr, binding.containerPort, binding.bindId]);
    },
    async (kit) => {
      const stream = kit.session.get('/', { remoteAddr: '203.0.113.9:51234' });
      assert.deepEqual(JSON.parse(await stream.text()), ['203.0.113.9:51234', 3000, 1]);
    },
  );
});

/** The answer to a request, with the values of its Content-Length. */
async function answer(kit: FixtureKit, method = 'GET') {
  const stream = kit.session.request(method, '/', { headers: [], body: 'none' });
  stream.end();
  const { status, headers } = await stream.head();
  const lengths = headers.filter(([name]) => name === 'content-length').map(([, value]) => value);
  return { status, headers, lengths, text: await stream.text() };
}

test('bodies that are there at once have a Content-Length, for HEAD too', async () => {
  const octets = new TextEncoder().encode('h\u00e9llo');
  const text = 'x'.repeat(300_000);
  const bodies: [() => ConstructorParameters<typeof Response>[0], number][] = [
    [() => 'h\u00e9llo', 6],
    [() => octets, 6],
    [() => new URLSearchParams({ a: 'b' }), 3],
    [() => text, 300_000],
    [() => '', 0],
  ];
  for (const [body, length] of bodies) {
    await serving(
      () => new Response(body()),
      async (kit) => {
        const got = await answer(kit);
        assert.deepEqual(got.lengths, [String(length)]);
        assert.equal(Buffer.byteLength(got.text), length);
        const head = await answer(kit, 'HEAD');
        assert.deepEqual([head.lengths, head.text], [[String(length)], '']);
      },
    );
  }
  // Nothing at all is nothing, unless that is what was asked for.
  await serving(
    () => new Response(null),
    async (kit) => {
      assert.deepEqual((await answer(kit)).lengths, ['0']);
      assert.deepEqual((await answer(kit, 'HEAD')).lengths, []);
    },
  );
  for (const status of [204, 304]) {
    await serving(
      () => new Response(null, { status }),
      async (kit) => assert.deepEqual((await answer(kit)).lengths, []),
    );
  }
});

test('a body that is made bit by bit has none, and its head and its first bytes do not wait', async () => {
  let go: (() => void) | undefined;
  let cancelled = 0;
  const streamed = (first: boolean): Response =>
    new Response(
      new ReadableStream({
        start(controller) {
          if (first) controller.enqueue(new TextEncoder().encode('one '));
          go = () => {
            controller.enqueue(new TextEncoder().encode('two'));
            controller.close();
          };
        },
        cancel: () => void (cancelled += 1),
      }),
    );
  for (const first of [true, false]) {
    await serving(
      () => streamed(first),
      async (kit) => {
        const stream = kit.session.get('/');
        const { headers } = await stream.head();
        assert.ok(!headers.some(([name]) => name === 'content-length'));
        if (first) await stream.until(() => stream.received === 4);
        go?.();
        assert.equal(await stream.text(), first ? 'one two' : 'two');
        assert.deepEqual((await answer(kit, 'HEAD')).lengths, []);
      },
    );
  }
  assert.equal(cancelled, 2);
});

test('what fetch has decoded is not called encoded any more', async () => {
  const text = 'hello '.repeat(1000);
  const coded: Record<string, Buffer> = {
    gzip: gzipSync(text),
    deflate: deflateSync(text),
    br: brotliCompressSync(text),
    'x-unknown': Buffer.from('as it is'),
  };
  const server = createServer((request, response) => {
    const coding = request.url!.slice(1);
    const body = coded[coding]!;
    response.writeHead(200, {
      'content-encoding': coding,
      'content-length': body.length,
      etag: '"1"',
    });
    response.end(request.method === 'HEAD' ? undefined : body);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  for (const coding of Object.keys(coded)) {
    const known = coding !== 'x-unknown';
    await serving(
      ({ method }) => fetch(`http://127.0.0.1:${port}/${coding}`, { method }),
      async (kit) => {
        const got = await answer(kit);
        assert.equal(got.text, known ? text : 'as it is');
        const of = (wanted: string) => got.headers.find(([name]) => name === wanted)?.[1];
        assert.equal(of('content-encoding'), known ? undefined : coding);
        assert.equal(of('etag'), '"1"');
        assert.ok(got.lengths.every((length) => Number(length) === got.text.length));
        const head = await answer(kit, 'HEAD');
        assert.deepEqual(head.lengths, known ? [] : ['8']);
      },
    );
  }
  server.closeAllConnections();
  server.close();
});

test('what a handler throws is told to onError, which may answer', async () => {
  const told: unknown[] = [];
  const cause = new Error('the reason');
  const kit = await FixtureKit.start();
  await using s = await tunnel.serve({
    url: kit.url,
    containerPort: 3000,
    fetch({ url }) {
      if (url.endsWith('/body')) {
        const body = new ReadableStream({
          pull: (it) => it.error(new Error('no body', { cause })),
        });
        return new Response(body);
      }
      if (url.endsWith('/late')) return new Response(brokenLater());
      throw new Error('broken', { cause });
    },
    onError(error, request) {
      told.push([(error as Error).message, (error as Error).cause, new URL(request.url).pathname]);
      if (request.url.endsWith('/silent')) return undefined;
      if (request.url.endsWith('/throws')) throw new Error('worse');
      return Response.json({ error: (error as Error).message }, { status: 418 });
    },
  });
  const printed = await printing(async () => {
    for (const path of ['/', '/body']) {
      const stream = kit.session.get(path);
      assert.equal((await stream.head()).status, 418, path);
      assert.match(await stream.text(), path === '/' ? /broken/ : /no body/);
    }
    assert.equal((await kit.session.get('/silent').head()).status, 500);
    const late = kit.session.get('/late');
    assert.equal((await late.head()).status, 200);
    await late.until(() => late.reset !== undefined);
  });
  assert.equal(printed, '');
  assert.deepEqual(told, [
    ['broken', cause, '/'],
    ['no body', cause, '/body'],
    ['broken', cause, '/silent'],
    ['too late', undefined, '/late'],
  ]);
  const worse = await printing(async () => {
    assert.equal((await kit.session.get('/throws').head()).status, 500);
  });
  assert.match(worse, /GET .*\/throws.*Error: worse/s);
  await s.close();
  await kit.stop();
});

test('what a handler throws is printed with its stack and its cause where nobody is told', async () => {
  const printed = await printing(() =>
    serving(
      function broken() {
        throw new Error('broken', { cause: new Error('the reason') });
      },
      async (kit) => assert.equal((await answer(kit)).status, 500),
    ),
  );
  assert.match(printed, /GET .*Error: broken.*at broken.*the reason/s);
  // Who left is nobody's mistake.
  let asked = false;
  let aborted = false;
  const nothing = await printing(() =>
    serving(
      ({ signal }) =>
        new Promise((_resolve, reject) => {
          asked = true;
          signal.addEventListener('abort', () => {
            aborted = true;
            reject(signal.reason as Error);
          });
        }),
      async (kit) => {
        const stream = kit.session.get('/');
        await until(() => asked);
        stream.abort(7, '');
        await until(() => aborted);
      },
    ),
  );
  assert.equal(nothing, '');
});

function brokenLater(): ReadableStream<Uint8Array> {
  let pulled = 0;
  return new ReadableStream({
    async pull(controller) {
      if (pulled++ > 0) await later(5);
      if (pulled < 3) controller.enqueue(new Uint8Array(3));
      else controller.error(new Error('too late'));
    },
  });
}
