/**
 * Heads that are larger than a frame, or have more fields than one: those of answers, and those of
 * requests where a kit sends such.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { OptionsError, TunnelSession, type SessionOptions } from '../../src/index.js';
import type { Headers } from '../../src/wire/control.js';
import { Code } from '../../src/wire/code.js';
import { FrameType } from '../../src/wire/frame.js';
import { headFrames, HeadParts } from '../../src/wire/parts.js';
import { FixtureKit } from '../support/kit.js';
import { answering } from '../support/local.js';
import { throws } from '../support/assert.js';

const LONG = ['long-heads', 'header-case'];

async function granting(
  port: number,
  capabilities: string[],
  body: (kit: FixtureKit, session: TunnelSession) => Promise<void>,
  options: Partial<SessionOptions> = {},
): Promise<void> {
  const kit = await FixtureKit.start();
  kit.helloOk = { capabilities };
  const session = new TunnelSession({ url: kit.url, ...options });
  try {
    await session.connect();
    await session.bind({ mode: 'expose', containerPort: 3000, to: { host: '127.0.0.1', port } });
    await body(kit, session);
  } finally {
    await session.close({ graceMs: 0 });
    await kit.stop();
  }
}

function fields(count: number, size: number): Headers {
  return Array.from({ length: count }, (_, at) => [`X-${at}`, 'v'.repeat(size)]);
}

function written(headers: Headers): string {
  const lines = headers.map(([name, value]) => `${name}: ${value}\r\n`).join('');
  return `HTTP/1.1 200 OK\r\n${lines}\r\n`;
}

const LENGTH: [string, string] = ['Content-Length', '0'];
/** A head of exactly `bytes`, by the count of the reader: without the empty line at its end. */
const oneOf = (bytes: number): Headers => [
  ['Big', 'v'.repeat(bytes - written([LENGTH, ['Big', '']]).length + 4)],
  LENGTH,
];

test('heads of answers that do not fit a frame arrive whole, where the kit takes them', async () => {
  for (const headers of [
    [...fields(135, 1), LENGTH],
    [...fields(136, 1), LENGTH],
    [...fields(299, 10), LENGTH],
    [...fields(999, 200), LENGTH],
    [...fields(3, 60_000), LENGTH],
    [['Odd', '"\\\t\x80\xff'.repeat(20_000)] as [string, string], LENGTH],
    oneOf(256 * 1024),
  ]) {
    const local = await answering(written(headers));
    await granting(local.port, LONG, async (kit) => {
      for (let twice = 0; twice < 2; twice += 1) {
        const stream = kit.session.get('/');
        const head = await stream.head();
        assert.equal(head.status, 200);
        assert.ok(equal(head.headers, headers), `${headers.length} fields`);
        assert.equal(await stream.text(), '');
      }
    });
    // In lower case they would be as many.
    await granting(local.port, [], async (kit) => {
      const stream = kit.session.get('/');
      const isShort = headers.length <= 136 && written(headers).length < 60_000;
      assert.equal((await stream.head()).status, isShort ? 200 : 502);
      if (!isShort)
        assert.match(await stream.text(), /has a head that is too large for this kit\./);
      assert.equal(kit.session.count(FrameType.HeadPart), 0);
    });
    await local.stop();
  }
});

test('heads of answers past the limits are a 502 that names them', async () => {
  for (const [headers, options] of [
    [[...fields(1000, 1), LENGTH], {}],
    [oneOf(256 * 1024 + 1), {}],
    [[...fields(16, 1), LENGTH], { maxFields: 16 }],
    [oneOf(4097), { maxHead: 4096 }],
  ] as const) {
    const local = await answering(written([...headers]));
    await granting(
      local.port,
      LONG,
      async (kit) => {
        const stream = kit.session.get('/');
        assert.equal((await stream.head()).status, 502);
        const text = await stream.text();
        assert.match(text, /head that is larger than maxHead or maxFields allow\.\n$/);
        assert.ok(!text.includes('Start the server'), 'it runs');
      },
      options,
    );
    await local.stop();
  }
  for (const wrong of [{ maxHead: 4095 }, { maxHead: 262_145 }, { maxFields: 15 }]) {
    throws(() => new TunnelSession({ url: 'ws://a', ...wrong }), OptionsError);
  }
  throws(() => new TunnelSession({ url: 'ws://a', maxFields: 1001 }), OptionsError);
});

