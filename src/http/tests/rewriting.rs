//! Both names of a server, as the vectors in `tests/vectors/http/rewrite.json` and `prefix.json`
//! tell it: the TypeScript SDK reads them too.

use serde_json::Value;

use crate::http::rewrite::{AskedAs, Back, Local, Names};

fn octets<'a>(of: &'a Value, key: &str) -> Option<&'a [u8]> {
    of[key].as_str().map(str::as_bytes)
}

/// What a case's fields become, beside what they should.
fn check(case: &str, fields: &Value, becomes: impl Fn(&[u8], &[u8]) -> Option<Vec<u8>>) {
    for field in fields.as_array().expect("a list of fields") {
        let [name, value, wanted] = [0, 1, 2].map(|at| field[at].as_str());
        let (name, value) = (name.expect("a name"), value.expect("a value"));
        let got = becomes(name.as_bytes(), value.as_bytes());
        let got = got.map(|octets| String::from_utf8(octets).expect("text"));
        assert_eq!(got.as_deref(), wanted, "{case}: {name}: {value}");
    }
}

fn check_vectors(file: &str) {
    let path = format!("{}/tests/vectors/http/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("the vectors are there");
    let cases: Vec<Value> = serde_json::from_str(&text).expect("a file of vectors is JSON");
    assert!(cases.len() > 4);
    for case in &cases {
        let (name, local) = (case["name"].as_str(), octets(case, "local"));
        let (name, local) = (name.expect("a name"), local.expect("a local name"));
        let visitor = &case["visitor"];
        let local = Local {
            scheme: if case["secure"] == true {
                "https"
            } else {
                "http"
            },
            prefix: octets(case, "prefix").unwrap_or_default(),
            kept: case["kept"] == true,
            ..super::local(local)
        };
        let names = Names::new(
            local,
            AskedAs {
                host: octets(visitor, "host"),
                forwarded_host: octets(visitor, "forwardedHost"),
                forwarded_proto: octets(visitor, "forwardedProto"),
                public_url: visitor["publicUrl"].as_str(),
                upgrade: visitor["upgrade"] == true,
                origin: octets(visitor, "origin"),
                content_type: octets(visitor, "contentType"),
            },
        );
        for target in case["targets"].as_array().into_iter().flatten() {
            let [asked, wanted] = [0, 1].map(|at| target[at].as_str());
            let asked = asked.expect("a target");
            let got = names.target(asked.as_bytes());
            let got = got.map(|octets| String::from_utf8(octets.into_owned()).expect("text"));
            assert_eq!(got.as_deref(), wanted, "{name}: {asked}");
        }
        for value in case["leadsOut"].as_array().into_iter().flatten() {
            let value = value.as_str().expect("a value");
            assert!(names.leads_out(b"Destination", value.as_bytes()), "{value}");
        }
        check(name, &case["request"], |field, value| {
            let stays = !names.leads_out(field, value);
            assert!(stays, "{name}: {}", value.escape_ascii());
            names.inwards(field, value)
        });
        let back = names.back();
        check(name, &case["answer"], |field, value| {
            back.as_ref().and_then(|back| back.outwards(field, value))
        });
    }
}

#[test]
fn what_names_the_server_is_rewritten_both_ways_as_the_vectors_say() {
    check_vectors("rewrite.json");
}

#[test]
fn a_prefix_is_put_on_and_taken_off_and_nothing_leads_out_of_it_as_the_vectors_say() {
    check_vectors("prefix.json");
}

#[test]
fn all_fields_of_an_answer_that_change_are_found_by_their_places() {
    let asked_as = AskedAs {
        host: Some(b"a.example"),
        ..AskedAs::default()
    };
    let back = Names::new(super::local(b"l"), asked_as)
        .back()
        .expect("it has a name");
    let fields: [(&[u8], &[u8]); 4] = [
        (b"set-cookie", b"a=b; Domain=l"),
        (b"server", b"http://l/"),
        (b"location", b"http://l/"),
        (b"set-cookie", b"c=d; domain=l; Path=/"),
    ];
    let rewritten = back.rewritten(fields.into_iter());
    let wanted: [(usize, &[u8]); 3] = [(0, b"a=b"), (2, b"http://a.example/"), (3, b"c=d; Path=/")];
    assert_eq!(
        rewritten,
        wanted.map(|(place, value)| (place, value.to_vec()))
    );
    assert_eq!(
        Names::new(super::local(b"l"), AskedAs::default()).back(),
        None::<Back>
    );
}

#[test]
fn no_octets_upset_a_rewriter() {
    let asked_as = AskedAs {
        host: Some(b"a.example"),
        ..AskedAs::default()
    };
    let names = Names::new(super::local(b"l:1"), asked_as);
    let back = names.back().expect("it has a name");
    let pieces: [&[u8]; 12] = [
        b"http://",
        b"//",
        b"l:1",
        b"a.example",
        b"/",
        b";",
        b"=",
        b"url",
        b"Domain",
        b"5",
        b" ",
        b"\xff'",
    ];
    let mut dice = super::Dice::new(7);
    for _ in 0..20_000 {
        let many = dice.below(8);
        let value: Vec<u8> = (0..many)
            .flat_map(|_| pieces[dice.below(pieces.len())])
            .copied()
            .collect();
        for name in ["location", "refresh", "set-cookie"] {
            if let Some(new) = back.outwards(name.as_bytes(), &value) {
                assert!(new != value && back.outwards(name.as_bytes(), &new).is_none());
            }
        }
        let _ = names.inwards(b"referer", &value);
    }
}
