//! Reads `src/` and holds what the house promises: doors between rooms, short files and functions,
//! a word on every file, bounds that are used.

use std::fs;
use std::path::{Path, PathBuf};

/// Columns in a line, at most.
const COLUMNS: usize = 100;
/// Lines in a file, fewer than.
const FILE_LINES: usize = 600;
/// Lines in a function, fewer than.
const FUNCTION_LINES: usize = 70;

/// What no machine may touch: the world, its clock, and tables whose order changes from run to run.
const WORLD: &[&str] = &[
    "mio::",
    "std::net::Tcp",
    "std::net::Udp",
    "std::os::unix::net",
    "std::time::Instant",
    "SystemTime",
    "HashMap",
    "HashSet",
];

/// Every room, from the ground up, and the rooms that its lines may name. `kit` and `client` meet
/// only on the wire.
const DOORS: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("clock", &[]),
    ("entropy", &[]),
    ("table", &[]),
    ("timers", &["clock"]),
    ("buffer", &[]),
    ("digits", &[]),
    ("units", &[]),
    ("text", &["limits"]),
    ("secrets", &["limits"]),
    ("shares", &[]),
    ("machine", &["clock", "table"]),
    ("lawful", &["clock", "machine", "table"]),
    ("effects", &["machine", "timers"]),
    ("wire", &["digits", "limits"]),
    ("http", &["digits", "limits"]),
    ("ws", &["limits"]),
    ("outflow", &["buffer", "http"]),
    ("pipe", &[]),
    (
        "mux",
        &[
            "buffer", "clock", "entropy", "limits", "machine", "outflow", "shares", "table",
            "wire", "ws",
        ],
    ),
    (
        "kit",
        &[
            "buffer", "clock", "effects", "entropy", "http", "limits", "machine", "mux", "outflow",
            "pipe", "shares", "table", "text", "units", "wire", "ws",
        ],
    ),
    (
        "client",
        &[
            "buffer", "clock", "effects", "entropy", "http", "limits", "machine", "mux", "outflow",
            "pipe", "secrets", "shares", "table", "timers", "units", "wire", "ws",
        ],
    ),
    (
        "reactor",
        &[
            "clock", "digits", "entropy", "limits", "machine", "table", "text", "timers",
        ],
    ),
];

/// What tests of a room may name besides.
const FOR_TESTS: &[&str] = &["lawful", "clock", "entropy", "limits", "buffer", "table"];

/// Folders beside a machine: the library's threads and its callers, and the handlers that run there.
const BESIDE_THE_MACHINE: &[&str] = &["client/api/", "client/handler/"];

struct Source {
    /// Below `src/`, with `/`.
    name: String,
    text: String,
}

