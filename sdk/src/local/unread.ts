/**
 * How many bytes the system holds that were written to a connection and that the other end has not
 * read. The runtimes cannot ask a socket, but Linux tells it of all of them in a table.
 */
import { readFile } from 'node:fs/promises';
import type { Below } from '../mux/stalls.js';

/** One row: its addresses, of them the ports, and the bytes in both queues; `tcp6` has longer ones. */
const ROW =
  /^ *[0-9]+: ([0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:([0-9A-F]{4})) [0-9A-F]{2} ([0-9A-F]{8}):([0-9A-F]{8}) /;

/**
 * What the table calls a connection: by its ports. Two that differ in their addresses only count as
 * one; so one of them may seem to move when the other does, which does no harm.
 */
export function connectionOf(localPort: number, remotePort: number): string {
  return `${hex(localPort)}:${hex(remotePort)}`;
}

/**
 * Looks connections up. Those are left out of which the table does not tell, and all of them where
 * there is no table, or it may not be read.
 */
export async function unreadOf(connections: ReadonlySet<string>): Promise<Map<string, Below>> {
  // Without IPv6 the second one is missing.
  const tables = await Promise.all(['/proc/net/tcp', '/proc/net/tcp6'].map(tableOf));
  return readTables(tables, connections);
}

/** The same in the text of tables. */
export function readTables(
  tables: readonly string[],
  connections: ReadonlySet<string>,
): Map<string, Below> {
  const unsent = new Map<string, number>();
  const unread = new Map<string, number>();
  // A table that changes while it is read may have a row twice, or miss one.
  const known = new Set<string>();
  for (const table of tables) {
    for (const row of table.split('\n')) {
      const [, ends, local, remote, tx, rx] = ROW.exec(row) ?? [];
      if (ends === undefined || known.has(ends)) continue;
      const here = `${local ?? ''}:${remote ?? ''}`;
      // The other end of a connection within this machine has a row as well, the other way round.
      const there = `${remote ?? ''}:${local ?? ''}`;
      if (!connections.has(here) && !connections.has(there)) continue;
      known.add(ends);
      if (connections.has(here)) add(unsent, here, tx);
      if (connections.has(there)) add(unread, there, rx);
    }
  }
  const found = new Map<string, Below>();
  for (const [connection, bytes] of unsent) {
    // Whoever is asked about holds bytes back: a table without any does not tell.
    if (bytes > 0) found.set(connection, { unsent: bytes, unread: unread.get(connection) });
  }
  return found;
}

function add(sums: Map<string, number>, connection: string, bytes: string | undefined): void {
  sums.set(connection, (sums.get(connection) ?? 0) + parseInt(bytes ?? '0', 16));
}

async function tableOf(path: string): Promise<string> {
  try {
    return await readFile(path, 'latin1');
  } catch {
    return '';
  }
}

function hex(port: number): string {
  return port.toString(16).toUpperCase().padStart(4, '0');
}
