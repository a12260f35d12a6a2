/**
 * The kit's administrative endpoints, typed (PROTOCOL §10).
 */
import { plain } from '../wire/text.js';
import http from 'node:http';
import https from 'node:https';
import {
  AdminError,
  AuthError,
  OptionsError,
  ProtocolError,
  TunnelTimeoutError,
} from './errors.js';
import { parseMetrics, type Metrics } from './metrics.js';
import { networkError } from './network.js';
import {
  adminUrl,
  checkAdmin,
  checkCall,
  type AdminOptions,
  type CheckedAdmin,
} from './options.js';
import { currentToken } from './token.js';
import type { BindKind, BindMode } from '../wire/terms.js';

/** What `health` answers. */
export interface Health {
  status: string;
  service: string;
  built: string | null;
  started: string;
  memory: { rss: number; heap: number | null };
  fds: number;
  pid: number;
  ip: string;
  userAgent: string;
}

/** A session as `sessions` lists it. */
export interface SessionInfo {
  sessionId: string;
  peerAddr: string;
  isV2: boolean;
  connectionsGranted: number;
  activeStreams: number;
  maxStreams: number;
  bindings: { bindId: number; containerPort: number; kind: BindKind; mode: BindMode }[];
}

/** What `sessions` answers. */
export interface SessionList {
  sessions: SessionInfo[];
  total: number;
}

/** What `bindings` answers. */
export interface BindingList {
  bindings: {
    sessionId: string;
    bindId: number;
    port: number;
    kind: BindKind;
    mode: BindMode;
    bindAddr?: string;
  }[];
  total: number;
}

/** What `tunnels` answers. */
export interface TunnelList {
  sessions: {
    sessionId: string;
    peerAddr: string;
    protocol: 'v1' | 'v2';
    connectionsGranted: number;
    activeStreams: number;
    exposeBindings: { bindId: number; containerPort: number }[];
    pullBindings: { bindId: number; containerPort: number }[];
  }[];
  orphanedSessions: number;
  totalStreams: number;
  totalBindings: number;
  fdPermitsAvailable: number;
}

/** What `killSession` answers. */
export interface KillResult {
  sessionId: string;
  status: string;
}

/** Options of one request. */
export interface AdminRequest {
  signal?: AbortSignal | undefined;
}

/** The largest answer that is read, in bytes. */
const MAX_ANSWER = 16 * 1024 * 1024;

/** The administrative side of a kit. */
export class TunnelAdmin {
  private readonly config: CheckedAdmin;

  /** @internal */
  constructor(options: AdminOptions) {
    this.config = checkAdmin(options);
  }

  /** Whether the kit runs, and how it is. Needs no token. */
  async health(request: AdminRequest = {}): Promise<Health> {
    return (await this.json('GET', 'health', request)) as Health;
  }

  /** The kit's counters. */
  async metrics(request: AdminRequest = {}): Promise<Metrics> {
    return parseMetrics(await this.text('GET', 'metrics', request));
  }

  /** Sessions by direction of their bindings, with totals. */
  async tunnels(request: AdminRequest = {}): Promise<TunnelList> {
    return (await this.json('GET', 'tunnels', request)) as TunnelList;
  }

  /** Every session. */
  async sessions(request: AdminRequest = {}): Promise<SessionList> {
    return (await this.json('GET', 'sessions', request)) as SessionList;
  }

  /** Every binding. */
  async bindings(request: AdminRequest = {}): Promise<BindingList> {
    return (await this.json('GET', 'bindings', request)) as BindingList;
  }

  /** Ends a session; its streams get `graceMs` (up to 5000) to finish. */
  async killSession(
    sessionId: string,
    options: AdminRequest & { graceMs?: number | undefined } = {},
  ): Promise<KillResult> {
    checkCall(options, ['signal', 'graceMs']);
    const { graceMs } = options;
    const good = graceMs === undefined || (Number.isInteger(graceMs) && graceMs >= 0);
    if (!good || (graceMs ?? 0) > 5000) throw new OptionsError('graceMs must be 0 to 5000');
    if (typeof sessionId !== 'string' || sessionId === '') {
      throw new OptionsError('sessionId must be the id of a session');
    }
    const query = graceMs === undefined ? '' : `?grace_ms=${graceMs}`;
    const endpoint = `sessions/${encodeURIComponent(sessionId)}`;
    return (await this.json('DELETE', endpoint, options, query)) as KillResult;
  }

  private async json(
    method: string,
    endpoint: string,
    request: AdminRequest,
    query = '',
  ): Promise<unknown> {
    const text = await this.text(method, endpoint, request, query);
    try {
      return JSON.parse(text) as unknown;
    } catch {
      throw new ProtocolError(`${endpoint} did not answer with JSON`);
    }
  }

  private async text(
    method: string,
    endpoint: string,
    request: AdminRequest,
    query = '',
  ): Promise<string> {
    checkCall(request, ['signal', 'graceMs']);
    const { connectUrl, ca, timeout } = this.config;
    const url = adminUrl(connectUrl, endpoint);
    url.search = query;
    const { signal } = request;
    signal?.throwIfAborted();
    const options = {
      method,
      headers: await this.headers(signal),
      agent: false,
      ...(ca === undefined ? {} : { ca }),
      ...(signal === undefined ? {} : { signal }),
    };
    signal?.throwIfAborted();
    const { status, body } = await fetchText(url, options, timeout).catch((error: unknown) => {
      signal?.throwIfAborted();
      throw error;
    });
    if (status >= 200 && status < 300) return body;
    const why = errorText(body);
    if (status === 401 || status === 403)
      throw new AuthError(`${url.host} answered ${status}: ${why}`);
    throw new AdminError(status, why);
  }

  private async headers(signal: AbortSignal | undefined): Promise<Record<string, string>> {
    const headers: Record<string, string> = { ...this.config.kitHeaders };
    const value = await currentToken(this.config.token, this.config.timeout, signal);
    if (value === undefined) return headers;
    const taken = Object.keys(headers).some((name) => name.toLowerCase() === 'authorization');
    if (!taken) headers['authorization'] = `Bearer ${value}`;
    return headers;
  }
}

function fetchText(
  url: URL,
  options: https.RequestOptions,
  timeout: number,
): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const module = url.protocol === 'https:' ? https : http;
    const request = module.request(url, options);
    const timer = setTimeout(() => {
      reject(new TunnelTimeoutError(`The answer of ${url.host} to ${url.pathname}`, timeout));
      request.destroy();
    }, timeout);
    const fail = (error: Error): void => {
      clearTimeout(timer);
      reject(networkError('No answer from', url.host, error));
    };
    request.on('error', fail);
    request.on('response', (response) => {
      const chunks: Buffer[] = [];
      let size = 0;
      response.on('data', (chunk: Buffer) => {
        size += chunk.length;
        if (size > MAX_ANSWER) request.destroy(new Error('the answer is too large'));
        else chunks.push(chunk);
      });
      response.on('error', fail);
      response.on('end', () => {
        clearTimeout(timer);
        resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString('utf8') });
      });
    });
    request.end();
  });
}

function errorText(body: string): string {
  try {
    const json = JSON.parse(body) as { error?: unknown };
    if (typeof json.error === 'string') return plain(json.error);
  } catch {
    // A proxy answers with something else than our JSON.
  }
  return plain(body.trim(), 200) || 'no reason given';
}
