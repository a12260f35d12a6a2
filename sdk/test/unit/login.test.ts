import assert from 'node:assert/strict';
import { test } from 'node:test';
import { asksToLogIn, logsIn, originOf, visitorOf } from '../../src/local/visitor.js';
import { exposing } from '../support/exposed.js';
import type { FixtureKit } from '../support/kit.js';
import { later } from '../support/local.js';
import { loginServer } from '../support/login.js';

const ALICE = '203.0.113.9:51234';
const MALLORY = '203.0.113.66:40000';

interface Answer {
  status: number;
  challenge: string;
  body: string;
}

/** One request of a visitor's connection. */
async function ask(
  kit: FixtureKit,
  remoteAddr: string | undefined,
  authorization?: string,
  target = '/',
  connectionId?: unknown,
): Promise<Answer> {
  const headers = [['host', 'app.example']];
  if (authorization !== undefined) headers.push(['Authorization', authorization]);
  const stream = kit.session.get(target, { headers, remoteAddr, connectionId });
  const head = await stream.head();
  const field = head.headers.find(([name]) => name === 'www-authenticate');
  const challenge = field?.[1].split(' ')[1] ?? '';
  return { status: head.status, challenge, body: await stream.text() };
}

/** Logs a visitor's connection in. */
async function logIn(
  kit: FixtureKit,
  scheme: string,
  remoteAddr: string | undefined,
  user: string,
): Promise<Answer> {
  const { challenge } = await ask(kit, remoteAddr, `${scheme} hello`);
  return ask(kit, remoteAddr, `${scheme} ${user} ${challenge}`);
}

for (const scheme of ['NTLM', 'Negotiate', 'negotiate', 'Kerberos']) {
  test(`a connection that somebody logged in on with ${scheme} is nobody else's`, async () => {
    const local = await loginServer(scheme);
    await exposing(local.port, async ({ kit }) => {
      assert.deepEqual((await logIn(kit, scheme, ALICE, 'alice')).body, 'alice');
      for (const other of [MALLORY, '203.0.113.9:51235', undefined, '203.0.113.9:0']) {
        assert.equal((await ask(kit, other)).body, 'nobody', `${other} is served as Alice`);
      }
      assert.equal((await ask(kit, ALICE)).body, 'alice');
    });
    await local.stop();
  });
}

test('who comes from the same port on the next connection is somebody else', async () => {
  const local = await loginServer();
  await exposing(local.port, async ({ kit }) => {
    const { challenge } = await ask(kit, ALICE, 'NTLM hello', '/', 1);
    assert.equal((await ask(kit, ALICE, `NTLM alice ${challenge}`, '/', 1)).body, 'alice');
    // A number that is none is as good as none.
    for (const other of [2, 0, undefined, '1', [1], { a: 1 }]) {
      assert.equal(
        (await ask(kit, ALICE, undefined, '/', other)).body,
        'nobody',
        JSON.stringify(other),
      );
    }
    assert.equal((await ask(kit, ALICE, undefined, '/', 1)).body, 'alice');
  });
  await local.stop();
});

test('a connection that was asked for a login is nobody else\u2019s either', async () => {
  const local = await loginServer();
  await exposing(local.port, async ({ kit }) => {
    assert.equal((await ask(kit, ALICE, undefined, '/private')).status, 401);
    assert.equal((await ask(kit, MALLORY)).status, 200);
    assert.equal(local.accepted, 2);
    // Without a login in it, that of the others is shared as ever.
    assert.equal((await ask(kit, '203.0.113.67:1')).status, 200);
    assert.equal(local.accepted, 2);
  });
  await local.stop();
});

test('a login of a visitor whom the kit does not name is kept for nobody', async () => {
  const local = await loginServer();
  await exposing(local.port, async ({ kit }) => {
    assert.equal((await logIn(kit, 'NTLM', undefined, 'alice')).body, 'nobody');
    assert.equal((await ask(kit, undefined)).body, 'nobody');
  });
  await local.stop();
});

test('eight logins at once all succeed, among others who ask without one', async () => {
  const local = await loginServer();
  await exposing(local.port, async ({ kit }) => {
    const login = async (at: number): Promise<void> => {
      const addr = `203.0.113.9:${50_000 + at}`;
      assert.equal((await logIn(kit, 'NTLM', addr, `user-${at}`)).body, `user-${at}`);
      for (let times = 0; times < 5; times += 1) {
        assert.equal((await ask(kit, addr)).body, `user-${at}`);
        await later(1);
      }
    };
    const anonymous = async (at: number): Promise<void> => {
      for (let times = 0; times < 10; times += 1) {
        assert.equal((await ask(kit, `203.0.113.66:${1000 + at}`)).body, 'nobody');
      }
    };
    const eight = Array.from({ length: 8 }, (_, at) => at);
    await Promise.all([...eight.map(login), ...eight.map(anonymous)]);
  });
  await local.stop();
});

test('a login that holds for the connection is known by its scheme in any case', () => {
  for (const value of [
    'NTLM',
    'ntlm TlRMTVNTUAAB',
    ' Negotiate YII=',
    'Basic realm="a, b", NTLM',
  ]) {
    assert.ok(logsIn([['Authorization', value]]), value);
    assert.ok(logsIn([['proxy-authorization', value]]), value);
    assert.ok(asksToLogIn([['WWW-Authenticate', value]]), value);
    assert.ok(!logsIn([['x-authorization', value]]), value);
  }
  for (const value of ['', 'Basic TlRM', 'Bearer ntlm', 'NTLMv2x', 'Digest a=ntlm']) {
    assert.ok(!logsIn([['authorization', value]]), value);
  }
});

test('a visitor is address and port, and shares go by the address', () => {
  for (const remoteAddr of ['203.0.113.9:51234', '[2001:db8::1]:443']) {
    const some = visitorOf({ remoteAddr, connectionId: 1 });
    assert.equal(some, visitorOf({ remoteAddr, connectionId: 1 }));
    assert.notEqual(some, visitorOf({ remoteAddr, connectionId: undefined }));
  }
  for (const nobody of ['203.0.113.9', '203.0.113.9:0', 'unknown', '', 'a:1', '[::g]:1']) {
    assert.equal(visitorOf({ remoteAddr: nobody, connectionId: 1 }), undefined, nobody);
  }
  assert.equal(visitorOf({ remoteAddr: undefined, connectionId: 1 }), undefined);
  assert.equal(originOf('203.0.113.9:51234'), '203.0.113.9');
  assert.equal(originOf('203.0.113.9'), '203.0.113.9');
  assert.equal(originOf('[::ffff:203.0.113.9]:1'), '203.0.113.9');
  assert.equal(originOf('[2001:db8::1:2:3:4]:1'), originOf('[2001:0DB8::9]:2'));
  assert.notEqual(originOf('[2001:db8:0:1::1]:1'), originOf('[2001:db8::1]:1'));
  assert.deepEqual([originOf('unknown'), originOf(undefined)], ['', '']);
});
