import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TunnelSession, type BindOptions, type ExchangeReport } from '../../src/index.js';
import type { ResponseHead } from '../../src/wire/control.js';
import { FixtureKit, type KitConfig } from '../support/kit.js';
import { answering, freePort, later, listen, until } from '../support/local.js';
import { rejects } from '../support/assert.js';

interface Bench {
  kit: FixtureKit;
  session: TunnelSession;
  reports: ExchangeReport[];
}

async function exposed(
  port: number,
  body: (bench: Bench) => Promise<void>,
  more: Partial<BindOptions> = {},
  config: KitConfig = {},
): Promise<void> {
  const kit = await FixtureKit.start(config);
  const session = new TunnelSession({ url: kit.url });
  const reports: ExchangeReport[] = [];
  session.addEventListener('request', ({ detail }) => reports.push(detail));
  try {
    await session.connect();
    const to = { host: '127.0.0.1', port };
    await session.bind({ mode: 'expose', containerPort: 3000, to, ...more });
    await body({ kit, session, reports });
  } finally {
    await session.close();
    await kit.stop();
  }
}

function field(head: ResponseHead, name: string): string | undefined {
  return head.headers.find(([key]) => key.toLowerCase() === name)?.[1];
}

test('a request arrives as it was sent, but for the hop-by-hop fields and the Host', async () => {
  const local = await answering('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n');
  await exposed(local.port, async ({ kit }) => {
    const headers = [
      ['Host', 'app.example'],
      ['X-Order', '1'],
      ['x-order', '2'],
      ['x-octets', '\u0080\u00e9\u00ff'],
      ['connection', 'close, X-Named'],
      ['x-named', 'gone'],
      ['keep-alive', 'gone'],
      ['proxy-connection', 'gone'],
      ['te', 'trailers'],
      ['trailer', 'gone'],
      ['upgrade', 'h2c'],
    ];
    await kit.session.get('/p?q=\u00e9', { headers }).head();
    assert.deepEqual(local.heads[0]?.split('\r\n'), [
      'GET /p?q=\u00e9 HTTP/1.1',
      `Host: 127.0.0.1:${local.port}`,
      'X-Order: 1',
      'x-order: 2',
      'x-octets: \u0080\u00e9\u00ff',
    ]);
  });
  await local.stop();
});

test('the Host is kept, or fixed, when asked for', async () => {
  const local = await answering('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n');
  for (const [hostHeader, host] of [
    ['keep', 'app.example'],
    ['dev.test', 'dev.test'],
  ] as const) {
    await exposed(
      local.port,
      async ({ kit }) => {
        await kit.session.get('/').head();
        assert.match(local.heads.at(-1) ?? '', new RegExp(`host: ${host}`, 'i'));
      },
      { hostHeader },
    );
  }
  await local.stop();
});

test('interim heads, repeated fields and octets come back with names in lower case', async () => {
  const local = await answering(
    'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n' +
      'HTTP/1.1 201 Made\r\nSet-Cookie: a=1\r\nSet-Cookie: b=\u00e9\r\nConnection: close, X-Hop\r\n' +
      'X-Hop: gone\r\nContent-Length: 3\r\n\r\nabc',
  );
  await exposed(local.port, async ({ kit, reports }) => {
    const stream = kit.session.get('/');
    assert.equal(await stream.text(), 'abc');
    assert.deepEqual(stream.heads, [
      { status: 103, headers: [['link', '</a>']], final: false },
      {
        status: 201,
        headers: [
          ['set-cookie', 'a=1'],
          ['set-cookie', 'b=\u00e9'],
          ['content-length', '3'],
        ],
        final: true,
      },
    ]);
    await until(() => reports.length > 0);
    const report = reports[0];
    assert.equal(report?.status, 201);
    assert.equal(report.bytesOut, 3);
    assert.equal(report.target, '/');
    assert.equal(report.error, undefined);
  });
  await local.stop();
});

test('connections are kept and used again', async () => {
  const local = await answering('HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok');
  await exposed(local.port, async ({ kit }) => {
    for (let at = 0; at < 5; at += 1) assert.equal(await kit.session.get('/').text(), 'ok');
    const { accepted } = local;
    assert.equal(accepted, 1);
    const many = Array.from({ length: 10 }, () => kit.session.get('/').text());
    assert.deepEqual(new Set(await Promise.all(many)), new Set(['ok']));
    assert.ok(local.accepted <= 10);
  });
  await local.stop();
});

