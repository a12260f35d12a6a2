/**
 * Real programs through the real kit: a Vite dev server in a browser, a chat, a database.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { tunnel } from '../../src/index.js';
import { Browser } from '../support/browser.js';
import { freePort, until } from '../support/local.js';
import { APPS, RealKit, run, start } from '../support/real-kit.js';

/** Where screenshots are left to be looked at. */
const SHOTS = process.env['HOODY_SHOTS'] ?? join(tmpdir(), 'hoody-sdk-shots');

const PAGE = `<!doctype html>
<title>Vite through a tunnel</title>
<style>body { font: 32px sans-serif; margin: 60px } #text { color: #1a7f37 }</style>
<h1>Through the tunnel</h1>
<p id="text"></p>
<input id="kept" value="">
<script type="module" src="/main.js"></script>
`;

const MAIN = `import { text } from './text.js';
const show = (value) => { document.getElementById('text').textContent = value; };
show(text);
if (import.meta.hot) import.meta.hot.accept('./text.js', (next) => show(next.text));
`;

test('a Vite dev server reloads hot in a browser', { timeout: 90_000 }, async (t) => {
  const root = mkdtempSync(join(tmpdir(), 'hoody-vite-'));
  writeFileSync(join(root, 'index.html'), PAGE);
  writeFileSync(join(root, 'main.js'), MAIN);
  writeFileSync(join(root, 'text.js'), "export const text = 'before the edit';\n");
  const port = await freePort();
  const vite = start(
    process.execPath,
    [`${APPS}/vite/bin/vite.js`, '--host', 'localhost', '--port', String(port), '--strictPort'],
    { cwd: root },
  );
  await vite.says(/ready in/);
  const kit = await RealKit.start();
  const app = await tunnel.expose({
    ...kit.options,
    containerPort: 0,
    to: { host: 'localhost', port },
  });
  const statuses: number[] = [];
  app.addEventListener('request', ({ detail }) => statuses.push(detail.status));
  // A name that Vite does not know: without the rewritten Host it would answer 403.
  const url = `http://app.localhost:${app.bind.containerPort}/`;
  const browser = await Browser.open();
  try {
    await browser.go(url);
    await browser.until("document.getElementById('text')?.textContent === 'before the edit'");
    await until(() => browser.console.some((line) => line.includes('[vite] connected')));
    await browser.run("document.getElementById('kept').value = 'typed before'");
    writeFileSync(join(root, 'text.js'), "export const text = 'after the edit, without reload';\n");
    await browser.until("document.getElementById('text')?.textContent.startsWith('after')");
    const kept = await browser.run("document.getElementById('kept').value");
    assert.equal(kept, 'typed before', `${browser.console.join('\n')}\n${vite.output}`);
    assert.equal(await browser.run('location.host'), `app.localhost:${app.bind.containerPort}`);
    mkdirSync(SHOTS, { recursive: true });
    const shot = join(SHOTS, 'vite.png');
    await browser.screenshot(shot);
    t.diagnostic(`screenshot: ${shot}`);
    assert.equal(statuses.filter((status) => status >= 400 && status !== 404).length, 0);
  } finally {
    await browser.close();
    await app.close();
    await vite.stop('SIGKILL');
    await kit.stop();
    rmSync(root, { recursive: true, force: true });
  }
});

interface ChatSocket {
  id: string;
  emit(event: string, ...values: unknown[]): void;
  on(event: string, listener: (...values: string[]) => void): void;
  disconnect(): void;
  io: { engine: { transport: { name: string } } };
}

interface ChatServer {
  on(event: string, listener: (socket: ChatSocket) => void): void;
  emit(event: string, ...values: unknown[]): void;
  close(): Promise<void>;
}