#[test]
fn every_file_is_tidy() {
    let faults: Vec<String> = sources().iter().flat_map(faults).collect();
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn every_bound_is_used() {
    let sources = sources();
    let of_limits = |source: &&Source| room_of(&source.name) == "limits";
    let text = |source: &Source| source.text.clone();
    let limits: String = sources.iter().filter(of_limits).map(text).collect();
    let others = |source: &&Source| !of_limits(source);
    let rest: String = sources.iter().filter(others).map(text).collect();
    let names = constants(&limits);
    assert!(names.len() > 100, "src/limits.rs");
    for name in names {
        let ties = limits.matches(&name).count() > 1;
        assert!(rest.contains(&name) || ties, "{name} bounds nothing");
    }
}

#[test]
fn untidiness_is_found() {
    let found = |name: &str, text: &str| {
        let source = Source {
            name: name.into(),
            text: text.into(),
        };
        faults(&source).join("\n")
    };
    assert!(found("wire/a.rs", "use std::fmt;\n").contains("opens with"));
    assert!(found("wire/a.rs", "//! A.\nuse crate::kit::Kit;\n").contains("crate::kit"));
    assert!(found("mux/a.rs", "//! A.\nuse std::collections::HashMap;\n").contains("HashMap"));
    assert!(found("kit/a.rs", "//! A.\nuse std::time::Instant;\n").contains("Instant"));
    assert!(found("client/a.rs", "//! A.\nuse crate::kit::Kit;\n").contains("crate::kit"));
    assert!(found("http/a.rs", "//! A.\nuse crate::{limits, mux};\n").contains("crate::mux"));
    assert!(found("annex/a.rs", "//! A.\n").contains("no doors"));
    let in_test = "//! A.\nuse crate::wire::code;\n#[cfg(test)]\nuse crate::lawful::Lawful;\n";
    assert!(found("mux/a.rs", in_test).is_empty());
    assert!(found("mux/a.rs", "//! A.\nuse crate::lawful::Lawful;\n").contains("lawful"));
    let wide = format!("//! {}\n", "x".repeat(COLUMNS));
    assert!(found("kit/a.rs", &wide).contains("columns"));
    let long = format!("//! A.\n{}", "\n".repeat(FILE_LINES));
    assert!(found("kit/a.rs", &long).contains("lines"));
    assert!(found("bin/a.rs", "//! A.\neprintln!(\"x\");\n").contains("may panic"));
    let body = "    step();\n".repeat(FUNCTION_LINES);
    assert!(found("kit/a.rs", &format!("//! A.\nfn f() {{\n{body}}}\n")).contains("function"));
    assert_eq!(
        found(
            "kit/a.rs",
            "//! A.\n// std::time::Instant is named in a comment.\n"
        ),
        ""
    );
}

/// What SECURITY.md says that holds an answer must be there: a test of that name, or a file.
#[test]
fn every_answer_in_security_is_held_by_something() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(top.join("SECURITY.md")).expect("SECURITY.md");
    let mut files = Vec::new();
    for folder in ["src", "tests"] {
        walk(&top.join(folder), &mut files);
    }
    let read = |path: &PathBuf| fs::read_to_string(path).expect("a readable source");
    let code: String = files.iter().map(read).collect();
    let rows = page.lines().filter(|line| line.starts_with("| ")).skip(2);
    let held: Vec<&str> = rows
        .filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next())
        .collect();
    assert!(held.len() > 25, "the table of what went wrong elsewhere");
    for cell in held {
        assert!(
            cell.contains('`') || cell == "nothing to test",
            "held by nothing: {cell}"
        );
        for name in cell.split('`').skip(1).step_by(2) {
            let is_test = code.contains(&format!("fn {name}("));
            assert!(is_test || top.join(name).exists(), "there is no {name}");
        }
    }
}

fn faults(source: &Source) -> Vec<String> {
    let name = &source.name;
    let mut faults = Vec::new();
    if !source.text.starts_with("//! ") {
        faults.push(format!(
            "{name}: every file opens with a //! that says what it is"
        ));
    }
    let lines: Vec<&str> = source.text.lines().collect();
    if lines.len() >= FILE_LINES {
        faults.push(format!(
            "{name}: {} lines, fewer than {FILE_LINES} are a file",
            lines.len()
        ));
    }
    for (at, line) in lines.iter().enumerate() {
        // Octets of a message, and text over several lines, read worse when they are cut.
        let is_literal = line.contains(r"\r\n") || line.ends_with('\\');
        if line.chars().count() > COLUMNS && !is_literal {
            faults.push(format!("{name}:{}: more than {COLUMNS} columns", at + 1));
        }
    }
    faults.extend(closed_doors(name, &lines));
    faults.extend(prints(name, &lines));
    faults.extend(long_functions(name, &lines));
    faults
}

/// The room of a file: the first folder below `src/`, or the file.
fn room_of(name: &str) -> &str {
    let first = name.split('/').next().unwrap_or_default();
    first.trim_end_matches(".rs")
}