test('a server that may yet send the body of a HEAD, or of a 204, answers nobody else', async () => {
  for (const [method, head, kept] of [
    ['HEAD', '200 OK\r\ncontent-length: 5', false],
    ['HEAD', '200 OK\r\ntransfer-encoding: chunked', false],
    ['GET', '204 No\r\ncontent-length: 5', false],
    ['HEAD', '200 OK\r\ncontent-length: 0', true],
    ['GET', '304 No\r\ncontent-length: 5', true],
  ] as const) {
    const local = await answering(`HTTP/1.1 ${head}\r\n\r\n`);
    await exposed(local.port, async ({ kit }) => {
      for (let at = 0; at < 3; at += 1) {
        const stream = kit.session.request(method, '/', { body: 'none' });
        assert.equal(await stream.text(), '');
      }
      assert.ok(local.accepted === (kept ? 1 : 3), `${method} ${head}`);
    });
    await local.stop();
  }
});

test('a kept connection that the server closed is replaced without the visitor noticing', async () => {
  const local = await listen((socket) => {
    let count = 0;
    socket.on('data', () => {
      count += 1;
      if (count === 2) socket.destroy();
      else socket.write('HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok');
    });
  });
  await exposed(local.port, async ({ kit }) => {
    assert.equal(await kit.session.get('/1').text(), 'ok');
    assert.equal(await kit.session.get('/2').text(), 'ok');
    assert.equal(local.accepted, 2);
  });
  await local.stop();
});

test('bodies by length, by chunks and of an older kit are framed for the server', async () => {
  const bodies: string[] = [];
  const local = await listen((socket) => {
    let seen = '';
    socket.on('data', (chunk) => {
      seen += chunk.toString('latin1');
      if (!seen.endsWith('END') && !seen.endsWith('0\r\n\r\n') && !/length: 0\r\n/.test(seen))
        return;
      bodies.push(seen.slice(seen.indexOf('\r\n') + 2).toLowerCase());
      seen = '';
      socket.write('HTTP/1.1 204 No Content\r\n\r\n');
    });
  });
  await exposed(local.port, async ({ kit }) => {
    const headers = [['content-length', '6']];
    const long = kit.session.request('POST', '/', { body: 'length', headers });
    long.send(Buffer.from('abc'));
    await later(10);
    long.send(Buffer.from('END'));
    long.end();
    await long.body();
    const chunked = kit.session.request('POST', '/', { body: 'chunked', headers: [] });
    chunked.send(Buffer.from('hello world'));
    chunked.end();
    await chunked.body();
    const older = kit.session.request('POST', '/', { body: undefined, headers: [] });
    older.send(Buffer.from('xyz'));
    older.end();
    await older.body();
    const empty = kit.session.request('POST', '/', { body: undefined, headers: [] });
    empty.end();
    await empty.body();
    const host = `host: 127.0.0.1:${local.port}\r\n`;
    assert.deepEqual(bodies, [
      `${host}content-length: 6\r\n\r\nabcend`,
      `${host}transfer-encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n`,
      `${host}transfer-encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\n\r\n`,
      `${host}content-length: 0\r\n\r\n`,
    ]);
  });
  await local.stop();
});

test('a server that is not up gives 502 that says what was tried, and the next request tries again', async () => {
  const port = await freePort();
  await exposed(
    port,
    async ({ kit, reports }) => {
      const stream = kit.session.get('/');
      const text = await stream.text();
      assert.equal((await stream.head()).status, 502);
      assert.match(text, new RegExp(`\\[::1\\]:${port}`));
      assert.match(text, new RegExp(`127\\.0\\.0\\.1:${port} \\(ECONNREFUSED\\)`));
      await until(() => reports.length > 0);
      assert.equal(reports[0]?.status, 502);
      const hello = 'HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nup';
      const local = await listen(
        (socket) => {
          socket.on('data', () => socket.write(hello));
        },
        '127.0.0.1',
        port,
      );
      assert.equal(await kit.session.get('/').text(), 'up');
      await local.stop();
    },
    { to: { host: 'localhost', port } },
  );
});

