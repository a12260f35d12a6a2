/**
 * The real kit, and the programs around it, for end-to-end tests. All of it listens on loopback.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { tunnel } from '../../src/index.js';
import { eventually, freePort, later, PATIENCE_MS } from './local.js';

/** The package's directory; tests run from dist-test/test/…. */
export const PACKAGE = fileURLToPath(new URL('../../../', import.meta.url));

/** Where `npm ci` in `test/runtimes` installs Node, Bun and Deno. */
export const RUNTIMES = `${PACKAGE}test/runtimes/node_modules`;
/** Where `npm ci` in `test/apps` installs the programs that run through a tunnel. */
export const APPS = `${PACKAGE}test/apps/node_modules`;

const RELEASE = `${PACKAGE}../target/release`;

/** The kit's program. */
export const KIT = process.env['HOODY_TUNNEL_BIN'] ?? `${RELEASE}/hoody-tunnel`;
/** The Rust client's program. */
export const HOODY = process.env['HOODY_BIN'] ?? `${RELEASE}/hoody`;

export const TOKEN = 'e2e-token';

/** A program that a test started. */
export class Program {
  output = '';
  readonly gone: Promise<number | null>;

  constructor(readonly child: ChildProcess) {
    const note = (chunk: Buffer): void => {
      this.output += chunk.toString();
    };
    child.stdout?.on('data', note);
    child.stderr?.on('data', note);
    this.gone = once(child, 'exit').then(([code]) => code as number | null);
    started.add(child);
    child.on('exit', () => started.delete(child));
  }

  /** Waits until the output has a match, and returns its first group, or the match. */
  async says(pattern: RegExp, ms = PATIENCE_MS): Promise<string> {
    const deadline = Date.now() + ms;
    for (;;) {
      const match = pattern.exec(this.output);
      if (match !== null) return match[1] ?? match[0];
      if (Date.now() > deadline || this.child.exitCode !== null) {
        throw new Error(`never said ${pattern.source}:\n${this.output}`);
      }
      await later(10);
    }
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    if (this.child.exitCode === null && this.child.signalCode === null) {
      this.child.kill(signal);
      const timer = setTimeout(() => this.child.kill('SIGKILL'), 3000);
      await this.gone;
      clearTimeout(timer);
    }
  }
}

const started = new Set<ChildProcess>();
process.on('exit', () => {
  for (const child of started) child.kill('SIGKILL');
});

export function start(
  command: string,
  args: string[],
  options: { cwd?: string; env?: Record<string, string> } = {},
): Program {
  const child = spawn(command, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    env: { ...process.env, ...options.env },
  });
  return new Program(child);
}

/** Runs a program to its end; throws when it fails. */
export async function run(
  command: string,
  args: string[],
  options: { cwd?: string; env?: Record<string, string> } = {},
): Promise<string> {
  const program = start(command, args, options);
  const code = await program.gone;
  if (code !== 0) {
    throw new Error(`${command} ${args.join(' ')} ended with ${code}:\n${program.output}`);
  }
  return program.output;
}

/** A kit of our own. */
export class RealKit {
  program: Program;

  private constructor(
    readonly port: number,
    private readonly args: string[],
  ) {
    this.program = this.spawn();
  }

  static async start(...args: string[]): Promise<RealKit> {
    if (!existsSync(KIT)) throw new Error(`no kit at ${KIT}: build it, or set HOODY_TUNNEL_BIN`);
    const kit = new RealKit(await freePort(), args);
    await kit.ready();
    return kit;
  }

  get url(): string {
    return `ws://127.0.0.1:${this.port}`;
  }

  get options(): { url: string; token: string } {
    return { url: this.url, token: TOKEN };
  }

  async restart(): Promise<void> {
    await this.program.stop('SIGKILL');
    this.program = this.spawn();
    await this.ready();
  }

  stop(): Promise<void> {
    return this.program.stop();
  }

  private spawn(): Program {
    const listen = ['--listen', `127.0.0.1:${this.port}`, '--expose-host', '127.0.0.1'];
    const env = { HOODY_TUNNEL_TOKEN: TOKEN };
    return start(KIT, [...listen, ...this.args], { env });
  }

  private async ready(): Promise<void> {
    const { program } = this;
    const admin = tunnel.admin({ url: this.url });
    const isUp = eventually(() => admin.health());
    const isGone = program.gone.then((code) => {
      throw new Error(`the kit ended with ${code}:\n${program.output}`);
    });
    await Promise.race([isUp, isGone]);
  }
}
