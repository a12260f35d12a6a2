/**
 * A headless Chromium, steered through its own protocol.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import WebSocket from 'ws';
import { later } from './local.js';
import { start, type Program } from './real-kit.js';

type Json = Record<string, unknown>;

/** One page of a browser of our own. */
export class Browser {
  readonly console: string[] = [];
  private next = 1;
  private readonly waiting = new Map<number, (result: Json) => void>();

  private constructor(
    private readonly program: Program,
    private readonly socket: WebSocket,
    private readonly profile: string,
  ) {
    socket.on('message', (data: Buffer) => {
      const message = JSON.parse(data.toString()) as Json;
      if (typeof message['id'] === 'number') {
        this.waiting.get(message['id'])?.((message['result'] ?? message) as Json);
        this.waiting.delete(message['id']);
      } else this.note(message);
    });
  }

  static async open(): Promise<Browser> {
    const profile = mkdtempSync(join(tmpdir(), 'hoody-chromium-'));
    const program = start('chromium', [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      `--user-data-dir=${profile}`,
      '--remote-debugging-port=0',
      '--window-size=900,600',
      'about:blank',
    ]);
    const address = await program.says(/DevTools listening on ws:\/\/(\S+?)\//);
    for (;;) {
      const pages = (await (await fetch(`http://${address}/json/list`)).json()) as Json[];
      const page = pages.find(({ type }) => type === 'page');
      if (page !== undefined) {
        const socket = new WebSocket(page['webSocketDebuggerUrl'] as string);
        await new Promise((resolve) => socket.once('open', resolve));
        const browser = new Browser(program, socket, profile);
        for (const domain of ['Page', 'Runtime', 'Network']) await browser.send(`${domain}.enable`);
        return browser;
      }
      await later(50);
    }
  }

  send(method: string, params: Json = {}): Promise<Json> {
    const id = this.next++;
    this.socket.send(JSON.stringify({ id, method, params }));
    return new Promise((resolve) => this.waiting.set(id, resolve));
  }

  async go(url: string): Promise<void> {
    await this.send('Page.navigate', { url });
  }

  /** Runs an expression in the page. */
  async run(expression: string): Promise<unknown> {
    const result = await this.send('Runtime.evaluate', { expression, returnByValue: true });
    return (result['result'] as Json | undefined)?.['value'];
  }

  /** Waits until an expression is true in the page. */
  async until(expression: string, ms = 20_000): Promise<void> {
    const deadline = Date.now() + ms;
    while ((await this.run(expression)) !== true) {
      if (Date.now() > deadline) {
        const text = await this.run('document.documentElement.outerHTML');
        throw new Error(`${expression} never held\n${this.console.join('\n')}\n${String(text)}`);
      }
      await later(50);
    }
  }

  async screenshot(file: string): Promise<void> {
    const { data } = await this.send('Page.captureScreenshot', { format: 'png' });
    writeFileSync(file, Buffer.from(data as string, 'base64'));
  }

  async close(): Promise<void> {
    this.socket.terminate();
    await this.program.stop('SIGKILL');
    await later(100);
    rmSync(this.profile, { recursive: true, force: true, maxRetries: 5 });
  }

  private note(message: Json): void {
    const params = message['params'] as Json | undefined;
    if (message['method'] === 'Runtime.consoleAPICalled') {
      const values = params?.['args'] as Json[];
      this.console.push(values.map(({ value }) => String(value)).join(' '));
    } else if (message['method'] === 'Runtime.exceptionThrown') {
      this.console.push(JSON.stringify(params));
    }
  }
}
