/**
 * Readers for what a client says, as the fixture kit and the vectors need them.
 */
import { WireError } from '../../src/wire/frame.js';
import { parseObject } from '../../src/wire/control.js';

export interface HelloRead {
  version: string;
  token: string | undefined;
  capabilities: string[];
  resume: string | undefined;
  maxConnections: number;
}

export function readHello(payload: Buffer): HelloRead {
  const json = parseObject(payload, 'HELLO');
  const { version, auth, resume, maxConnections } = json;
  if (typeof version !== 'string') throw new WireError('BAD_JSON', 'no version');
  const bad =
    maxConnections != null && (!Number.isInteger(maxConnections) || Number(maxConnections) < 0);
  if (bad) throw new WireError('BAD_JSON', 'bad maxConnections');
  if (auth != null && typeof auth !== 'object') throw new WireError('BAD_JSON', 'bad auth');
  if (resume != null && typeof resume !== 'object') throw new WireError('BAD_JSON', 'bad resume');
  const list: unknown = json['capabilities'] ?? [];
  if (!Array.isArray(list)) throw new WireError('BAD_JSON', 'bad capabilities');
  return {
    version,
    token: (auth as { token?: string } | null | undefined)?.token,
    capabilities: list.map(String),
    resume: (resume as { sessionId?: string } | null | undefined)?.sessionId,
    maxConnections: Number(maxConnections ?? 1),
  };
}
