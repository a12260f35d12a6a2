/**
 * What the checks of options are made of.
 */
import { X509Certificate } from 'node:crypto';
import { isFieldValue, isToken } from '../local/head.js';
import { OptionsError } from './errors.js';

/** Certificates as text, where they are given as bytes; anything else as it is. */
export function asText(ca: unknown): string | string[] | undefined {
  const text = (one: unknown): unknown =>
    one instanceof Uint8Array ? Buffer.from(one).toString('latin1') : one;
  return (Array.isArray(ca) ? ca.map(text) : text(ca)) as string | string[] | undefined;
}

/** Whether a value is PEM text of certificates, or a list of it. */
export function isCa(ca: unknown): boolean {
  return ca === undefined || (Array.isArray(ca) ? ca.length > 0 && ca.every(isPem) : isPem(ca));
}

/** Checks fields, however they are given; none of which `taken` matches. */
export function checkFields(fields: unknown, what: string, taken: RegExp): Record<string, string> {
  const checked: Record<string, string> = {};
  if (fields === undefined) return checked;
  must(isRecord(fields), `${what} must be an object, a Headers, or pairs of name and value`);
  const pairs: unknown[] =
    Symbol.iterator in fields ? [...(fields as Iterable<unknown>)] : Object.entries(fields);
  const seen = new Set<string>();
  for (const pair of pairs) {
    must(Array.isArray(pair) && pair.length === 2, `${what} must be pairs of name and value`);
    const [name, value] = pair as [unknown, unknown];
    must(
      typeof name === 'string' && isToken(name) && typeof value === 'string' && isFieldValue(value),
      `${what}: ${String(name)} is no header field, or its value would break its line`,
    );
    const lower = name.toLowerCase();
    must(!taken.test(lower), `${what}: ${name} belongs to the message itself`);
    must(!seen.has(lower), `${what}: ${name} comes twice`);
    seen.add(lower);
    checked[name] = value;
  }
  return checked;
}

/** Whether a text holds certificates, and nothing of them is broken. */
function isPem(ca: unknown): boolean {
  if (typeof ca !== 'string') return false;
  const blocks =
    ca.match(/-----BEGIN [A-Z0-9 ]*CERTIFICATE-----[^-]*-----END [A-Z0-9 ]*-----/g) ?? [];
  return blocks.length > 0 && blocks.every(isCertificate);
}

function isCertificate(pem: string): boolean {
  try {
    return new X509Certificate(pem).fingerprint256 !== '';
  } catch {
    return false;
  }
}

/** A misspelt option would silently be its default. */
export function only(options: object, keys: readonly string[], what: string): void {
  for (const [key, value] of Object.entries(options)) {
    must(value === undefined || keys.includes(key), `${key} is no option of ${what}`);
  }
}

export function pick(options: object, keys: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(Object.entries(options).filter(([key]) => keys.includes(key)));
}

export function isInteger(value: unknown, least: number, most: number): boolean {
  return Number.isInteger(value) && (value as number) >= least && (value as number) <= most;
}

export function isRecord(value: unknown): value is object {
  return typeof value === 'object' && value !== null;
}

export function must(good: boolean, message: string): asserts good {
  if (!good) throw new OptionsError(message);
}
