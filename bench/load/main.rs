//! The bench's own load: servers, visitors, a shaped link, and sessions that are only held.
//!
//! It shares two cores with what it measures, so it does as little as it can: streams come from one
//! static buffer and go to `MSG_TRUNC`, requests are counted and not parsed. Each command prints one
//! JSON object; `bench/tunnel`, `bench/fairness` and `bench/idle` read them.

mod bytes;
mod hold;
mod http;
mod serve;
mod shape;
mod slow;
mod stream;

use std::collections::BTreeMap;

const USAGE: &str = "usage: load COMMAND --key value …
  serve  --http PORT --stream PORT --bulk PORT       upstream servers, until killed
  stream --to ADDR --dir down|up --bytes N --streams K
  fetch  --to ADDR --seconds S --streams K           bulk downloads over HTTP
  http   --to ADDR --conns N --seconds S [--close 1] requests with small replies
  paced  --to ADDR --every MS --seconds S            one small request at a time, with pauses
  stall  --to ADDR --count N                         visitors that ask for bulk and read nothing
  slow   --to ADDR --count N --rate KIB --seconds S  visitors that read bulk slowly
  shape  --a NETNS --b NETNS --mbit N --delay MS --loss PERCENT --queue KIB
  hold   --kit ADDR --sessions N --lanes K --streams M --parked P";

/// The flags of a command.
pub struct Flags(BTreeMap<String, String>);

impl Flags {
    /// A flag that must be there.
    pub fn text(&self, name: &str) -> &str {
        self.0
            .get(name)
            .unwrap_or_else(|| fail(&format!("--{name} is missing")))
    }

    /// A number, or what it is when nothing is said.
    pub fn number(&self, name: &str, default: u64) -> u64 {
        self.0.get(name).map_or(default, |text| {
            text.parse()
                .unwrap_or_else(|_| fail(&format!("--{name} {text} is no number")))
        })
    }

    /// A number with a fraction.
    pub fn fraction(&self, name: &str, default: f64) -> f64 {
        self.0.get(name).map_or(default, |text| {
            text.parse()
                .unwrap_or_else(|_| fail(&format!("--{name} {text} is no number")))
        })
    }
}

fn fail(why: &str) -> ! {
    eprintln!("load: {why}\n{USAGE}");
    std::process::exit(2);
}

fn main() {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_else(|| fail("no command"));
    let mut flags = BTreeMap::new();
    while let Some(word) = words.next() {
        let name = word
            .strip_prefix("--")
            .unwrap_or_else(|| fail(&format!("what is {word}?")));
        let value = words
            .next()
            .unwrap_or_else(|| fail(&format!("{word} needs a value")));
        flags.insert(name.to_owned(), value);
    }
    let flags = Flags(flags);
    match command.as_str() {
        "serve" => serve::run(&flags),
        "stream" => stream::run(&flags),
        "fetch" => stream::fetch(&flags),
        "http" => http::run(&flags),
        "paced" => http::paced(&flags),
        "stall" => stream::stall(&flags),
        "slow" => slow::run(&flags),
        "shape" => shape::run(&flags),
        "hold" => hold::run(&flags),
        other => fail(&format!("no command {other}")),
    }
}

/// The value at a share of sorted numbers, in the unit they have.
pub fn percentile(sorted: &[u64], share: f64) -> u64 {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get((last as f64 * share).round() as usize)
        .copied()
        .unwrap_or(0)
}
