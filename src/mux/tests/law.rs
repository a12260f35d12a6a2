//! The law of shares as the vectors in `tests/vectors/shares.json` tell it: the TypeScript SDK
//! keeps them as well. The README there says what one case is.

use serde_json::Value;

use crate::mux::credit::RecvCredit;
use crate::mux::share::{Line, leave, share};
use crate::table::Key;

#[test]
fn shares_and_credit_are_what_their_vectors_say() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/shares.json");
    let text = std::fs::read_to_string(path).expect("the vectors are there");
    let cases: Vec<Value> = serde_json::from_str(&text).expect("a file of vectors is JSON");
    assert!(cases.len() > 200, "{} cases", cases.len());
    for case in cases {
        check(&case);
    }
}

fn check(case: &Value) {
    let name = &case["name"];
    let window = number(case, "window");
    match case["rule"].as_str().expect("every case has its rule") {
        "share" => {
            let (available, own) = (number(case, "available"), number(case, "outstanding"));
            let may = share(available, window, own);
            assert_eq!(may, number(case, "share"), "{name}");
            let mut line = Line::default();
            line.join((own, 0, Key::unpack(1 << 32)));
            let calls = line.call(available, window).is_some();
            assert_eq!(case["calls"], calls, "{name}");
        }
        "leave" => {
            let left = leave(number(case, "wanted"), window);
            assert_eq!(left, number(case, "leave"), "{name}");
        }
        "settle" => {
            let (count, piece) = (number(case, "count"), number(case, "piece"));
            let (left, held) = settle(window, count as usize, piece);
            assert_eq!(left, number(case, "left"), "{name}");
            assert_eq!(held.iter().max(), Some(&number(case, "most")), "{name}");
            assert_eq!(held.iter().min(), Some(&number(case, "least")), "{name}");
        }
        "contended" => {
            let credit = received(window, window - number(case, "granted"), 0);
            let before = case["before"] == true;
            assert_eq!(case["contended"], credit.is_contended(before), "{name}");
        }
        "claim-session" => {
            let came = window - number(case, "granted");
            let claim = received(window, came, number(case, "unclaimed")).claim_of_session();
            assert_eq!(claim.unwrap_or(0), number(case, "claim"), "{name}");
        }
        "claim-stream" => {
            let unclaimed = number(case, "unclaimed");
            let came = number(case, "buffered") + unclaimed;
            let claim = received(window, came, unclaimed).claim(true);
            assert_eq!(claim.unwrap_or(0), number(case, "claim"), "{name}");
        }
        rule => panic!("{name}: nobody knows the rule {rule}"),
    }
}

/// Credit of which `came` bytes were used, `passed` of them passed on and not given back.
fn received(window: u32, came: u32, passed: u32) -> RecvCredit {
    let mut credit = RecvCredit::new(window);
    credit.receive(came).expect("a case is possible");
    credit.pass_on(passed, 0);
    credit
}

/// Greedy streams that give nothing back take turns until nobody may have more.
fn settle(window: u32, count: usize, piece: u32) -> (u32, Vec<u32>) {
    let (mut held, mut left) = (vec![0u32; count], window);
    loop {
        let before = left;
        for own in &mut held {
            let may = share(left, window, *own).saturating_sub(*own);
            let sent = may.min(left).min(piece);
            *own += sent;
            left -= sent;
        }
        if left == before {
            return (left, held);
        }
    }
}

fn number(case: &Value, key: &str) -> u32 {
    let number = case[key].as_u64().and_then(|it| u32::try_from(it).ok());
    number.unwrap_or_else(|| panic!("{}: {key} is a number", case["name"]))
}