test('localhost finds a server on either loopback address', async () => {
  for (const host of ['::1', '127.0.0.1']) {
    const local = await listen((socket) => {
      socket.on('data', () => socket.write('HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok'));
    }, host);
    await exposed(
      local.port,
      async ({ kit }) => assert.equal(await kit.session.get('/').text(), 'ok'),
      { to: { host: 'localhost', port: local.port } },
    );
    await local.stop();
  }
});

test('chunked, close-delimited and bodiless answers end where they end', async () => {
  const answers: Record<string, string> = {
    '/chunked':
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: t\r\n\r\n',
    '/close': 'HTTP/1.0 200 OK\r\n\r\nuntil the end',
    '/204': 'HTTP/1.1 204 No Content\r\n\r\n',
    '/304': 'HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n',
    '/head': 'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n',
  };
  const local = await listen((socket) => {
    socket.on('data', (chunk) => {
      const target = chunk.toString().split(' ')[1] ?? '';
      socket.write(answers[target] ?? '');
      if (target === '/close') socket.end();
    });
  });
  await exposed(local.port, async ({ kit }) => {
    const chunked = kit.session.get('/chunked');
    assert.equal(await chunked.text(), 'abcde');
    assert.equal(field(await chunked.head(), 'transfer-encoding'), undefined);
    assert.equal(await kit.session.get('/close').text(), 'until the end');
    assert.equal(await kit.session.get('/204').text(), '');
    assert.equal(await kit.session.get('/304').text(), '');
    const head = kit.session.request('HEAD', '/head');
    head.end();
    assert.equal(await head.text(), '');
    assert.equal(field(await head.head(), 'content-length'), '99');
    assert.ok(local.accepted <= 2);
  });
  await local.stop();
});

test('an answer may announce more than anybody will ever send', async () => {
  const length = '4611686018427387903';
  const local = await answering(`HTTP/1.1 200 OK\r\ncontent-length: ${length}\r\n\r\nbegin`);
  await exposed(local.port, async ({ kit }) => {
    const stream = kit.session.get('/');
    assert.equal(field(await stream.head(), 'content-length'), length);
    await until(() => stream.received === 5);
    stream.abort(7);
  });
  await local.stop();
});

test('an answer in octets of one still is the same answer', async () => {
  const answer =
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n5\r\nhello\r\n0\r\n\r\n';
  const local = await listen((socket) => {
    socket.on('data', () => {
      void (async () => {
        for (const octet of answer) {
          socket.write(octet);
          await later(1);
        }
      })();
    });
  });
  await exposed(local.port, async ({ kit }) => {
    const stream = kit.session.get('/');
    assert.equal(await stream.text(), 'hello');
    assert.equal(field(await stream.head(), 'x'), 'y');
  });
  await local.stop();
});

test('answers that two readers would read in two ways are 502', async () => {
  const bad = [
    'HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd',
    'HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: \r\n\r\n',
    'HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding:\r\n\r\nabc',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n',
    'HTTP/1.1 200 OK\r\nA: b\r\n folded\r\nContent-Length: 0\r\n\r\n',
    'HTTP/1.1 200 OK\r\nA: b\rc\r\nContent-Length: 0\r\n\r\n',
    'HTTP/1.1 200 OK\r\nA: b\0c\r\nContent-Length: 0\r\n\r\n',
    'HTTP/2 200 OK\r\n\r\n',
    'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n',
    'SSH-2.0-OpenSSH\r\n\r\n',
  ];
  for (const answer of bad) {
    const local = await answering(answer);
    await exposed(local.port, async ({ kit }) => {
      const head = await kit.session.get('/').head();
      assert.equal(head.status, 502, JSON.stringify(answer));
    });
    await local.stop();
  }
});

test('a body that breaks off after its head resets the stream, so that it never looks whole', async () => {
  for (const answer of [
    'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n',
  ]) {
    const local = await listen((socket) => {
      socket.on('data', () => socket.end(answer));
    });
    await exposed(local.port, async ({ kit }) => {
      const stream = kit.session.get('/');
      assert.equal((await stream.head()).status, 200);
      await rejects(stream.body(), Error);
    });
    await local.stop();
  }
});

