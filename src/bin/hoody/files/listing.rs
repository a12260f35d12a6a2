//! The page that lists a directory without an `index.html`.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;

use super::date;
use super::path::{Below, encode, is_hidden};
use super::root::Root;
use crate::text;

/// Entries that one page lists, at most: the page is made in memory.
const MOST_ENTRIES: usize = 10_000;

struct Entry {
    name: OsString,
    directory: bool,
    size: u64,
    modified: String,
}

/// The page for the directory that `handle` holds open. Directories come first, hidden names and
/// what could not be fetched anyway (links that lead out, sockets) are left out.
pub fn page(root: &Root, below: &Below, handle: &File) -> io::Result<String> {
    let names = root.names(handle, below.path(), MOST_ENTRIES)?;
    let complete = names.len() < MOST_ENTRIES;
    let mut entries: Vec<Entry> = names
        .into_iter()
        .filter_map(|name| entry(root, below, name).transpose())
        .collect::<io::Result<_>>()?;
    entries.sort_by(|a, b| (!a.directory, &a.name).cmp(&(!b.directory, &b.name)));
    Ok(render(below, &entries, complete))
}

/// `None` for what a visitor could not have; an error where only we cannot, for now: a page must
/// not look whole then.
fn entry(root: &Root, below: &Below, name: OsString) -> io::Result<Option<Entry>> {
    let awkward = |byte: &u8| byte.is_ascii_control() || *byte == b'\\';
    if is_hidden(name.as_bytes()) || name.as_bytes().iter().any(awkward) {
        return Ok(None);
    }
    let metadata = match root.file(&below.path().join(&name)) {
        Ok((_, metadata)) => metadata,
        Err(error) if super::is_want(&error) => return Err(error),
        Err(_) => return Ok(None),
    };
    Ok(Some(Entry {
        name,
        directory: metadata.is_dir(),
        size: metadata.len(),
        modified: date::format(super::modified(&metadata)),
    }))
}

fn render(below: &Below, entries: &[Entry], complete: bool) -> String {
    let mut title = String::from("/");
    if !below.path().as_os_str().is_empty() {
        title.push_str(&below.path().to_string_lossy());
        title.push('/');
    }
    let title = text::html(&title);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n<h1>{title}</h1>\n<table>\n"
    );
    if !below.path().as_os_str().is_empty() {
        page.push_str("<tr><td><a href=\"../\">../</a><td><td>\n");
    }
    for entry in entries {
        let slash = if entry.directory { "/" } else { "" };
        let size = match entry.directory {
            true => String::new(),
            false => text::bytes(entry.size),
        };
        page.push_str(&format!(
            "<tr><td><a href=\"./{}{slash}\">{}{slash}</a><td>{size}<td>{}\n",
            encode(entry.name.as_bytes()),
            text::html(&entry.name.to_string_lossy()),
            entry.modified,
        ));
    }
    page.push_str("</table>\n");
    if !complete {
        page.push_str("<p>There is more than this page lists.</p>\n");
    }
    page
}

const STYLE: &str = "body{font:1rem/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;\
    padding:0 1rem;color-scheme:light dark}td{padding:0 1.5rem 0 0}td+td{text-align:right;\
    white-space:nowrap;opacity:.7}";
