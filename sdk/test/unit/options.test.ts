/**
 * Options: what is refused before a socket is opened, and the ways to say the same.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { OptionsError, tunnel, TunnelSession, type SessionOptions } from '../../src/index.js';
import { rejects, throws } from '../support/assert.js';
import { FixtureKit } from '../support/kit.js';

const CERTIFICATE = '-----BEGIN CERTIFICATE-----\nbm90aGluZw==\n-----END CERTIFICATE-----\n';

/** Options of a session that are wrong, beside a `url` that is right. */
const WRONG: Record<string, unknown>[] = [
  { url: 'ftp://x' },
  { url: 'nonsense' },
  { url: 'ws://user:pass@host' },
  { token: '' },
  { token: 'a\r\nb: c' },
  { token: null },
  { kitHeaders: null },
  { kitHeaders: 'x: y' },
  { kitHeaders: { 'bad name': 'x' } },
  { kitHeaders: { x: 'a\nb' } },
  { kitHeaders: { x: 5 } },
  { kitHeaders: [['x']] },
  { kitHeaders: ['xy'] },
  { kitHeaders: new Map([['x', 5]]) },
  {
    kitHeaders: [
      ['x', 'a'],
      ['X', 'b'],
    ],
  },
  { kitHeaders: { connection: 'close' } },
  { kitHeaders: { 'Sec-WebSocket-Protocol': 'other' } },
  { ca: '/etc/ssl/certs/ca.pem' },
  { ca: '' },
  { ca: [] },
  { ca: CERTIFICATE },
  { ca: Buffer.from(CERTIFICATE) },
  { maxConnections: 17 },
  { maxConnections: 1.5 },
  { maxConnections: null },
  { resumeSessionId: '' },
  { reconnect: 'yes' },
  { connectTimeout: 0 },
  { connectTimeout: null },
  { requestTimeout: '1' },
  { signal: { aborted: false } },
  { signal: null },
  { tokne: 'x' },
  { containerPort: 3000 },
];

/** Options of `bind` for expose that are wrong. */
const WRONG_BINDS: Record<string, unknown>[] = [
  { containerPort: 70_000 },
  { containerPort: '3000' },
  { to: { host: 'a b', port: 1 } },
  { to: { host: 'a', port: 0 } },
  { to: { host: 'a', port: 1, path: '/x' } },
  { hostHeader: 'a\r\nb' },
  { hostHeader: 'a:b' },
  { hostHeader: 'a:1:2' },
  { hostHeader: 'a:65536' },
  { hostHeader: '[::1' },
  { hostHeader: 'keep', to: undefined, fetch: () => new Response() },
  { label: 5 },
  { label: 'a\r\nb' },
  { label: 'x'.repeat(70_000) },
  { takeover: 'yes' },
  { takeover: 1 },
  { takeover: null },
  { host: '127.0.0.1' },
  { fetch: () => new Response() },
  { onError: () => undefined },
  { to: undefined, fetch: () => new Response(), onError: 'print' },
  { proxyProtocol: 1 },
  { signal: 5 },
  { conatinerPort: 3000 },
];

test('wrong options fail before any socket is opened', async () => {
  const kit = await FixtureKit.start();
  const { url } = kit;
  const to = { host: '127.0.0.1', port: 1 };
  const fetch = (): Response => new Response('');
  for (const wrong of WRONG) {
    const options = { url, ...wrong } as SessionOptions;
    throws(() => new TunnelSession(options), OptionsError, JSON.stringify(wrong));
    if ('containerPort' in wrong) continue;
    const pulling = { ...options, containerPort: 3000 };
    assert.equal((await rejects(tunnel.pull(pulling), OptionsError)).code, 'OPTIONS');
  }
  const calls: Promise<unknown>[] = [
    tunnel.pull({ url, containerPort: 0 }),
    tunnel.pull({ url, containerPort: 1, host: '0.0.0.0' as '::1' }),
    tunnel.pull({ url, containerPort: 1, proxyProtocol: 3 as 1 }),
    tunnel.pull({ url, containerPort: 1, proxyProtocol: '1' as never }),
    tunnel.pull({ url, containerPort: 1, takeover: true } as never),
    tunnel.pull({ url, containerPort: 1, takeover: false } as never),
    tunnel.pull({ url, containerPort: 1, hostHeader: 'keep' } as never),
    tunnel.serve({ url, containerPort: 3000, fetch: 'no' as never }),
    tunnel.serve({ url, containerPort: 3000, fetch, to } as never),
    tunnel.expose({ url, containerPort: 3000, to, mode: 'pull' } as never),
    tunnel.expose({ url, containerPort: 3000, to, kind: 'sctp' } as never),
    tunnel.expose({ url, containerPort: 3000, to, kind: 'tcp', hostHeader: 'keep' }),
    tunnel.pull({ url, containerPort: 3000, to, kind: 'http' } as never),
    tunnel.expose(undefined as never),
    ...WRONG_BINDS.map((wrong) => tunnel.expose({ url, containerPort: 3000, to, ...wrong })),
  ];
  for (const call of calls) assert.equal((await rejects(call, OptionsError)).code, 'OPTIONS');
  const session = new TunnelSession({ url });
  await rejects(session.bind({ mode: 'expose', containerPort: 1 }), OptionsError);
  await rejects(session.connect({ signal: 5 } as never), OptionsError);
  await rejects(session.connect(null as never), OptionsError);
  for (const wrong of [
    { timeout: 0 },
    { timeout: 'x' },
    { timeout: NaN },
    { token: 5 },
    { x: 1 },
  ]) {
    throws(() => tunnel.admin({ url, ...wrong } as never), OptionsError);
  }
  const admin = tunnel.admin({ url });
  await rejects(admin.health({ signal: 5 } as never), OptionsError);
  await rejects(admin.killSession('S-1', { grace: 5 } as never), OptionsError);
  assert.equal(kit.upgrades.length, 0);
  await session.connect();
  for (const wrong of WRONG_BINDS) {
    const options = { mode: 'expose', containerPort: 3000, to, ...wrong } as never;
    await rejects(session.bind(options), OptionsError);
  }
  for (const nothing of [null, undefined, {}, 1]) {
    await rejects(session.unbind(nothing as never), OptionsError);
  }
  assert.equal(kit.session.frames.length, 0);
  await session.close();
  await kit.stop();
});

test('header fields for a proxy are an object, a Headers, a Map or pairs', async () => {
  const kit = await FixtureKit.start();
  for (const kitHeaders of [
    { 'x-proxy': 'p' },
    new Headers({ 'x-proxy': 'p' }),
    new Map([['x-proxy', 'p']]),
    [['x-proxy', 'p'] as const],
  ]) {
    const session = new TunnelSession({ url: kit.url, kitHeaders });
    await session.connect();
    assert.equal(kit.upgrades.at(-1)?.headers['x-proxy'], 'p');
    await session.close();
  }
  await kit.stop();
});

test('an option that is undefined counts as left out', async () => {
  const kit = await FixtureKit.start();
  const none = { token: undefined, kitHeaders: undefined, ca: undefined, signal: undefined };
  const session = new TunnelSession({ url: kit.url, ...none, reconnect: undefined });
  await session.connect({ signal: undefined });
  const { label, takeover } = { label: undefined, takeover: undefined };
  const fetch = (): Response => new Response();
  await session.bind({ mode: 'expose', containerPort: 3000, fetch, label, takeover });
  await session.close();
  await using app = await tunnel.serve({ url: kit.url, ...none, containerPort: 3000, fetch });
  assert.equal(app.bind.containerPort, 3000);
  await app.close();
  await kit.stop();
});