test('a handler may answer with as much', async () => {
  const kit = await FixtureKit.start();
  kit.helloOk = { capabilities: LONG };
  const session = new TunnelSession({ url: kit.url });
  await session.connect();
  const fetch = (): Response => new Response('hi', { headers: fields(500, 200) });
  await session.bind({ mode: 'expose', containerPort: 3000, fetch });
  const stream = kit.session.get('/');
  assert.equal((await stream.head()).headers.filter(([name]) => name.startsWith('x-')).length, 500);
  assert.equal(await stream.text(), 'hi');
  await session.close({ graceMs: 0 });
  await kit.stop();
});

/** Opens a stream behind parts with those fields. */
function opening(kit: FixtureKit, parts: Headers[], rest: Headers = []) {
  for (const headers of parts) {
    kit.session.json(FrameType.HeadPart, { headers }, kit.session.nextStream);
  }
  return kit.session.get('/', { headers: rest });
}

test('a request whose fields come ahead of it is one request', async () => {
  const local = await answering(written([LENGTH]));
  await granting(local.port, LONG, async (kit) => {
    const all = fields(900, 200);
    const parts = [all.slice(0, 300), all.slice(300, 600)];
    const [name, value] = all[600]!;
    parts.push([[name, value.slice(0, 50)]], [['', value.slice(50)], ...all.slice(601)]);
    const stream = opening(kit, parts, [['Last', '1']]);
    assert.equal((await stream.head()).status, 200);
    const lines = local.heads[0]!.split('\r\n').slice(2);
    assert.ok(
      equal(
        lines,
        [...all, ['Last', '1']].map(([a, b]) => `${a}: ${b}`),
      ),
    );
    // One that is malformed costs its stream, and no more.
    const bad = opening(kit, [[['', 'goes on with nothing']]]);
    await bad.until(() => bad.reset !== undefined);
    assert.equal(bad.reset!.code, Code.ProtocolError);
    const many = opening(kit, [fields(600, 1), fields(408, 1)], [['a', 'b']]);
    await many.until(() => many.reset !== undefined);
    assert.equal((await kit.session.get('/').head()).status, 200);
  });
  // To others it is an extension like any other.
  await granting(local.port, [], async (kit) => {
    assert.equal((await opening(kit, [[['', '']]]).head()).status, 200);
  });
  await local.stop();
});

test('parts that belong to no request end the session', async () => {
  const local = await answering(written([LENGTH]));
  for (const hostile of [
    (kit: FixtureKit) => opening(kit, Array<Headers>(65).fill([['a', 'b']])),
    (kit: FixtureKit) => opening(kit, Array<Headers>(5).fill([['a', 'b'.repeat(60_000)]])),
    (kit: FixtureKit) => {
      kit.session.json(FrameType.HeadPart, { headers: [] }, 100);
      kit.session.json(FrameType.HeadPart, { headers: [] }, 102);
    },
    (kit: FixtureKit) => {
      kit.session.json(FrameType.HeadPart, { headers: [] }, 100);
      kit.session.get('/');
    },
  ]) {
    await granting(local.port, LONG, async (kit, session) => {
      hostile(kit);
      await session.closed.catch(() => undefined);
      assert.equal(session.state, 'closed');
    });
  }
  await local.stop();
});

test('parts of heads whose streams are over are a flood at last', { timeout: 20_000 }, async () => {
  const local = await answering(written([LENGTH]));
  await granting(local.port, LONG, async (kit, session) => {
    const stream = kit.session.get('/');
    await stream.text();
    for (let n = 0; n < 3000 && session.state === 'online'; n += 1) {
      kit.session.json(FrameType.HeadPart, { headers: [] }, stream.id);
    }
    const error = await session.closed;
    assert.match(error?.message ?? '', /too many frames that want an answer/);
  });
  await local.stop();
});

test('a value may be parted at every octet, and what is written is read again', () => {
  const value = 'some "value"\xff';
  for (let at = 0; at <= value.length; at += 1) {
    const parts = new HeadParts();
    for (const headers of [[['a', value.slice(0, at)]], [], [['', value.slice(at)]]]) {
      assert.ok(parts.add(Buffer.from(JSON.stringify({ headers }))));
    }
    assert.deepEqual(parts.before([['b', '']]), [
      ['a', value],
      ['b', ''],
    ]);
  }
  for (let size = 10_239; size <= 10_242; size += 1) {
    const headers = [...fields(200, 1), ['Big', '"'.repeat(size)] as [string, string]];
    const frames = headFrames({ status: 200, headers, final: true }, { longHeads: true })!;
    const parts = new HeadParts();
    for (const { text, length } of frames.slice(0, -1)) {
      assert.ok(length <= 65_536 && parts.add(Buffer.from(text)));
    }
    assert.equal(parts.before([]).at(-1)?.[1].length, size);
  }
});

/** Without the difference of large values in the report. */
function equal(one: unknown, other: unknown): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}