fn closed_doors(name: &str, lines: &[&str]) -> Vec<String> {
    let room = room_of(name);
    if matches!(room, "bin" | "lib") {
        return Vec::new();
    }
    let Some((_, open)) = DOORS.iter().find(|(other, _)| *other == room) else {
        return vec![format!("{name}: {room} has no doors in tests/tidy.rs")];
    };
    let beside = BESIDE_THE_MACHINE
        .iter()
        .any(|folder| name.starts_with(folder));
    let mut faults = Vec::new();
    let mut is_test = name.contains("test");
    for (at, line) in lines.iter().enumerate() {
        is_test |= *line == "#[cfg(test)]";
        let code = line.split("//").next().unwrap_or_default();
        let is_open = |other: &str| {
            let by_test = is_test && FOR_TESTS.contains(&other);
            let by_host = beside && other == "reactor";
            other == room || open.contains(&other) || by_test || by_host
        };
        for other in rooms_named(code).filter(|other| !is_open(other)) {
            let at = at + 1;
            faults.push(format!(
                "{name}:{at}: crate::{other} is behind a closed door"
            ));
        }
        let is_world = room == "reactor" || is_test || beside;
        for word in WORLD
            .iter()
            .filter(|word| !is_world && code.contains(**word))
        {
            faults.push(format!("{name}:{}: {word} is behind a closed door", at + 1));
        }
    }
    faults
}

/// The rooms that a line names: `crate::room::…`, or several as `crate::{one::…, other::…}`.
fn rooms_named(code: &str) -> impl Iterator<Item = &str> {
    code.split("crate::").skip(1).flat_map(|piece| {
        let (list, many) = match piece.strip_prefix('{') {
            Some(several) => (several, usize::MAX),
            None => (piece, 1),
        };
        list.split(", ").take(many).filter_map(|word| {
            let end = word.find(|c: char| !c.is_alphanumeric() && c != '_');
            let word = &word[..end.unwrap_or(word.len())];
            // What begins with a capital lies at the top of the crate and is no room.
            word.starts_with(char::is_lowercase).then_some(word)
        })
    })
}

/// These panic when nobody reads or a disk is full. The programs have ways of their own to print.
fn prints(name: &str, lines: &[&str]) -> Vec<String> {
    let tests = lines.iter().position(|line| *line == "#[cfg(test)]");
    let product = match name.contains("test") {
        true => 0,
        false => tests.unwrap_or(lines.len()),
    };
    let words = ["print!(", "println!("];
    let mut faults = Vec::new();
    for (at, line) in lines.iter().enumerate().take(product) {
        let code = line.split("//").next().unwrap_or_default();
        if words.iter().any(|word| code.contains(word)) {
            faults.push(format!("{name}:{}: a print that may panic", at + 1));
        }
    }
    faults
}

/// Functions are found by rustfmt's own layout: a line with `fn` at some depth, and the closing
/// brace at the same depth.
fn long_functions(name: &str, lines: &[&str]) -> Vec<String> {
    let mut faults = Vec::new();
    // A test may list what it looks at; the promise is about the product.
    let tests = lines.iter().position(|line| *line == "#[cfg(test)]");
    let product = if name.contains("test") {
        0
    } else {
        tests.unwrap_or(lines.len())
    };
    for (start, line) in lines.iter().enumerate().take(product) {
        let code = line.trim_start();
        let depth = line.len() - code.len();
        let head = code.split('(').next().unwrap_or_default();
        if !head.split_whitespace().any(|word| word == "fn") || code.starts_with("//") {
            continue;
        }
        let closing = format!("{}}}", " ".repeat(depth));
        let Some(length) = lines[start..].iter().position(|line| *line == closing) else {
            continue;
        };
        if length >= FUNCTION_LINES {
            let at = start + 1;
            faults.push(format!(
                "{name}:{at}: a function of {length} lines, fewer than {FUNCTION_LINES}"
            ));
        }
    }
    faults
}

fn constants(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("pub const "))
        .filter_map(|rest| rest.split(':').next())
        .map(str::to_owned)
        .collect()
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    assert!(found.len() > 50, "src/ has more files than that");
    found
        .into_iter()
        .map(|path| {
            let name = path
                .strip_prefix(&root)
                .expect("below src")
                .to_string_lossy()
                .replace('\\', "/");
            Source {
                name,
                text: fs::read_to_string(&path).expect("a readable source"),
            }
        })
        .collect()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}
