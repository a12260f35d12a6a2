/**
 * What the environment of the process says, where the options do not.
 */
import process from 'node:process';

/** A variable; undefined where it is empty, and where the runtime does not let us look. */
export function fromEnvironment(name: string): string | undefined {
  try {
    const value = process.env[name]?.trim();
    return value === '' ? undefined : value;
  } catch {
    return undefined;
  }
}
