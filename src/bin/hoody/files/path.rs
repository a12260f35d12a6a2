//! From a request's target to a path under the served directory: decoded once, looked at piece by
//! piece, and refused when any piece could mean something else to a file system.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A path below the served directory that cannot name anything else: no `..`, no root, no hidden
/// part, no empty part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Below {
    path: PathBuf,
    directory: bool,
}

/// Why a target names nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// It is no path that may be asked for: `400`.
    Malformed,
    /// It names something hidden: `404`, the same as if it were not there.
    Hidden,
}

impl Below {
    /// Reads an origin-form target (`/a/b%20c?query`).
    pub fn parse(target: &str) -> Result<Below, Wrong> {
        let path = target.split(['?', '#']).next().unwrap_or_default();
        let path = path.strip_prefix('/').ok_or(Wrong::Malformed)?;
        let decoded = decode(path).ok_or(Wrong::Malformed)?;
        let mut below = PathBuf::new();
        let mut hidden = false;
        for piece in decoded.split(|byte| *byte == b'/') {
            match piece {
                b"" | b"." => continue,
                b".." => return Err(Wrong::Malformed),
                // A backslash is a separator to some file systems and browsers; a control character
                // is nothing that a listing of ours links to.
                _ if piece
                    .iter()
                    .any(|byte| *byte == b'\\' || byte.is_ascii_control()) =>
                {
                    return Err(Wrong::Malformed);
                }
                _ => hidden |= is_hidden(piece),
            }
            below.push(OsStr::from_bytes(piece));
        }
        if hidden {
            return Err(Wrong::Hidden);
        }
        let directory = decoded.is_empty() || decoded.ends_with(b"/") || decoded.ends_with(b"/.");
        Ok(Below {
            path: below,
            directory,
        })
    }

    /// The path, relative to the served directory; empty for that directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the target was written as a directory's, with a slash at the end.
    pub fn names_a_directory(&self) -> bool {
        self.directory
    }

    /// The same path as a target, escaped, without a slash at the end unless it is the root. It is
    /// built from the pieces, so that it can never begin with two slashes (another host's address).
    pub fn target(&self) -> String {
        if self.path.as_os_str().is_empty() {
            return "/".into();
        }
        let mut target = String::new();
        for piece in &self.path {
            target.push('/');
            target.push_str(&encode(piece.as_bytes()));
        }
        target
    }
}

/// Whether a name is one that `ls` would not show.
pub fn is_hidden(name: &[u8]) -> bool {
    name.starts_with(b".")
}

/// Percent-escapes all but the unreserved characters (RFC 3986 §2.3).
pub fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(*byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Undoes percent-escapes, once. `None` when an escape is cut short or is none.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        out.push((high * 16 + low) as u8);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(target: &str) -> Result<String, Wrong> {
        Below::parse(target).map(|below| below.path().display().to_string())
    }

    #[test]
    fn ordinary_targets_are_paths() {
        assert_eq!(path("/"), Ok(String::new()));
        assert_eq!(path("/a/b.txt?x=/../y"), Ok("a/b.txt".into()));
        assert_eq!(path("/a%20b/%C3%A9"), Ok("a b/é".into()));
        assert_eq!(path("//a///b/./c"), Ok("a/b/c".into()));
        assert_eq!(path("/a+b"), Ok("a+b".into()));
    }

    #[test]
    fn no_target_leads_up() {
        for target in [
            "/..",
            "/../etc/passwd",
            "/a/../../etc/passwd",
            "/%2e%2e/etc/passwd",
            "/%2E%2e%2fetc/passwd",
            "/a/..%2f..%2fetc/passwd",
            "/..\\etc",
            "/..%5c..%5cetc",
            "/C:\\Windows",
            "/a%00.html",
            "/a%0d%0ab",
            "/%",
            "/%2",
            "/%zz",
            "",
            "etc/passwd",
            "http://evil.example/",
            "*",
        ] {
            assert_eq!(path(target), Err(Wrong::Malformed), "{target}");
        }
    }

    #[test]
    fn escapes_are_undone_once_only() {
        // What `%252e%252e` decodes to is a file's name, not a step up.
        assert_eq!(path("/%252e%252e/x"), Ok("%2e%2e/x".into()));
        assert_eq!(path("/%252fetc"), Ok("%2fetc".into()));
    }

    #[test]
    fn an_escaped_root_stays_below() {
        assert_eq!(path("/%2fetc/passwd"), Ok("etc/passwd".into()));
        assert_eq!(path("/%2f%2fetc"), Ok("etc".into()));
    }

    #[test]
    fn hidden_names_are_hidden_wherever_they_stand() {
        for target in ["/.env", "/.git/config", "/a/.htpasswd", "/%2eenv", "/..."] {
            assert_eq!(path(target), Err(Wrong::Hidden), "{target}");
        }
    }

    #[test]
    fn the_target_built_from_a_path_never_names_a_host() {
        let below = Below::parse("//evil.example").unwrap();
        assert_eq!(below.target(), "/evil.example");
        assert_eq!(
            Below::parse("/a b%2Fc/é/").unwrap().target(),
            "/a%20b/c/%C3%A9"
        );
        assert_eq!(Below::parse("/").unwrap().target(), "/");
    }

    #[test]
    fn a_slash_at_the_end_names_a_directory() {
        for target in ["/", "/a/", "/a/.", "/a%2f"] {
            assert!(
                Below::parse(target).unwrap().names_a_directory(),
                "{target}"
            );
        }
        assert!(!Below::parse("/a").unwrap().names_a_directory());
    }
}
