/**
 * What `npm pack` makes, in fresh projects: types under both resolutions, and the readme's program
 * on every runtime.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { listen } from '../support/local.js';
import { PACKAGE, RealKit, run, RUNTIMES } from '../support/real-kit.js';

/** The example of the readme, with its addresses as parameters. */
const PROGRAM = `
import net from 'node:net';
import { tunnel, TunnelSession, BindError, type TunnelErrorCode } from '@hoody-ai/hoody-tunnel-sdk';

const [url = '', token = '', web = '', echo = ''] = process.argv.slice(2);
const to = { host: '127.0.0.1', port: Number(web) };
const get = async (port: number): Promise<string> =>
  (await fetch(\`http://127.0.0.1:\${port}/\`)).text();
const raw = (port: number, head: string): Promise<string> =>
  new Promise((resolve) => {
    let text = '';
    const socket = net.connect(port, '127.0.0.1', () => socket.write(head));
    socket.on('data', (chunk) => (text += String(chunk)));
    socket.on('close', () => resolve(text.split('\\r\\n').at(-1) ?? ''));
  });

const codes: TunnelErrorCode[] = ['AUTH', 'LOST'];
{
  await using app = await tunnel.expose({ url, token, containerPort: 0, to });
  const address: string | null = app.publicUrl;
  console.log('expose', address, await get(app.bind.containerPort));
  app.addEventListener('closed', (event) => console.log('closed', event.detail.error?.code, codes.length));

  await using db = await tunnel.pull({ url, token, containerPort: 0, to: { host: '127.0.0.1', port: Number(echo) } });
  console.log('pull', db.bind.mode);

  await using s = await tunnel.serve({ url, token, containerPort: 0, fetch(req) { return new Response('Hello ' + (req.headers.get('cookie') ?? req.method), { headers: { 'content-length': req.headers.has('cookie') ? '14' : '9' } }); } });
  console.log('serve', s.url.startsWith('http'), await get(s.bind.containerPort));
  // A runtime of its own mind joins two fields with a comma.
  const cookies = 'cookie: a=1\\r\\ncookie: b=2\\r\\n';
  console.log('cookies', await raw(s.bind.containerPort, 'GET / HTTP/1.1\\r\\nhost: localhost\\r\\nconnection: close\\r\\n' + cookies + '\\r\\n'));
}
const session = new TunnelSession({ url, token, maxConnections: 4 });
await session.connect();
const granted: number | undefined = session.hello?.connectionsGranted;
console.log('session', session.id?.slice(0, 2), granted);
const bound = await session.bind({ kind: 'http', mode: 'expose', containerPort: 0, takeover: true, to });
console.log('bind', await get(bound.containerPort));
try {
  await session.bind({ mode: 'expose', containerPort: 22 });
} catch (error) {
  if (error instanceof BindError) console.log(error.code, error.kitCode);
}
await session.close();
`;

/** Names the public types, so that all declarations are read. */
const ALONE = `
import type * as sdk from '@hoody-ai/hoody-tunnel-sdk';
export type Seen = [sdk.TunnelSession, sdk.Tunnel, sdk.TunnelAdmin, sdk.Binding, sdk.HelloOk];
`;

const EXPECTED = `expose null web
pull pull
serve true Hello GET
cookies Hello a=1; b=2
closed undefined 2
session S- 4
bind web
BIND_ERR RESERVED_PORT
`;

const RESOLUTIONS = {
  nodenext: { module: 'nodenext', moduleResolution: 'nodenext' },
  bundler: { module: 'esnext', moduleResolution: 'bundler' },
};

/** How each runtime is called. */
const COMMANDS: Record<string, [string, ...string[]]> = {
  'node 20': [`${RUNTIMES}/node20/bin/node`],
  'node 22': [`${RUNTIMES}/node22/bin/node`],
  bun: [`${RUNTIMES}/bun/bin/bun.exe`],
  deno: [`${RUNTIMES}/deno/deno`, 'run', '-A'],
};

