/**
 * Those payloads of the kit that callers see as well. Nothing here needs a runtime's own types, so
 * that neither do the package's declarations.
 */

/** What can be bound. */
export type BindKind = 'http' | 'tcp';
/** Which way traffic goes. */
export type BindMode = 'expose' | 'pull';

/** A binding that a resumed session still holds. */
export interface ResumedBind {
  bindId: number;
  kind: BindKind;
  mode: BindMode;
  containerPort: number;
  /** As in BIND_OK; older kits leave it out. */
  publicUrl?: string | null;
}

/** A permission to join one more socket to the session. */
export interface JoinTicket {
  index: number;
  nonce: string;
  expiresMs: number;
}

/** The kit's answer to HELLO. */
export interface HelloOk {
  sessionId: string;
  resumed: boolean;
  resumedBinds: ResumedBind[];
  streamWindow: number;
  sessionWindow: number;
  connectionsGranted: number;
  joinTickets: JoinTicket[];
  capabilities: string[];
  maxStreams: number | undefined;
  /** With `replay`: new at each resume that does not go on with the streams of before. */
  epoch?: number | undefined;
  /** With `replay`: how many of our frames the kit has taken. */
  received?: number | undefined;
  /** With `replay`: which of the other lanes stay as they are. */
  lanes?: number[] | undefined;
  /** Names the kit's process. */
  instance?: string | undefined;
}
