import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TunnelSession, OptionsError, LostError } from '../../src/index.js';
import { checkKit } from '../../src/client/options.js';
import { Ways } from '../../src/client/ways.js';
import { FixtureKit } from '../support/kit.js';
import { freePort, until } from '../support/local.js';
import { Wire } from '../support/wire.js';

const URLS = ['ws://a', 'ws://b', 'ws://c'].map((url) => new URL(url));
const names = (ways: Ways, now: number): string =>
  ways
    .inOrder(now)
    .map(({ url }) => url.hostname)
    .join('');

test('the best way comes first, and one that failed is forgiven after a minute', () => {
  const ways = new Ways(URLS);
  const [a, b, c] = ways.inOrder(0);
  assert.equal(names(ways, 0), 'abc');
  ways.stands(a!, 30);
  ways.stands(b!, 20);
  ways.stands(c!, 10);
  assert.equal(names(ways, 0), 'cba');
  ways.failed(c!, 1000);
  ways.failed(b!, 2000);
  assert.equal(names(ways, 2000), 'acb');
  assert.equal(names(ways, 61_000), 'cab');
  c!.isForeign = true;
  assert.equal(names(ways, 61_500), 'abc');
  ways.begin();
  assert.equal(names(ways, 62_000), 'cba');
});

test('lanes are spread over the ways that did not fail', () => {
  const ways = new Ways(URLS);
  const [a, b, c] = ways.inOrder(0);
  ways.failed(c!, 0);
  assert.equal(ways.beside([a!], 0), b);
  assert.equal(ways.beside([a!, b!], 0), a);
  assert.equal(ways.beside([a!, b!, a!], 0), b);
  assert.equal(ways.beside([a!, b!, a!], 60_000), c);
});

test('several addresses are a list, or have commas between them', () => {
  const hosts = (url: unknown): string[] => checkKit({ url: url as string }).urls.map(String);
  const path = '/api/v1/tunnel/connect';
  assert.deepEqual(hosts('wss://a'), [`wss://a${path}`]);
  assert.deepEqual(hosts('wss://a, https://b:8443'), [`wss://a${path}`, `wss://b:8443${path}`]);
  assert.deepEqual(hosts(['ws://a', new URL('ws://b/x,y')]), [`ws://a${path}`, 'ws://b/x,y']);
  for (const wrong of [
    [],
    '',
    ['ws://a', 'nonsense'],
    Array.from({ length: 17 }, () => 'ws://a'),
  ]) {
    assert.throws(() => checkKit({ url: wrong }), OptionsError);
  }
});

test(
  'lanes use all ways, and go on by the others when one is gone',
  { timeout: 60_000 },
  async () => {
    const kit = await FixtureKit.start({ replay: true });
    const [one, two] = [new Wire(kit.port), new Wire(kit.port)];
    const url = [await one.start(), await two.start()];
    const session = new TunnelSession({ url, reconnect: true, maxConnections: 4 });
    const lost: string[] = [];
    session.addEventListener('lost', (event) => lost.push(event.detail.reason));
    await session.connect();
    await session.bind({ mode: 'expose', containerPort: 3000, fetch: () => new Response('here') });
    await until(() => session.connections === 4);
    assert.deepEqual([one.came, two.came], [2, 2]);
    one.stop();
    await until(() => two.came === 4 && session.connections === 4);
    assert.equal(await kit.session.get('/', {}, 0).text(), 'here');
    assert.deepEqual(lost, []);
    assert.equal(kit.sessions.size, 1);
    await session.close();
    two.stop();
    await kit.stop();
  },
);

test('the first connection is made by whichever way leads to a kit', async () => {
  const kit = await FixtureKit.start();
  const dead = `ws://127.0.0.1:${await freePort()}`;
  const session = new TunnelSession({ url: `${dead},${kit.url}` });
  await session.connect();
  assert.equal(session.state, 'online');
  await session.close();
  const none = new TunnelSession({ url: [dead, dead] });
  await assert.rejects(none.connect(), LostError);
  await kit.stop();
});

test('a way that leads to another kit carries no lane', { timeout: 60_000 }, async () => {
  const [kit, other] = [await FixtureKit.start({ replay: true }), await FixtureKit.start()];
  const url = [kit.url, other.url];
  const session = new TunnelSession({ url, reconnect: true, maxConnections: 3 });
  await session.connect();
  await until(() => session.connections === 3);
  assert.equal(kit.session.lanes.size, 3);
  assert.equal(other.sessions.size, 0);
  await session.close();
  await kit.stop();
  await other.stop();
});
