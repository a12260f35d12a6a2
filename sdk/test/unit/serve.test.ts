import assert from 'node:assert/strict';
import { test } from 'node:test';
import { tunnel, type Tunnel } from '../../src/index.js';
import { encodeFrame, FrameType } from '../../src/wire/frame.js';
import { FixtureKit } from '../support/kit.js';
import type { MuxStream } from '../../src/mux/stream.js';
import { later, until } from '../support/local.js';
import { rejects } from '../support/assert.js';
import { printing, serving } from '../support/serving.js';

test('a handler gets a standard Request and answers with a Response', async () => {
  await serving(
    async (request) => {
      const url = new URL(request.url);
      assert.ok(request instanceof Request);
      return Response.json(
        {
          method: request.method,
          host: url.host,
          path: url.pathname + url.search,
          header: request.headers.get('x-a'),
          body: await request.text(),
        },
        {
          status: 201,
          headers: [
            ['set-cookie', 'a=1'],
            ['set-cookie', 'b=2'],
          ],
        },
      );
    },
    async (kit) => {
      const headers = [
        ['host', 'app.example'],
        ['x-a', '\u00e9'],
        ['content-length', '4'],
      ];
      const stream = kit.session.request('POST', '/p?q=1', { body: 'length', headers });
      stream.send(Buffer.from('body'));
      stream.end();
      assert.deepEqual(JSON.parse(await stream.text()), {
        method: 'POST',
        host: 'app.example',
        path: '/p?q=1',
        header: '\u00e9',
        body: 'body',
      });
      const head = await stream.head();
      assert.equal(head.status, 201);
      const cookies = head.headers.filter(([name]) => name === 'set-cookie');
      assert.deepEqual(
        cookies.map(([, value]) => value),
        ['a=1', 'b=2'],
      );
    },
  );
});

test('the url falls back to the host of the kit', async () => {
  const kit = await FixtureKit.start();
  await using s = await tunnel.serve({
    url: kit.url,
    containerPort: 3000,
    fetch() {
      return new Response('Hello');
    },
  });
  assert.equal(s.url, 'http://127.0.0.1:3000');
  assert.equal(await kit.session.get('/').text(), 'Hello');
  await s.close();
  await kit.stop();
});

test('bodies stream both ways with back-pressure', async () => {
  await serving(
    (request) => new Response(request.body),
    async (kit) => {
      const bytes = Buffer.alloc(8 * 1024 * 1024, 'x');
      const stream = kit.session.request('POST', '/', { body: 'chunked', headers: [] });
      await stream.pour(bytes);
      stream.end();
      assert.equal((await stream.body()).length, bytes.length);
    },
  );
});

test('a body that the handler does not read gets no credit back', async () => {
  let release: (() => void) | undefined;
  await serving(
    async () => {
      await new Promise<void>((resolve) => {
        release = resolve;
      });
      return new Response('late');
    },
    async (kit) => {
      const stream = kit.session.request('POST', '/', { body: 'chunked', headers: [] });
      const pouring = stream.pour(Buffer.alloc(2 * 1024 * 1024));
      await later(100);
      assert.equal(stream.windows, 0);
      release?.();
      assert.equal(await stream.text(), 'late');
      await pouring;
      stream.end();
    },
  );
});

const streamsOf = ({ session }: Tunnel): MuxStream[] => [
  ...(session['link']?.mux['streams'].values() ?? []),
];

test('a body that the handler has read counts as taken while the handler still works', async () => {
  const kit = await FixtureKit.start();
  const read: number[] = [];
  let release: () => void = () => undefined;
  const released = new Promise<void>((resolve) => (release = resolve));
  const fetch = async (request: Request): Promise<Response> => {
    // The body has come whole before anybody reads it.
    await until(() => streamsOf(s).every((stream) => stream['remoteEnded']));
    read.push((await request.arrayBuffer()).byteLength);
    await released;
    return new Response('done');
  };
  await using s = await tunnel.serve({ url: kit.url, containerPort: 3000, fetch });
  const apart = kit.session.request('POST', '/', { body: 'chunked', headers: [] });
  apart.send(Buffer.alloc(900_000));
  apart.end();
  const together = kit.session.request('POST', '/', { body: 'chunked', headers: [] });
  const part = encodeFrame(FrameType.Data, together.id, Buffer.alloc(50_000));
  const end = encodeFrame(FrameType.Eof, together.id, Buffer.alloc(0));
  kit.session.raw(Buffer.concat([part, part, part, end]));
  await until(() => read.length === 2);
  assert.deepEqual(read.sort(), [150_000, 900_000]);
  const held = streamsOf(s).map((stream) => stream.held);
  assert.deepEqual(held, [0, 0]);
  release();
  for (const stream of [apart, together]) assert.equal(await stream.text(), 'done');
  await s.close();
  await kit.stop();
});

