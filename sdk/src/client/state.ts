/**
 * What a session keeps so that a later one comes back to its ports: its id, and its bindings with
 * their targets. In the memory of this process, and, where asked for, in a file or in a store of
 * the caller's, which a process that died leaves behind.
 *
 * No token is kept, but the id is a capability: a file is readable by its owner alone, is never
 * written or read through a link, and goes away with a clean close. It is locked: a second process
 * leaves it alone and makes a session of its own.
 */
import { randomBytes } from 'node:crypto';
import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs';
import { renameSync, rmSync, writeFileSync } from 'node:fs';
import type { Grant } from './binding.js';
import { OptionsError } from './errors.js';
import {
  checkBind,
  isId,
  type BindOptions,
  type CheckedBind,
  type CheckedSession,
  type StateStore,
} from './options.js';
import type { Link } from './link.js';
import { FileLock } from './lock.js';

/** An object of this process that has a session. */
export interface Holder {
  /** Lets go of it; returns its connection, if that serves a session of such options as well. */
  detach(config: CheckedSession): Link | undefined;
}

/** A binding that was granted. */
export interface KeptBinding {
  options: CheckedBind;
  grant: Grant;
}

/** A session as it was last. */
export interface KeptSession {
  /** The kit's address. An id is told to no other kit. */
  kit: string;
  sessionId: string;
  bindings: KeptBinding[];
  /** The object of this process that holds it. */
  holder: Holder | undefined;
}

/** Sessions of this process that are remembered; those that were kept first go first. */
const MOST_REMEMBERED = 64;
/** The longest text that is read. */
const MOST_BYTES = 1024 * 1024;

/** Also by a module that is loaded anew in the same process, as some runtimes do on a change. */
const REMEMBERED = Symbol.for('@hoody-ai/hoody-tunnel-sdk sessions 1');
const shared = globalThis as unknown as Record<symbol, Map<string, KeptSession> | undefined>;
const remembered = (shared[REMEMBERED] ??= new Map<string, KeptSession>());

/** Keeps the state of one session object. */
export class Keeper {
  private store: StateStore | undefined;
  private lock: FileLock | undefined;
  private readonly inMemory: boolean;
  private written: string | undefined;
  /** Writes are made one after the other. */
  private last: Promise<void> = Promise.resolve();
  private id: string | undefined;

  constructor(
    state: string | false | StateStore | undefined,
    private readonly kit: string,
    private readonly failed: (message: string) => void,
  ) {
    this.inMemory = state !== false;
    if (typeof state === 'object') this.store = state;
    else if (typeof state === 'string') this.store = new StateFile(state);
  }

  /** What is known of a session, or of the one that was kept last where no id is given. */
  async find(sessionId: string | undefined): Promise<KeptSession | undefined> {
    if (!this.inMemory) return undefined;
    this.takeLock();
    const stored = this.store === undefined ? undefined : this.read(await this.store.get());
    const id = sessionId ?? stored?.sessionId;
    const known = id === undefined ? undefined : remembered.get(id);
    if (known?.kit === this.kit) return known;
    return stored?.sessionId === id ? stored : undefined;
  }

  /** Notes how the session stands now. */
  keep(sessionId: string, bindings: KeptBinding[], holder: Holder): void {
    if (!this.inMemory) return;
    if (this.id !== undefined && this.id !== sessionId) remembered.delete(this.id);
    this.id = sessionId;
    remembered.delete(sessionId);
    remembered.set(sessionId, { kit: this.kit, sessionId, bindings, holder });
    for (const id of remembered.keys()) {
      if (remembered.size <= MOST_REMEMBERED) break;
      remembered.delete(id);
    }
    this.write(JSON.stringify({ kit: this.kit, sessionId, bindings: bindings.map(toJson) }));
  }

  /** The object that holds the session is over, and the session may be taken up again. */
  release(): void {
    this.unlock();
    const known = this.id === undefined ? undefined : remembered.get(this.id);
    if (known !== undefined) known.holder = undefined;
  }

  /** The session is over for good. */
  forget(): void {
    if (this.id !== undefined) {
      remembered.delete(this.id);
      this.id = undefined;
      this.write(undefined);
    }
    this.unlock();
  }

  /** Another object has the session now, and keeps it from here on. */
  leave(): void {
    this.id = undefined;
    this.unlock();
  }