test('requests that would smuggle are never written to the server', async () => {
  const local = await answering('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n');
  await exposed(local.port, async ({ kit }) => {
    const bad: object[] = [
      { target: '/ HTTP/1.1\r\nx: y' },
      { target: 'http://other/' },
      { target: '' },
      { method: 'GET /x HTTP/1.1\r\n' },
      { method: 'CONNECT' },
      { headers: [['a', 'b\r\nc: d']] },
      { headers: [['a\r\nb', 'c']] },
      { headers: [['a', 'b\0']] },
      {
        headers: [
          ['content-length', '1'],
          ['content-length', '2'],
        ],
        body: 'length',
      },
      { headers: [['content-length', '-1']], body: 'length' },
      { headers: [['content-length', '5']], body: 'chunked' },
      { headers: [['content-length', '5']], body: 'none' },
      { headers: [], body: 'length' },
      {
        headers: [
          ['host', 'a'],
          ['host', 'b'],
        ],
      },
    ];
    for (const more of bad) {
      const stream = kit.session.request('POST', '/', more);
      await until(() => stream.reset !== undefined);
      assert.equal(stream.reset?.code, 1, JSON.stringify(more));
    }
    assert.deepEqual(local.heads, []);
  });
  await local.stop();
});

test('a length that Connection names still frames the body', async () => {
  const local = await answering('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n');
  await exposed(local.port, async ({ kit }) => {
    const headers = [
      ['host', 'a'],
      ['connection', 'content-length, host, x-hop'],
      ['content-length', '3'],
      ['x-hop', '1'],
    ];
    const stream = kit.session.request('POST', '/', { headers, body: 'length' });
    stream.send(Buffer.from('abc'));
    stream.end();
    assert.equal((await stream.head()).status, 200);
    assert.match(local.heads[0] ?? '', /\r\ncontent-length: 3$/);
    assert.doesNotMatch(local.heads[0] ?? '', /x-hop/);
  });
  await local.stop();
});

test('more or less body than its Content-Length breaks the exchange and the connection', async () => {
  const local = await listen((socket) => socket.resume().on('end', () => socket.end()));
  await exposed(local.port, async ({ kit }) => {
    for (const text of ['abcdef', 'ab']) {
      const headers = [['content-length', '3']];
      const stream = kit.session.request('POST', '/', { body: 'length', headers });
      stream.send(Buffer.from(text));
      stream.end();
      await until(() => stream.reset !== undefined);
    }
    await until(() => local.open.size === 0);
  });
  await local.stop();
});

test('an upgrade becomes raw bytes both ways after the 101, with the Origin of the Host', async () => {
  let head = '';
  const local = await listen((socket) => {
    socket.once('data', (chunk) => {
      head = chunk.toString('latin1');
      socket.write(
        'HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n' +
          'Sec-WebSocket-Accept: x\r\n\r\nfirst',
      );
      socket.on('data', (more) => socket.write(more));
      socket.on('end', () => socket.end('last'));
    });
  });
  await exposed(local.port, async ({ kit }) => {
    const headers = [
      ['host', 'app.example'],
      ['origin', 'https://app.example'],
      ['connection', 'keep-alive, Upgrade'],
      ['upgrade', 'websocket'],
      ['sec-websocket-key', 'k'],
    ];
    const stream = kit.session.request('GET', '/ws', { isUpgrade: true, headers });
    assert.equal((await stream.head()).status, 101);
    assert.equal(field(await stream.head(), 'upgrade'), 'websocket');
    stream.send(Buffer.from('ping'));
    await until(() => stream.received === 9);
    stream.end();
    assert.equal(await stream.text(), 'firstpinglast');
    assert.match(head, new RegExp(`origin: http://127.0.0.1:${local.port}\r\n`));
    assert.match(head, /connection: Upgrade\r\nupgrade: websocket\r\n\r\n$/);
  });
  await local.stop();
});