test('credit goes back for each chunk that the handler takes', async () => {
  let next: () => void = () => undefined;
  let taken = 0;
  await serving(
    async (request) => {
      for await (const chunk of request.body ?? []) {
        assert.ok((chunk as Uint8Array).length > 0);
        taken += 1;
        await new Promise<void>((resolve) => (next = resolve));
      }
      return new Response('all');
    },
    async (kit) => {
      const stream = kit.session.request('POST', '/', { body: 'chunked', headers: [] });
      stream.send(Buffer.alloc(4 * 65_536));
      await until(() => taken === 1);
      assert.equal(stream.windows, 0);
      next();
      // An eighth of the window is gathered: the second of the four chunks makes it full.
      await stream.until(() => stream.windows === 1);
      stream.end();
      const answered = stream.text();
      const going = setInterval(() => next(), 5);
      assert.equal(await answered, 'all');
      clearInterval(going);
    },
  );
});

test('a handler that is ahead of its visitor waits', async () => {
  let pulled = 0;
  await serving(
    () =>
      new Response(
        new ReadableStream<Uint8Array>(
          {
            pull(controller) {
              pulled += 65_536;
              controller.enqueue(new Uint8Array(65_536));
            },
          },
          { highWaterMark: 0 },
        ),
      ),
    async (kit) => {
      const stream = kit.session.get('/');
      await until(() => stream.received === 1_048_576);
      await later(50);
      assert.ok(pulled <= 1_048_576 + 2 * 65_536, String(pulled));
      stream.abort(7);
    },
    { manualCredit: true },
  );
});

test('the signal is aborted when the visitor leaves, and the answer is cancelled', async () => {
  let aborted = false;
  let cancelled = false;
  await serving(
    (request) => {
      request.signal.addEventListener('abort', () => (aborted = true));
      return new Response(
        new ReadableStream<Uint8Array>({
          start: (controller) => controller.enqueue(new Uint8Array(3)),
          cancel: () => void (cancelled = true),
        }),
      );
    },
    async (kit) => {
      const stream = kit.session.get('/');
      await until(() => stream.received === 3);
      stream.abort(7, 'left');
      await until(() => aborted && cancelled);
    },
  );
});

test('a handler that throws gives 500 and says nothing of why', async () => {
  await serving(
    () => {
      throw new Error('secret');
    },
    async (kit) => {
      const stream = kit.session.get('/');
      assert.equal((await stream.text()).includes('secret'), false);
      assert.equal((await stream.head()).status, 500);
    },
  );
});

test('a WebSocket upgrade is refused with 501', async () => {
  await serving(
    () => new Response('never'),
    async (kit) => {
      const stream = kit.session.request('GET', '/', { isUpgrade: true });
      stream.end();
      assert.equal((await stream.head()).status, 501);
    },
  );
});

test('a body that fails, or lies about its length, resets the stream', async () => {
  await serving(
    (request) => {
      const headers = { 'content-length': '10' };
      if (request.url.endsWith('/short')) return new Response('abc', { headers });
      if (request.url.endsWith('/long')) return new Response('abcdefghijkl', { headers });
      return new Response(
        new ReadableStream({
          start: (controller) => controller.error(new Error('broken')),
        }),
      );
    },
    async (kit) => {
      await printing(async () => {
        for (const path of ['/short', '/long']) {
          await rejects(kit.session.get(path).body(), Error);
        }
        // Nothing of it has gone.
        assert.equal((await kit.session.get('/broken').head()).status, 500);
      });
    },
  );
});

/** A response whose stream enqueues `chunk` as it is. */
function streaming(chunk: unknown): Response {
  const source = new ReadableStream<unknown>({
    start(controller) {
      controller.enqueue(chunk);
      controller.close();
    },
  });
  return new Response(source as ReadableStream<Uint8Array>);
}

test('a chunk that is no octets breaks its own exchange and no other', async () => {
  const chunks: unknown[] = [{}, 5, 'text '.repeat(12_000), null, [1, 2]];
  await serving(
    (request) => {
      const { pathname } = new URL(request.url);
      return pathname === '/good' ? new Response('hello') : streaming(chunks[+pathname.slice(1)]);
    },
    async (kit) => {
      const errors = await printing(async () => {
        for (let round = 0; round < 400; round += 1) {
          const stream = kit.session.get(`/${round % chunks.length}`);
          assert.equal((await stream.head()).status, 500);
        }
      });
      assert.equal(errors.split('must be octets').length, 401);
      assert.equal(await kit.session.get('/good').text(), 'hello');
    },
  );
});

