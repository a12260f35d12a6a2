/**
 * The numbers that RESET and GOAWAY carry (PROTOCOL §1.3).
 */

/** Every code of the protocol by its name. */
export const Code = {
  NoError: 0,
  ProtocolError: 1,
  InternalError: 2,
  FlowControlError: 3,
  StreamClosed: 4,
  FrameSizeError: 5,
  RefusedStream: 6,
  Cancel: 7,
  EnhanceYourCalm: 8,
  BindError: 9,
  IdleTimeout: 10,
  AuthError: 11,
  VersionMismatch: 12,
  BindTakeover: 13,
  ResourceExhausted: 14,
} as const;

const NAMES = [
  'NO_ERROR',
  'PROTOCOL_ERROR',
  'INTERNAL_ERROR',
  'FLOW_CONTROL_ERROR',
  'STREAM_CLOSED',
  'FRAME_SIZE_ERROR',
  'REFUSED_STREAM',
  'CANCEL',
  'ENHANCE_YOUR_CALM',
  'BIND_ERROR',
  'IDLE_TIMEOUT',
  'AUTH_ERROR',
  'VERSION_MISMATCH',
  'BIND_TAKEOVER',
  'RESOURCE_EXHAUSTED',
] as const;

/** The name of a code as the protocol spells it; a number that has no name stays a number. */
export function codeName(code: number): string {
  return NAMES[code] ?? `code ${code}`;
}
