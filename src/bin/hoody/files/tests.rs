//! The answers of the file server, on real directories.

use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use super::*;
use crate::testing::TempDir;

struct Site {
    dir: TempDir,
    root: Root,
}

/// A site with a page, a text of 26 letters, a directory without index, and things that nobody may
/// see.
fn site() -> Site {
    let dir = TempDir::new();
    let at = |name: &str| dir.path().join("site").join(name);
    fs::create_dir_all(at("docs/empty")).unwrap();
    fs::create_dir(at("pages")).unwrap();
    fs::write(at("index.html"), "<h1>home</h1>").unwrap();
    fs::write(at("letters.txt"), "abcdefghijklmnopqrstuvwxyz").unwrap();
    fs::write(at("pages/index.html"), "pages").unwrap();
    fs::write(at("docs/b & <i>.txt"), "b").unwrap();
    fs::write(at("docs/.hidden"), "hidden").unwrap();
    fs::write(at(".env"), "TOKEN=1").unwrap();
    fs::write(dir.path().join("secret"), "secret").unwrap();
    symlink("../../secret", at("docs/out")).unwrap();
    let root = Root::open(&dir.path().join("site")).unwrap();
    Site { dir, root }
}

impl Site {
    fn ask(&self, method: &str, target: &str, fields: &[(&str, &str)]) -> Answer {
        answer(&self.root, method, target, &|name| {
            let found = fields.iter().find(|(field, _)| *field == name);
            found.map(|(_, value)| value.to_string())
        })
    }

    fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &[])
    }

    fn range(&self, range: &str) -> Answer {
        self.ask("GET", "/letters.txt", &[("range", range)])
    }
}

impl Answer {
    fn field(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(field, _)| *field == name);
        found.map_or("", |(_, value)| value.as_str())
    }

    fn text(self) -> String {
        match self.body {
            Body::Bytes(bytes) => String::from_utf8(bytes).unwrap(),
            Body::File(mut file, length) => {
                let mut text = String::new();
                file.read_to_string(&mut text).unwrap();
                assert_eq!(text.len() as u64, length);
                text
            }
        }
    }
}

#[test]
fn a_file_is_served_with_its_type_and_validators() {
    let answer = site().get("/letters.txt?v=1");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.field("content-type"), "text/plain; charset=utf-8");
    assert!(answer.field("etag").starts_with("W/\""));
    assert!(date::parse(answer.field("last-modified")).is_some());
    assert_eq!(answer.field("accept-ranges"), "bytes");
    assert_eq!(answer.text(), "abcdefghijklmnopqrstuvwxyz");
}

#[test]
fn a_directory_shows_its_index() {
    let site = site();
    assert_eq!(site.get("/").text(), "<h1>home</h1>");
    assert_eq!(site.get("/pages/").text(), "pages");
}

#[test]
fn a_directory_without_its_slash_is_redirected_to_itself_only() {
    let site = site();
    let answer = site.get("/pages?a=b");
    assert_eq!(
        (answer.status, answer.field("location")),
        (301, "/pages/?a=b")
    );
    // Never to another host, which `//` at the start would be.
    assert_eq!(site.get("//pages").field("location"), "/pages/");
    assert_eq!(site.get("/letters.txt/").status, 404);
}

#[test]
fn a_listing_is_sorted_escaped_and_shows_nothing_hidden() {
    let site = site();
    let answer = site.get("/docs/");
    assert_eq!(answer.status, 200);
    let page = answer.text();
    let link = "<a href=\"./b%20%26%20%3Ci%3E.txt\">b &amp; &lt;i&gt;.txt</a>";
    assert!(page.contains(link), "{page}");
    assert!(page.find("empty/").unwrap() < page.find("b &amp;").unwrap());
    assert!(!page.contains("hidden") && !page.contains("out"), "{page}");
    assert!(page.contains("<a href=\"../\">"));
}

#[test]
fn a_name_that_is_no_text_can_be_listed_and_fetched() {
    let site = site();
    let name = std::ffi::OsStr::from_bytes(b"\xff.txt");
    fs::write(site.dir.path().join("site/docs").join(name), "odd").unwrap();
    assert!(site.get("/docs/").text().contains("href=\"./%FF.txt\""));
    assert_eq!(site.get("/docs/%FF.txt").text(), "odd");
}