test('every kind of buffer in a body is sent octet for octet', async () => {
  const memory = Uint8Array.from([0, 65, 66, 67, 68, 0]).buffer;
  const shared = new Uint8Array(new SharedArrayBuffer(4));
  shared.set([65, 66, 67, 68]);
  const chunks = [
    new Uint8Array(memory, 1, 4),
    new DataView(memory, 1, 4),
    memory.slice(1, 5),
    shared,
    shared.buffer,
    new Uint16Array(memory.slice(1, 5)),
    new Float32Array(memory.slice(1, 5)),
    Buffer.from('ABCD'),
  ];
  await serving(
    (request) => streaming(chunks[+new URL(request.url).pathname.slice(1)]),
    async (kit) => {
      for (const at of chunks.keys()) {
        assert.equal(await kit.session.get(`/${at}`).text(), 'ABCD', String(at));
      }
    },
  );
});

test('a response that was used before, or that another reads, is a 500 and not a cut body', async () => {
  const used = new Response('cached');
  const locked = new Response('locked');
  locked.body?.getReader();
  await serving(
    (request) => (request.url.endsWith('/used') ? used : locked),
    async (kit) => {
      assert.equal(await kit.session.get('/used').text(), 'cached');
      for (const path of ['/used', '/locked']) {
        assert.equal((await kit.session.get(path).head()).status, 500, path);
      }
    },
  );
});

test('a response that is no answer is a 502, and the request event says why', async () => {
  const kit = await FixtureKit.start();
  const fetch = (request: Request): Response => {
    if (request.url.endsWith('/error')) return Response.error();
    // What another library's Response may be; the runtimes' own refuse the status.
    return Object.defineProperty(new Response(null), 'status', { value: 199 });
  };
  await using s = await tunnel.serve({ url: kit.url, containerPort: 3000, fetch });
  const told: string[] = [];
  s.addEventListener('request', ({ detail }) => told.push(`${detail.status} ${detail.error}`));
  for (const path of ['/error', '/interim']) {
    assert.equal((await kit.session.get(path).head()).status, 502, path);
  }
  await until(() => told.length === 2);
  assert.match(told[0] ?? '', /^502 .*status 0/);
  assert.match(told[1] ?? '', /^502 .*status 199/);
  await s.close();
  await kit.stop();
});

test('whoever makes a body is told when it is given up', async () => {
  const cancelled: string[] = [];
  await serving(
    (request) => {
      const { pathname } = new URL(request.url);
      const headers = { 'content-length': pathname === '/field' ? '+3' : '3' };
      const source = new ReadableStream<Uint8Array>({
        pull: (controller) => controller.enqueue(new Uint8Array(10)),
        cancel: () => void cancelled.push(pathname),
      });
      return new Response(source, { headers });
    },
    async (kit) => {
      await rejects(kit.session.get('/long').body(), Error);
      assert.equal((await kit.session.get('/field').head()).status, 500);
      await until(() => cancelled.length === 2);
    },
  );
});

test('a visitor that waits to be asked for its body is asked when the handler reads it', async () => {
  await serving(
    async (request) => {
      if (request.url.endsWith('/refuse')) return new Response(null, { status: 413 });
      await later(50);
      return new Response(`got ${await request.text()}`);
    },
    async (kit) => {
      const headers = [
        ['host', 'app.example'],
        ['expect', '100-continue'],
        ['content-length', '4'],
      ];
      const asked = kit.session.request('POST', '/read', { body: 'length', headers });
      await asked.until(() => asked.heads.length === 1);
      assert.deepEqual(asked.heads[0], { status: 100, headers: [], final: false });
      asked.send(Buffer.from('body'));
      asked.end();
      assert.equal(await asked.text(), 'got body');
      assert.deepEqual(
        asked.heads.map(({ status }) => status),
        [100, 200],
      );
      const refused = kit.session.request('POST', '/refuse', { body: 'length', headers });
      assert.equal((await refused.head()).status, 413);
      refused.end();
      assert.equal(refused.heads.length, 1);
    },
  );
});

test('several Cookie fields are one, joined as cookies are', async () => {
  await serving(
    (request) => new Response(request.headers.get('cookie')),
    async (kit) => {
      const headers = [
        ['cookie', 'a=1'],
        ['x', 'y'],
        ['Cookie', 'b=2'],
      ];
      const stream = kit.session.get('/', { headers });
      assert.equal(await stream.text(), 'a=1; b=2');
    },
  );
});

test('HEAD and 204 have no body', async () => {
  await serving(
    (request) =>
      request.method === 'HEAD' ? new Response('abc') : new Response(null, { status: 204 }),
    async (kit) => {
      const head = kit.session.request('HEAD', '/');
      head.end();
      assert.equal(await head.text(), '');
      assert.equal(await kit.session.get('/').text(), '');
    },
  );
});
