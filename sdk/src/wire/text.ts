/**
 * Text that others wrote, made fit to be shown: in errors, in events, in whatever prints them.
 */

/** How much of such a text is shown. */
const SHOWN = 300;

/** What moves the cursor, turns the line around, or is nothing at all. */
const ODD = /[\p{C}\u2028\u2029]/gu;

/** The text on one line, cut where it is too long, with what cannot be seen written out. */
export function plain(text: string, most = SHOWN): string {
  // Only so much is looked at: a character is two units at the most.
  const shown =
    text.length > most
      ? Array.from(text.slice(0, 2 * most))
          .slice(0, most)
          .join('')
      : text;
  const rest = shown.length < text.length ? '…' : '';
  return shown.replace(ODD, written) + rest;
}

function written(char: string): string {
  return `\\u{${(char.codePointAt(0) ?? 0).toString(16)}}`;
}