#[test]
fn nothing_outside_is_served_however_it_is_asked_for() {
    let site = site();
    for target in [
        "/../secret",
        "/docs/../../secret",
        "/docs/%2e%2e/%2e%2e/secret",
        "/docs/..%2f..%2fsecret",
        "/..%5csecret",
        "/docs/out",
        "/%00",
        "/etc/passwd",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/.env",
        "/docs/.hidden",
        "/%2eenv",
        "secret",
        "",
        "*",
    ] {
        let answer = site.get(target);
        assert!(
            (400..500).contains(&answer.status),
            "{target}: {}",
            answer.status
        );
        assert!(!answer.text().contains("secret"), "{target}");
    }
}

#[test]
fn what_is_missing_is_not_found() {
    let site = site();
    for target in ["/missing", "/letters.txt/more", "/docs/missing/"] {
        assert_eq!(site.get(target).status, 404, "{target}");
    }
    let long = format!("/{}", "a".repeat(5000));
    assert_eq!(site.get(&long).status, 404);
}

#[test]
fn one_range_is_cut_out() {
    let site = site();
    for (range, said, body) in [
        ("bytes=0-0", "bytes 0-0/26", "a"),
        ("bytes=23-", "bytes 23-25/26", "xyz"),
        ("bytes=-2", "bytes 24-25/26", "yz"),
        ("bytes=20-99", "bytes 20-25/26", "uvwxyz"),
    ] {
        let answer = site.range(range);
        assert_eq!((answer.status, answer.field("content-range")), (206, said));
        assert_eq!(answer.text(), body);
    }
}

#[test]
fn several_ranges_get_the_whole_and_one_behind_the_end_is_refused() {
    let site = site();
    let whole = site.range("bytes=0-1,3-4");
    assert_eq!((whole.status, whole.text().len()), (200, 26));
    let refused = site.range("bytes=26-");
    assert_eq!(
        (refused.status, refused.field("content-range")),
        (416, "bytes */26")
    );
    let head = site.ask("HEAD", "/letters.txt", &[("range", "bytes=0-1")]);
    assert_eq!(head.status, 200);
}

#[test]
fn if_range_cuts_only_the_version_that_it_names() {
    let site = site();
    let seen = site.get("/letters.txt");
    let (date, tag) = (seen.field("last-modified"), seen.field("etag"));
    let ask = |version| {
        let fields = [("range", "bytes=0-1"), ("if-range", version)];
        site.ask("GET", "/letters.txt", &fields).status
    };
    assert_eq!(ask(date), 206);
    // A weak tag proves nothing.
    assert_eq!(ask(tag), 200);
    assert_eq!(ask("Sun, 06 Nov 1994 08:49:37 GMT"), 200);
}

#[test]
fn a_file_that_the_visitor_has_is_not_sent_again() {
    let site = site();
    let seen = site.get("/letters.txt");
    let (date, tag) = (seen.field("last-modified"), seen.field("etag"));
    let ask = |name: &str, value: &str| {
        let answer = site.ask("GET", "/letters.txt", &[(name, value)]);
        (answer.status, answer.text().len())
    };
    let (sent, kept) = ((200, 26), (304, 0));
    assert_eq!(ask("if-modified-since", date), kept);
    assert_eq!(
        ask("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT"),
        sent
    );
    assert_eq!(ask("if-modified-since", "yesterday"), sent);
    assert_eq!(ask("if-none-match", tag), kept);
    assert_eq!(ask("if-none-match", &format!("\"x\", {tag}")), kept);
    assert_eq!(ask("if-none-match", "\"x\""), sent);
    assert_eq!(ask("if-none-match", "*"), kept);
    // A tag that differs decides, whatever the date says.
    let both = [("if-none-match", "\"x\""), ("if-modified-since", date)];
    assert_eq!(site.ask("GET", "/letters.txt", &both).status, 200);
}

#[test]
fn files_cannot_be_changed() {
    let site = site();
    for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE", "get"] {
        let answer = site.ask(method, "/letters.txt", &[]);
        assert_eq!(
            (answer.status, answer.field("allow")),
            (405, METHODS),
            "{method}"
        );
    }
    assert_eq!(site.ask("OPTIONS", "/", &[]).status, 204);
}

#[test]
fn a_file_that_shrinks_while_it_is_sent_is_an_error() {
    let site = site();
    let Body::File(mut body, _) = site.get("/letters.txt").body else {
        panic!("a file has a body");
    };
    let name = site.dir.path().join("site/letters.txt");
    let file = fs::OpenOptions::new().write(true).open(name).unwrap();
    file.set_len(3).unwrap();
    let refused = body.read_to_string(&mut String::new()).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::UnexpectedEof);
}
