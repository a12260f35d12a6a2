//! Words from outside made fit for a terminal, a log or a page of JSON: nothing in them steers or
//! fools whoever reads, and none of them is longer than it may be.
//!
//! Paths, reasons, labels, names and whatever else a peer or a stranger wrote pass through here
//! before they are shown. It is the only place that knows which letters deceive.

use std::fmt::Write as _;

use crate::limits::OUTSIDE_TEXT;

/// `text` with everything escaped that could steer a terminal or fool its reader: control
/// characters (C0, DEL, C1) and those that turn the writing direction or hide.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if is_deceptive(letter) => out.extend(letter.escape_unicode()),
            _ => out.push(letter),
        }
    }
    out
}

/// As [`visible`], but lines stay lines: for whole documents such as metrics.
pub fn visible_lines(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(visible).collect();
    lines.join("\n")
}

/// One piece of a log line that somebody else wrote, such as a peer's reason: at most
/// [`OUTSIDE_TEXT`] characters of it, and those [`visible`].
pub fn said(text: &str) -> String {
    visible(&cut(text, OUTSIDE_TEXT))
}

/// JSON text with the same characters escaped that [`visible`] escapes, as JSON writes them. JSON's
/// own rules leave some of them as they are.
pub fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match is_deceptive(letter) && letter != '\n' {
            true => push_unicode_escape(&mut out, letter),
            false => out.push(letter),
        }
    }
    out
}

/// Appends `text` as a JSON string, quotes included, with what deceives escaped.
pub fn push_json_string(out: &mut String, text: &str) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if is_deceptive(letter) => push_unicode_escape(out, letter),
            _ => out.push(letter),
        }
    }
    out.push('"');
}

fn push_unicode_escape(out: &mut String, letter: char) {
    for unit in letter.encode_utf16(&mut [0; 2]) {
        // A String takes everything.
        let _ = write!(out, "\\u{unit:04x}");
    }
}

fn is_deceptive(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{061c}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// `text` at most `most` characters long, with the cut shown.
pub fn cut(text: &str, most: usize) -> String {
    // Only as far as that is looked at: the text may be long.
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => {
            let mut out: String = text.chars().take(most.saturating_sub(1)).collect();
            out.push('…');
            out
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_steers_a_terminal() {
        assert_eq!(visible("/a\x1b[2J\x07"), "/a\\u{1b}[2J\\u{7}");
        assert_eq!(visible("a\nb\r\tc\0"), "a\\nb\\r\\tc\\u{0}");
        assert_eq!(visible("\u{9b}31m\u{7f}"), "\\u{9b}31m\\u{7f}");
        assert_eq!(visible("gpj\u{202e}.exe"), "gpj\\u{202e}.exe");
        assert_eq!(visible("grüße 日本 🎉"), "grüße 日本 🎉");
        let every: String = (0..=0x10_ffff_u32).filter_map(char::from_u32).collect();
        assert!(!visible(&every).chars().any(char::is_control));
        assert_eq!(visible_lines("a\x1b\nb\n"), "a\\u{1b}\nb");
    }

    #[test]
    fn json_stays_the_same_json() {
        let bad = "a\u{9b}\u{7f}\u{202e}\u{e0001}é🎉";
        let escaped = json(&serde_json::to_string(bad).unwrap());
        assert!(!escaped.chars().any(is_deceptive), "{escaped}");
        assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), bad);
    }

    #[test]
    fn a_cut_is_shown() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abcde…");
        assert_eq!(cut("日本日本", 3), "日本…");
    }

    #[test]
    fn what_a_peer_said_is_short_and_harmless() {
        let reason = format!("no{}\u{202e}", "o".repeat(70_000));
        let short = said(&reason);
        assert_eq!(short.chars().count(), OUTSIDE_TEXT);
        assert!(short.ends_with("oo…"));
        assert_eq!(said("a\u{202e}b\n"), "a\\u{202e}b\\n");
    }

    #[test]
    fn a_json_string_says_the_same_and_hides_nothing() {
        let bad = "q\" b\\ \n\r\t\x1b\u{9b}\u{202e}\u{e0001} ü 🎉";
        let mut out = String::new();
        push_json_string(&mut out, bad);
        assert!(!out.chars().any(is_deceptive), "{out}");
        assert_eq!(serde_json::from_str::<String>(&out).unwrap(), bad);
    }
}
