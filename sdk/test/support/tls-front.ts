/**
 * nginx as a TLS proxy in front of a kit, with certificates of an authority made for the test.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort, listening } from './local.js';
import { run, start, type Program } from './real-kit.js';

/** A proxy that speaks TLS on two ports, and plain TCP to the kit behind it. */
export class TlsFront {
  private constructor(
    /** Where the certificate is for the address that is dialled. */
    readonly url: string,
    /** Where it is for another name. */
    readonly misnamedUrl: string,
    /** The authority that signed both, PEM. */
    readonly ca: string,
    private readonly program: Program,
    private readonly dir: string,
  ) {}

  static async start(kitPort: number): Promise<TlsFront> {
    const dir = mkdtempSync(join(tmpdir(), 'hoody-tls-'));
    await makeAuthority(dir);
    await certify(dir, 'IP:127.0.0.1');
    await certify(dir, 'DNS:elsewhere.example');
    const ports = [await freePort(), await freePort()] as const;
    const good = serverBlock(dir, 'IP:127.0.0.1', ports[0], kitPort);
    const misnamed = serverBlock(dir, 'DNS:elsewhere.example', ports[1], kitPort);
    const config = join(dir, 'nginx.conf');
    writeFileSync(config, `${PREAMBLE}http {\naccess_log off;\n${good}${misnamed}}\n`);
    const program = start('nginx', ['-p', dir, '-c', config, '-e', 'stderr']);
    for (const port of ports) await listening(port);
    const [url, misnamedUrl] = ports.map((port) => `wss://127.0.0.1:${port}`) as [string, string];
    return new TlsFront(url, misnamedUrl, readFileSync(join(dir, 'ca.crt'), 'utf8'), program, dir);
  }

  async stop(): Promise<void> {
    await this.program.stop();
    rmSync(this.dir, { recursive: true, force: true });
  }
}

const PREAMBLE = `daemon off; master_process off; pid nginx.pid; error_log stderr warn;
events { worker_connections 1024; }
`;

function serverBlock(dir: string, name: string, port: number, kitPort: number): string {
  return `server {
  listen 127.0.0.1:${port} ssl;
  ssl_certificate "${join(dir, `${name}.crt`)}";
  ssl_certificate_key "${join(dir, `${name}.key`)}";
  location / {
    proxy_pass http://127.0.0.1:${kitPort};
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection upgrade;
  }
}
`;
}

const NEW_KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];

/** Makes the authority: `ca.key` and `ca.crt`. */
async function makeAuthority(dir: string): Promise<void> {
  const files = ['-keyout', 'ca.key', '-out', 'ca.crt'];
  const args = ['req', '-x509', ...NEW_KEY, '-subj', '/CN=Test authority', '-days', '2', ...files];
  await run('openssl', args, { cwd: dir });
}

/** Makes a key, and a certificate of the authority for `name`, as openssl spells it. */
async function certify(dir: string, name: string): Promise<void> {
  const asked = ['-keyout', `${name}.key`, '-out', `${name}.csr`];
  const request = ['req', ...NEW_KEY, '-subj', '/CN=Test server', ...asked];
  await run('openssl', request, { cwd: dir });
  writeFileSync(join(dir, `${name}.ext`), `subjectAltName=${name}\n`);
  const signer = ['-CA', 'ca.crt', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '2'];
  const files = ['-in', `${name}.csr`, '-extfile', `${name}.ext`, '-out', `${name}.crt`];
  await run('openssl', ['x509', '-req', ...signer, ...files], { cwd: dir });
}