test(
  'a socket.io chat by polling, by WebSocket, and from one to the other',
  { timeout: 30_000 },
  async () => {
    const load = (file: string): Promise<unknown> => import(pathToFileURL(`${APPS}/${file}`).href);
    const { Server } = (await load('socket.io/wrapper.mjs')) as {
      Server: new (server: unknown) => ChatServer;
    };
    const { io } = (await load('socket.io-client/build/esm-debug/index.js')) as {
      io: (url: string, options: object) => ChatSocket;
    };
    const server = createServer();
    const chat = new Server(server);
    chat.on('connection', (socket) => {
      socket.on('say', (text) => chat.emit('said', `${socket.id}: ${text}`));
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const kit = await RealKit.start();
    const to = { host: '127.0.0.1', port };
    const app = await tunnel.expose({ ...kit.options, containerPort: 0, to });
    const url = `http://127.0.0.1:${app.bind.containerPort}`;
    const people = [['polling'], ['websocket'], ['polling', 'websocket']].map((transports) =>
      io(url, { transports, forceNew: true }),
    );
    const heard = people.map((): string[] => []);
    let connected = 0;
    people.forEach((person, at) => {
      person.on('connect', () => void (connected += 1));
      person.on('said', (text) => heard[at]!.push(text));
    });
    await until(() => connected === 3);
    await until(() => people[2]!.io.engine.transport.name === 'websocket');
    for (let at = 0; at < 30; at += 1) people[at % 3]!.emit('say', `message ${at} ä`);
    await until(() => heard.every((lines) => lines.length === 30));
    assert.deepEqual(heard[0], heard[1]);
    assert.deepEqual(heard[1], heard[2]);
    for (const person of people) person.disconnect();
    await chat.close();
    await app.close();
    await kit.stop();
  },
);

test('PostgreSQL through pull: psql, a bulk COPY, and pgbench', { timeout: 120_000 }, async (t) => {
  const base = '/usr/lib/postgresql';
  const bin = `${base}/${readdirSync(base).sort().at(-1) ?? ''}/bin`;
  const data = mkdtempSync(join(tmpdir(), 'hoody-pg-'));
  // PostgreSQL refuses to run as root.
  const root = process.getuid?.() === 0;
  if (root) execFileSync('chown', ['postgres:', data]);
  const [runner, before] = root ? ['runuser', ['-u', 'postgres', '--']] : ['env', []];
  const initdb = [`${bin}/initdb`, '-D', data, '-U', 'postgres', '-A', 'trust', '--no-sync'];
  await run(runner, [...before, ...initdb], { cwd: data });
  const port = await freePort();
  const settings = [
    `-cport=${port}`,
    '-clisten_addresses=127.0.0.1',
    `-cunix_socket_directories=${data}`,
  ];
  const postgres = [`${bin}/postgres`, '-D', data, '-cfsync=off', ...settings];
  const server = start(runner, [...before, ...postgres], { cwd: data });
  await server.says(/ready to accept connections/);
  const kit = await RealKit.start();
  const db = await tunnel.pull({
    ...kit.options,
    containerPort: 0,
    to: { host: '127.0.0.1', port },
  });
  const target = ['-h', '127.0.0.1', '-p', String(db.bind.containerPort), '-U', 'postgres'];
  const psql = (sql: string): Promise<string> => run('psql', [...target, '-qAtc', sql]);
  assert.match(await psql('select version()'), /PostgreSQL/);
  await psql("create table t as select i, repeat('x', 200) s from generate_series(1, 200000) i");
  const rows = await run('sh', [
    '-c',
    `psql ${target.join(' ')} -qAtc 'copy t to stdout' | md5sum`,
  ]);
  const direct = await run('sh', [
    '-c',
    `psql -h 127.0.0.1 -p ${port} -U postgres -qAtc 'copy t to stdout' | md5sum`,
  ]);
  assert.equal(rows, direct);
  await run('pgbench', [...target, '-i', '-q', '-s', '1', 'postgres']);
  const bench = await run('pgbench', [...target, '-c', '8', '-j', '2', '-T', '3', 'postgres']);
  t.diagnostic(/tps = \S+/.exec(bench)?.[0] ?? bench);
  assert.match(bench, /number of failed transactions: 0 /);
  await db.close();
  server.child.kill('SIGINT');
  const postmaster = execFileSync('head', ['-1', join(data, 'postmaster.pid')])
    .toString()
    .trim();
  process.kill(Number(postmaster), 'SIGQUIT');
  await server.gone;
  await kit.stop();
  rmSync(data, { recursive: true, force: true });
});