test('the Origin of another site stays what it is', async () => {
  const local = await answering('HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno');
  await exposed(local.port, async ({ kit }) => {
    const headers = [
      ['host', 'app.example'],
      ['origin', 'https://evil.example'],
    ];
    const stream = kit.session.request('GET', '/ws', { isUpgrade: true, headers });
    assert.equal(await stream.text(), 'no');
    stream.end();
    assert.match(local.heads[0] ?? '', /origin: https:\/\/evil\.example/);
  });
  await local.stop();
});

test('an answer before its request is complete ends the exchange and reads the rest over', async () => {
  const local = await listen((socket) => {
    socket.on('end', () => socket.end()).resume();
    socket.once('data', () =>
      socket.write('HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno'),
    );
  });
  await exposed(local.port, async ({ kit }) => {
    const size = 4 * 1024 * 1024;
    const headers = [['content-length', String(size)]];
    const stream = kit.session.request('POST', '/', { body: 'length', headers });
    const pouring = stream.pour(Buffer.alloc(size));
    assert.equal(await stream.text(), 'no');
    await pouring;
    stream.end();
    // Four times the window went through: credit came back for what nobody wanted.
    await until(() => local.open.size === 0);
  });
  await local.stop();
});

test('a visitor that does not read stops its server and nobody else', async () => {
  let written = 0;
  const local = await listen((socket) => {
    socket.once('data', (chunk) => {
      if (chunk.toString().startsWith('GET /small')) {
        socket.write('HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok');
        return;
      }
      socket.write('HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n');
      const part = Buffer.alloc(65_536, 0x61);
      const more = (): void => {
        while (written < 104_857_600) {
          written += part.length;
          if (!socket.write(part)) return void socket.once('drain', more);
        }
      };
      more();
    });
  });
  const config = { manualCredit: true };
  await exposed(
    local.port,
    async ({ kit }) => {
      const slow = kit.session.get('/slow');
      await until(() => slow.received === 1_048_576);
      assert.equal(await kit.session.get('/small').text(), 'ok');
      await later(100);
      assert.equal(slow.received, 1_048_576);
      assert.ok(written < 20_000_000, `${written} bytes were read ahead`);
      slow.giveBack(300_000);
      await until(() => slow.received === 1_348_576);
      slow.abort(7, 'left');
      await until(() => local.open.size <= 1);
    },
    {},
    config,
  );
  await local.stop();
});

test('credit comes back only as the server takes the bytes', async () => {
  let reading = false;
  let got = 0;
  const local = await listen((socket) => {
    socket.pause();
    const timer = setInterval(() => {
      if (!reading) return;
      clearInterval(timer);
      socket.on('data', (chunk) => {
        got += chunk.length;
        if (got > 32 * 1024 * 1024) socket.write('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n');
      });
      socket.resume();
    }, 5);
  });
  await exposed(local.port, async ({ kit }) => {
    const size = 32 * 1024 * 1024;
    const headers = [['content-length', String(size)]];
    const stream = kit.session.request('PUT', '/', { body: 'length', headers });
    let poured = false;
    const pouring = stream.pour(Buffer.alloc(size)).then(() => (poured = true));
    let given = -1;
    // What the kernel takes goes on for a while. It ends long before all has been sent.
    for (let last = -2; given !== last || stream.sendCredit >= 262_144;) {
      last = given;
      await later(300);
      given = stream.windows;
    }
    assert.ok(got === 0 && !poured, 'credit came back although nothing was read');
    reading = true;
    await pouring;
    stream.end();
    assert.equal((await stream.head()).status, 200);
  });
  await local.stop();
});

test('server-sent events pass at once', async () => {
  let send: ((text: string) => void) | undefined;
  const local = await listen((socket) => {
    socket.once('data', () => {
      socket.write('HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n');
      send = (text) => void socket.write(text);
      socket.on('end', () => socket.end()).resume();
    });
  });
  await exposed(local.port, async ({ kit }) => {
    const stream = kit.session.get('/events');
    await stream.head();
    for (let at = 1; at <= 20; at += 1) {
      send?.(`data: ${at}\n\n`);
      await until(() => Buffer.concat(stream.chunks).toString().endsWith(`data: ${at}\n\n`));
    }
    stream.abort(7);
    await until(() => local.open.size === 0);
  });
  await local.stop();
});
