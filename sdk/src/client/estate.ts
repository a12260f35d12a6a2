/**
 * An object of this process asks the kit for the session that another one has. Until the kit has
 * answered, that one keeps all it has, and goes on; but it leaves dialling to the other. By event, at
 * the one that has it:
 *
 * | event                | nobody asks      | asked for                       |
 * | -------------------- | ---------------- | ------------------------------- |
 * | another object asks  | asked for        | that one waits for the decision |
 * | the connection is lost | it dials       | noted                           |
 * | ... for the other's  | it is over       | noted                           |
 * | the kit ends it      | it is over       | it is over                      |
 * | the kit says yes     | -                | all goes to the other; over     |
 * | the kit says no      | -                | nobody asks; what was noted is done |
 */
import type { Link } from './link.js';
import type { Memory } from './memory.js';
import type { Ports } from './ports.js';

/** What an object has of a session. */
export interface Belongings {
  readonly link: Link | undefined;
  /** What is kept while there is no link. */
  readonly memory: Memory | undefined;
  readonly ports: Ports;
  /** Connections to a kit that restarts, on which what ran comes to its end. */
  readonly draining: Iterable<Link>;
  /** By which the next BIND is to be known. */
  readonly nextRef: number;
}

/** What another object may get of one, and how that one is told. To be called once. */
export interface Estate extends Belongings {
  /** The kit has said yes, and what is wanted of it was taken. */
  take(): void;
  /** The kit has said no, or nothing in time. */
  giveBack(): void;
}

/** Whom a bequest is of. */
interface Testator {
  /** What it has at the moment. */
  belongings(): Belongings;
  /** Another object asks; false where it is about to end. */
  asked(): boolean;
  /** It goes to another object. */
  taken(): void;
  /** It stays. */
  kept(): void;
}

/** See the module. */
export class Bequest {
  /** Resolves when nobody asks any more. */
  undecided: Promise<void> = Promise.resolve();
  isAsked = false;
  private noted: (() => void)[] = [];
  private starts = new AbortController();

  constructor(private readonly testator: Testator) {}

  /** Aborted when somebody asks. */
  get begun(): AbortSignal {
    return this.starts.signal;
  }

  /** Another object asks; undefined where one does already. */
  begin(): Estate | undefined {
    if (this.isAsked || !this.testator.asked()) return undefined;
    this.isAsked = true;
    let decided: () => void = () => undefined;
    this.undecided = new Promise((resolve) => (decided = resolve));
    const decide = (act: () => void): void => {
      if (!this.isAsked) return;
      this.isAsked = false;
      act();
      for (const noted of this.noted.splice(0)) noted();
      decided();
    };
    const { testator } = this;
    this.starts.abort(new Error('another object asks for the session'));
    this.starts = new AbortController();
    return new Left(
      testator,
      () => decide(() => testator.taken()),
      () => decide(() => testator.kept()),
    );
  }

  /** Does something as soon as nobody asks. */
  afterwards(act: () => void): void {
    if (this.isAsked) this.noted.push(act);
    else act();
  }
}

/** What is there changes while the kit is asked. */
class Left implements Estate {
  constructor(
    private readonly testator: Testator,
    readonly take: () => void,
    readonly giveBack: () => void,
  ) {}

  get link(): Link | undefined {
    return this.testator.belongings().link;
  }

  get memory(): Memory | undefined {
    return this.testator.belongings().memory;
  }

  get ports(): Ports {
    return this.testator.belongings().ports;
  }

  get draining(): Iterable<Link> {
    return this.testator.belongings().draining;
  }

  get nextRef(): number {
    return this.testator.belongings().nextRef;
  }
}
