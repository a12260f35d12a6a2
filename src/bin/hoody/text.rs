//! Words from outside made fit for a terminal or a page, and numbers made fit for people.

use std::time::Duration;

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

/// JSON text with the same characters escaped that [`visible`] escapes, as JSON writes them. JSON's
/// own rules leave some of them as they are.
pub fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if !is_deceptive(letter) || letter == '\n' {
            out.push(letter);
            continue;
        }
        for unit in letter.encode_utf16(&mut [0; 2]) {
            out.push_str(&format!("\\u{unit:04x}"));
        }
    }
    out
}

fn is_deceptive(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{061c}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// `text` at most `most` characters long, with the cut shown.
pub fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(most.saturating_sub(1)).collect();
    out.push('…');
    out
}

/// `text` as HTML, in an element or a quoted attribute.
pub fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(letter),
        }
    }
    out
}

/// A count of bytes: `17 B`, `1.2 KiB`, `250 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut scaled = count as f64 / 1024.0;
    let mut unit = 0;
    // What would be rounded up to 1024 is one of the next unit.
    while scaled >= 1023.5 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    // 99.96 would be written as 100.0.
    let digits = usize::from(scaled < 99.95);
    format!("{scaled:.digits$} {}", UNITS[unit])
}

/// A short span: `0.4 ms`, `12 ms`, `3.4 s`, `2m05s`, `3h04m`, `2d03h`.
pub fn span(span: Duration) -> String {
    let millis = span.as_secs_f64() * 1000.0;
    let seconds = span.as_secs();
    match seconds {
        _ if millis < 9.95 => format!("{millis:.1} ms"),
        _ if millis < 999.5 => format!("{millis:.0} ms"),
        0..60 => format!("{:.1} s", (millis / 100.0).floor() / 10.0),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
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
    fn markup_from_outside_stays_text() {
        let escaped = html("<script>alert('x')</script>&\"");
        assert_eq!(
            escaped,
            "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;&quot;"
        );
    }

    #[test]
    fn a_cut_is_shown() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abcde…");
        assert_eq!(cut("日本日本", 3), "日本…");
    }

    #[test]
    fn sizes_and_spans_are_short() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes(150 * 1024), "150 KiB");
        assert_eq!(bytes(1024 * 1024 - 1), "1.0 MiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        assert_eq!(span(Duration::from_micros(400)), "0.4 ms");
        assert_eq!(span(Duration::from_millis(12)), "12 ms");
        assert_eq!(span(Duration::from_millis(3_490)), "3.4 s");
        assert_eq!(span(Duration::from_millis(59_999)), "59.9 s");
        assert_eq!(span(Duration::from_secs(125)), "2m05s");
        assert_eq!(span(Duration::from_secs(11_100)), "3h05m");
        assert_eq!(span(Duration::from_secs(183_600)), "2d03h");
    }
}