test('the package works in fresh projects', { timeout: 180_000 }, async (t) => {
  const kit = await RealKit.start();
  const web = createServer((_req, res) => res.end('web')).listen(0, '127.0.0.1');
  await once(web, 'listening');
  const webPort = String((web.address() as AddressInfo).port);
  const echo = await listen((socket) => socket.pipe(socket));
  const root = mkdtempSync(join(tmpdir(), 'hoody-pack-'));
  await run('npm', ['pack', '--silent', '--pack-destination', root], { cwd: PACKAGE });
  const tarball = readdirSync(root).find((name) => name.endsWith('.tgz')) ?? '';
  const files = await run('tar', ['tzf', join(root, tarball)]);
  for (const file of ['dist/index.js', 'dist/index.d.ts', 'dist/index.js.map', 'README.md']) {
    assert.ok(files.includes(`package/${file}\n`), `${file} is not in the package`);
  }
  for (const licence of ['LICENSE-APACHE', 'LICENSE-MIT']) {
    const packed = await run('tar', ['xzOf', join(root, tarball), `package/${licence}`]);
    assert.equal(packed, readFileSync(join(PACKAGE, '..', licence), 'utf8'));
  }
  assert.ok(!/package\/(test|dist-test|node_modules)/.test(files));
  const project = join(root, 'project');
  mkdirSync(project);
  writeFileSync(join(project, 'package.json'), '{"name":"fresh","type":"module","private":true}');
  writeFileSync(join(project, 'main.ts'), PROGRAM);
  const install = [
    'install',
    '--silent',
    join(root, tarball),
    '@types/node@20',
    'typescript@5.9.3',
  ];
  await run('npm', install, { cwd: project });
  assert.deepEqual(
    readdirSync(join(project, 'node_modules'))
      .filter((name) => !name.startsWith('.'))
      .sort(),
    ['@hoody-ai', '@types', 'typescript', 'undici-types', 'ws'],
  );
  for (const [name, resolution] of Object.entries(RESOLUTIONS)) {
    // Nothing is skipped: our declarations stand on the standard library and @types/node alone.
    const compilerOptions = {
      ...resolution,
      target: 'es2022',
      lib: ['es2023'],
      types: ['node'],
      strict: true,
      exactOptionalPropertyTypes: true,
      skipLibCheck: false,
      outDir: name,
    };
    writeFileSync(
      join(project, 'tsconfig.json'),
      JSON.stringify({ compilerOptions, files: ['main.ts'] }),
    );
    await run('npx', ['tsc', '-p', '.'], { cwd: project });
    t.diagnostic(`types: ${name}`);
  }
  // Of programs for browsers' runtimes as well, which have no @types/node.
  const alone = { module: 'nodenext', target: 'es2022', lib: ['es2022', 'dom', 'dom.iterable'] };
  const strict = { strict: true, exactOptionalPropertyTypes: true, skipLibCheck: false, types: [] };
  const compilerOptions = { ...alone, ...strict, noEmit: true };
  const config = { compilerOptions, files: ['alone.ts', 'readme.ts'] };
  writeFileSync(join(project, 'tsconfig.json'), JSON.stringify(config));
  writeFileSync(join(project, 'alone.ts'), ALONE);
  const readme = readFileSync(join(PACKAGE, 'README.md'), 'utf8');
  const first = /```ts\n([^]*?)```/.exec(readme)?.[1] ?? '';
  const env = 'declare const process: { env: Record<string, string | undefined> };\n';
  writeFileSync(join(project, 'readme.ts'), first + env);
  await run('npx', ['tsc', '-p', '.'], { cwd: project });
  t.diagnostic('types: without @types/node');
  const { url, token } = kit.options;
  for (const [name, [path, ...before]] of Object.entries(COMMANDS)) {
    const args = [...before, 'nodenext/main.js', url, token, webPort, String(echo.port)];
    assert.equal(await run(path, args, { cwd: project }), EXPECTED, name);
    t.diagnostic(`runs: ${name}`);
  }
  web.close();
  web.closeAllConnections();
  await echo.stop();
  await kit.stop();
  rmSync(root, { recursive: true, force: true });
});
