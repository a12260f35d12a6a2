/**
 * The ports of a session: those that it has, those that it gives back, and those that it is to have
 * again. It knows neither connections nor what is said to the kit.
 */
import type { StreamOpen } from '../wire/control.js';
import type { MuxStream } from '../mux/stream.js';
import type { Report } from '../local/report.js';
import { Binding, type BindingOwner, type Grant } from './binding.js';
import type { CheckedBind } from './options.js';
import { Orphans } from './orphans.js';
import type { KeptBinding } from './state.js';
import type { ResumedBind } from '../wire/terms.js';

/** See the module. */
export class Ports {
  /** What the kit holds for the session and nobody has bound here. */
  orphans = new Orphans();
  private readonly held = new Map<number, Binding>();
  /** Given back; until the kit has heard of it, visitors come whom it let in before. */
  private readonly leaving = new Map<number, Binding>();
  /** Those that a fresh session has to ask for again. */
  private readonly lacking = new Set<Binding>();
  /** Those of an earlier object, until they are bound here. */
  private readonly restored = new Set<Binding>();

  constructor(private readonly owner: BindingOwner) {}

  /** Those that the kit has granted. */
  get granted(): Binding[] {
    return [...this.held.values()];
  }

  /** Those that a fresh session has to ask for again. */
  get unbound(): Binding[] {
    return [...this.lacking];
  }

  /** What a later session has to know to come back to them. */
  get kept(): KeptBinding[] {
    return [...this.held.values(), ...this.lacking].map((binding) => binding.kept);
  }

  /** As a kit names them that resumes a session. */
  get resumed(): ResumedBind[] {
    return this.granted.map(({ kept: { options, grant } }) => {
      return { kind: options.kind, mode: options.mode, ...grant };
    });
  }

  has(bindId: number): boolean {
    return this.held.has(bindId);
  }

  isUnbound(binding: Binding): boolean {
    return this.lacking.has(binding);
  }

  /** The kit has granted one. */
  enter(options: CheckedBind, grant: Grant): Binding {
    const binding = new Binding(this.owner, options, grant);
    this.held.set(grant.bindId, binding);
    return binding;
  }

  /** What is bound already, by an earlier object of this session: only its target is new. */
  takeRestored(checked: CheckedBind): Binding | undefined {
    const binding = [...this.restored].find((known) => known.fits(checked));
    if (binding === undefined) return undefined;
    this.restored.delete(binding);
    const { grant } = binding.kept;
    if (this.held.get(grant.bindId) !== binding) return undefined;
    binding.release();
    return this.enter(checked, grant);
  }

  /** A resumed session has one, with the target that it had before, where that is known. */
  takeUp(bind: ResumedBind, before: KeptBinding[]): void {
    const { containerPort, kind, mode, bindId } = bind;
    const known = before.find(
      ({ options, grant }) =>
        grant.containerPort === containerPort && options.kind === kind && options.mode === mode,
    );
    if (known === undefined) return this.orphans.add(bind);
    const publicUrl = bind.publicUrl ?? known.grant.publicUrl;
    this.restored.add(this.enter(known.options, { bindId, containerPort, publicUrl }));
  }

  /**
   * All that an earlier object has is here from now on, with its targets; without those that the kit
   * has granted where it names them itself.
   */
  inherit(from: Ports, whole: boolean): void {
    for (const { kept } of from.lacking) {
      this.lacking.add(new Binding(this.owner, kept.options, kept.grant));
    }
    if (!whole) return;
    for (const { kept } of from.granted) this.restored.add(this.enter(kept.options, kept.grant));
    this.orphans = from.orphans;
    from.orphans = new Orphans();
  }

  /** Nothing of it is with the kit any more. */
  forget(): void {
    for (const binding of this.held.values()) this.lacking.add(binding);
    this.held.clear();
  }

  /** The kit has bound one again; false when it is not wanted any more. */
  renew(binding: Binding, grant: Grant): boolean {
    if (!this.lacking.delete(binding)) return false;
    binding.renew(grant);
    this.held.set(grant.bindId, binding);
    return true;
  }

  /** One is given back; false when the kit has nothing to hear of it. */
  leave(binding: Binding): boolean {
    const { bindId } = binding;
    this.lacking.delete(binding);
    if (this.held.get(bindId) !== binding) return false;
    this.held.delete(bindId);
    this.leaving.set(bindId, binding);
    return true;
  }

  /** The kit has heard of it. */
  left(bindId: number): void {
    this.leaving.get(bindId)?.release();
    this.leaving.delete(bindId);
  }

  /** The kit took one away; returns its port, unless that was our own doing. */
  revoke(bindId: number): number | undefined {
    const binding = this.held.get(bindId);
    this.held.delete(bindId);
    binding?.release();
    return binding?.containerPort ?? this.orphans.revoke(bindId)?.containerPort;
  }

  /** A visitor or a caller came; false when there is nothing for it. */
  accept(stream: MuxStream, open: StreamOpen, report: Report): boolean {
    const { bindId, containerPort, kind } = open;
    const binding =
      bindId === undefined
        ? this.byPort(kind, containerPort)
        : (this.held.get(bindId) ?? this.leaving.get(bindId));
    if (binding === undefined) return this.orphans.accept(stream, open);
    binding.accept(stream, open, report);
    return true;
  }

  /** Older kits name the port, or nothing when there is only one binding. */
  private byPort(kind: string, port: number | undefined): Binding | undefined {
    const fitting = this.granted.filter((binding) => binding.kind === kind);
    if (port === undefined) return fitting.length === 1 ? fitting[0] : undefined;
    return fitting.find((binding) => binding.containerPort === port);
  }

  /** The session is over. */
  release(): void {
    for (const binding of [...this.held.values(), ...this.lacking]) binding.release();
    this.held.clear();
    this.lacking.clear();
    this.restored.clear();
    this.orphans.clear();
  }
}
