//! The policy's table, each rule tried, and what may be written in it.

use serde_json::Value;

use super::*;

/// `tests/vectors/forward_policy.json`: what each list says of each address that a host has.
#[test]
fn every_row_of_the_table_is_judged_as_it_says() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/vectors/forward_policy.json"
    );
    let text = std::fs::read_to_string(path).expect("the vectors");
    let cases: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    assert!(cases.len() > 60);
    for case in &cases {
        let word = |key: &str| {
            case[key]
                .as_str()
                .unwrap_or_else(|| panic!("{case}: {key}"))
        };
        let policy = Policy::parse(&[word("allow").to_owned()]).expect("a list");
        if case["unix"].is_string() {
            let allowed = policy.allows_unix(word("unix")).is_ok();
            assert_eq!(case["allowed"], allowed, "{case}");
            continue;
        }
        let port = case["port"].as_u64().expect("a port") as u16;
        let (host, has) = (word("host"), word("has"));
        let addr = SocketAddr::new(has.parse().expect("an address"), port);
        let judged = policy.may_look_up(host, port);
        match judged.and_then(|()| policy.judge(host, addr)) {
            Ok(dials) => assert_eq!(case["dials"], dials.to_string(), "{case}"),
            Err(why) => {
                assert!(case["dials"].is_null(), "{case}: {why}");
                assert!(why.to_string().len() > 20, "{why}");
            }
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_what_would() {
    for odd in [
        "",
        ",",
        "off,loopback",
        "db",
        "db:",
        "db:0",
        "db:65536",
        "db:+1",
        "db:1-2",
        ":80",
        "*:80",
        "::1:80",
        "[::1",
        "[::1]",
        "[::1]80",
        "[db]:1",
        "10.0.0.0/33:1",
        "10.0.0/8:1",
        "127.1:80",
        "0x7f.1:80",
        "2130706433:80",
        "unix:",
        "unix:run/x",
        "a b:1",
        "http://db:80",
        "db:80,",
    ] {
        let refused = Policy::parse(&[odd.to_owned()]);
        assert!(refused.is_err_and(|why| why.len() > 10), "`{odd}`");
    }
}

#[test]
fn lists_add_up_and_are_shown() {
    let parse = |lists: &[&str]| {
        let lists: Vec<String> = lists.iter().map(ToString::to_string).collect();
        Policy::parse(&lists).expect("it makes sense").to_string()
    };
    assert_eq!(parse(&["off"]), "off");
    assert_eq!(parse(&["loopback"]), "loopback");
    assert_eq!(
        parse(&["loopback", "db:1,unix:/x"]),
        "loopback and 2 listed"
    );
    assert_eq!(parse(&["[fd00::]/8:1", "[fd00::/8]:*"]), "2 listed");
}

#[test]
fn what_cannot_be_allowed_is_not_looked_up() {
    let policy = Policy::parse(&["db:5432,10.0.0.0/8:80".to_owned()]).unwrap();
    assert_eq!(policy.may_look_up("db", 5432), Ok(()));
    assert_eq!(policy.may_look_up("web", 80), Ok(()), "it may be in range");
    for (host, port) in [("web", 5432), ("db", 22), ("127.0.0.1", 5432)] {
        assert!(policy.may_look_up(host, port).is_err(), "{host}:{port}");
    }
    assert_eq!(Policy::off().may_look_up("db", 1), Err(Denied::Off));
}