  /** Resolves when all that was to be written is. */
  get done(): Promise<void> {
    return this.last;
  }

  private takeLock(): void {
    const { store } = this;
    if (!(store instanceof StateFile) || this.lock !== undefined) return;
    this.attempt(() => {
      const lock = FileLock.take(store.path);
      if (lock instanceof FileLock) {
        this.lock = lock;
        return;
      }
      this.store = undefined;
      this.failed(`${store.path} is in use by process ${lock}: this one has a session of its own`);
    });
  }

  private unlock(): void {
    this.attempt(() => this.lock?.release());
    this.lock = undefined;
  }

  private write(text: string | undefined): void {
    const { store } = this;
    if (store === undefined || text === this.written) return;
    this.written = text;
    if (store instanceof StateFile) return this.attempt(() => store.set(text));
    this.last = this.last.then(async () => {
      try {
        await store.set(text);
      } catch (error) {
        this.failed(messageOf(error));
      }
    });
  }

  /** At once, so that a process which is killed now leaves it behind. */
  private attempt(act: () => void): void {
    try {
      act();
    } catch (error) {
      this.failed(messageOf(error));
    }
  }

  /** A text that is broken, or of another kit, says nothing. */
  private read(text: string | undefined): KeptSession | undefined {
    if (typeof text !== 'string' || text.length > MOST_BYTES) return undefined;
    try {
      const json = JSON.parse(text) as Record<string, unknown>;
      const { kit, sessionId, bindings } = json;
      if (kit !== this.kit || !isId(sessionId) || !Array.isArray(bindings)) return undefined;
      const kept = bindings.map(fromJson).filter((binding) => binding !== undefined);
      return { kit, sessionId, bindings: kept, holder: undefined };
    } catch {
      return undefined;
    }
  }
}

/** A file that belongs to its owner alone. */
class StateFile implements StateStore {
  constructor(readonly path: string) {}

  get(): string | undefined {
    let file: number;
    try {
      file = openSync(this.path, constants.O_RDONLY | noFollow());
    } catch (error) {
      if ((error as { code?: unknown }).code === 'ENOENT') return undefined;
      throw new OptionsError(`state: ${messageOf(error)}`);
    }
    try {
      const stat = fstatSync(file);
      const foreign = process.getuid !== undefined && stat.uid !== process.getuid();
      if (!stat.isFile() || foreign || (process.getuid !== undefined && stat.mode & 0o077)) {
        throw new OptionsError(`state: ${this.path} is no file that is readable by you alone`);
      }
      return stat.size > MOST_BYTES ? undefined : readFileSync(file, 'utf8');
    } finally {
      closeSync(file);
    }
  }

  /** Put in place whole: a link that lies there is replaced, not followed. */
  set(text: string | undefined): void {
    if (text === undefined) return rmSync(this.path, { force: true });
    const next = `${this.path}.${randomBytes(6).toString('hex')}`;
    try {
      writeFileSync(next, text, { mode: 0o600, flag: 'wx' });
      renameSync(next, this.path);
    } catch (error) {
      rmSync(next, { force: true });
      throw error;
    }
  }
}

/** Not every system knows the flag, whatever the types say. */
function noFollow(): number {
  const flags: Record<string, number | undefined> = { ...constants };
  return flags['O_NOFOLLOW'] ?? 0;
}

function toJson({ options, grant }: KeptBinding): object {
  const { fetch, ...rest } = options;
  // A handler lives in its process alone: the binding is kept, and its target is not.
  return { ...rest, handler: fetch !== undefined, grant };
}

function fromJson(value: unknown): KeptBinding | undefined {
  const { handler, grant, ...rest } = value as Record<string, unknown>;
  const { bindId, containerPort, publicUrl } = grant as Record<string, unknown>;
  if (!Number.isSafeInteger(bindId) || !Number.isInteger(containerPort)) return undefined;
  if (handler === true) return undefined;
  if (rest['kind'] === 'tcp' || rest['hostHeader'] === null) delete rest['hostHeader'];
  const url = typeof publicUrl === 'string' ? publicUrl : null;
  return {
    options: checkBind(rest as unknown as BindOptions),
    grant: { bindId: bindId as number, containerPort: containerPort as number, publicUrl: url },
  };
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
