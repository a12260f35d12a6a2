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
import { shownAs } from '../local/address.js';
import { orAborted } from './abort.js';
import type { Grant } from './binding.js';
import { OptionsError, StateError, TunnelTimeoutError } from './errors.js';
import {
  checkBind,
  isId,
  type BindOptions,
  type CheckedBind,
  type CheckedSession,
  type StateStore,
} from './options.js';
import type { Estate } from './estate.js';
import { inTime } from './in-time.js';
import { FileLock } from './lock.js';

/** An object of this process that has a session. */
export interface Holder {
  /** Offers all it has to another object, unless it does already, or cannot. */
  begin(): Estate | undefined;
  /** Whether it offers it to somebody already. */
  readonly isAsked: boolean;
  /** Resolves when it offers it to nobody. */
  readonly undecided: Promise<void>;
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

/** What a session object begins with. */
export interface Claim {
  kept: KeptSession | undefined;
  estate: Estate | undefined;
}

/** Sessions of this process that are remembered; those that were kept first go first. */
const MOST_REMEMBERED = 64;
/** The longest text that is read. */
const MOST_BYTES = 1024 * 1024;

/** Also by a module that is loaded anew in the same process, as some runtimes do on a change. */
const REMEMBERED = Symbol.for('@hoody-ai/hoody-tunnel-sdk sessions 2');
const shared = globalThis as unknown as Record<symbol, Map<string, KeptSession> | undefined>;
const remembered = (shared[REMEMBERED] ??= new Map<string, KeptSession>());

/** Keeps the state of one session object. */
export class Keeper {
  private store: StateStore | undefined;
  private lock: FileLock | undefined;
  private readonly inMemory: boolean;
  private written: string | undefined;
  /** Writes are made one after the other, and of those that wait only the last one. */
  private writing: Promise<void> | undefined;
  private next: { text: string | undefined } | undefined;
  private id: string | undefined;
  private readonly kit: string;
  /** How long each call of a store may take, in milliseconds. */
  private readonly patience: number;

  constructor(
    { state, connectUrl, connectTimeout }: CheckedSession,
    private readonly failed: (message: string) => void,
  ) {
    this.kit = connectUrl.origin + connectUrl.pathname;
    this.patience = connectTimeout;
    this.inMemory = state !== false;
    if (typeof state === 'object') this.store = state;
    else if (typeof state === 'string') this.store = new StateFile(state);
  }

  /**
   * Finds what is known of a session, and asks the object of this process that has it for all that is
   * there. Where yet another one asks, that one has it then, or the one of before still.
   */
  async claim(sessionId: string | undefined, signal: AbortSignal): Promise<Claim> {
    for (;;) {
      const kept = await this.find(sessionId, signal);
      signal.throwIfAborted();
      const { holder } = kept ?? {};
      const estate = holder?.begin();
      if (holder?.isAsked !== true || estate !== undefined) return { kept, estate };
      await orAborted(holder.undecided, signal);
      signal.throwIfAborted();
    }
  }

  /** What is known of a session, or of the one that was kept last where no id is given. */
  private async find(
    sessionId: string | undefined,
    signal: AbortSignal,
  ): Promise<KeptSession | undefined> {
    if (!this.inMemory) return undefined;
    this.takeLock();
    const stored = this.read(await this.text(signal));
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

  /** Resolves when all that was to be written is, or took too long. */
  async done(): Promise<void> {
    const limits = { ms: this.patience, signal: undefined };
    const late = (ms: number): Error => new TunnelTimeoutError('Writing the state', ms);
    try {
      await inTime(() => this.writing, limits, late, asItIs);
    } catch (error) {
      this.failed(messageOf(error));
    }
  }

  private async text(signal: AbortSignal): Promise<unknown> {
    const { store } = this;
    if (store === undefined || store instanceof StateFile) return store?.get();
    const late = (ms: number): Error => new TunnelTimeoutError('state.get', ms);
    const limits = { ms: this.patience, signal };
    return inTime(
      () => store.get(),
      limits,
      late,
      (error) => new StateError(error),
    );
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
    this.next = { text };
    this.writing ??= this.writeAll(store);
  }

  private async writeAll(store: StateStore): Promise<void> {
    const late = (ms: number): Error => new TunnelTimeoutError('state.set', ms);
    const limits = { ms: this.patience, signal: undefined };
    for (let { next } = this; next !== undefined; next = this.next) {
      const { text } = next;
      this.next = undefined;
      try {
        await inTime(() => store.set(text), limits, late, asItIs);
      } catch (error) {
        this.failed(messageOf(error));
      }
    }
    this.writing = undefined;
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
  private read(text: unknown): KeptSession | undefined {
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
  const { fetch, headers, to, ...rest } = options;
  // A handler lives in its process alone, and fields may be secrets: the binding is kept, and its
  // target is not.
  const handler = fetch !== undefined || headers.length > 0;
  return {
    ...rest,
    onError: undefined,
    to: to === undefined ? undefined : shownAs(to),
    handler,
    grant,
  };
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

function asItIs(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
