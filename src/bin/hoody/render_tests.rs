//! What a tunnel prints, in each of the three ways.

use super::*;

const PLAIN: Style = Style {
    json: false,
    quiet: false,
    color: false,
    width: None,
    many: false,
};
const JSON: Style = Style {
    json: true,
    ..PLAIN
};

fn printed(style: Style, lines: &[Line]) -> String {
    let mut screen = Screen::new(String::new(), style);
    for line in lines {
        screen.print(line);
    }
    screen.paper
}

impl Paper for String {
    fn put(&mut self, line: &str, _ordinary: bool) {
        self.push_str(line);
    }
}

#[test]
fn dropped_lines_are_told_in_the_style_of_the_others() {
    assert_eq!(
        dropped_text(3),
        "3 lines were dropped here: nobody read them in time\n"
    );
    let json: serde_json::Value = serde_json::from_str(&dropped_json(3)).unwrap();
    assert_eq!(json["event"], "notice");
    assert!(json["message"].as_str().unwrap().starts_with("3 lines "));
}

fn request(path: &str, status: Option<u16>) -> Line {
    Line::from(RequestRecord {
        container_port: 3000,
        method: "GET".into(),
        target: path.into(),
        status,
        bytes_in: 0,
        bytes_out: 1234,
        duration: Duration::from_micros(12_345),
        remote_addr: Some("203.0.113.9:5".into()),
        cut: None,
    })
}

fn ready(public_url: Option<&str>) -> Line {
    Line::Ready(Ready {
        bind_id: 1,
        kind: "http".into(),
        mode: "expose".into(),
        container_port: 3000,
        public_url: public_url.map(str::to_owned),
        address: public_url.unwrap_or("http://kit.example:3000").to_owned(),
        target: "localhost:3000".into(),
        label: None,
        again: false,
    })
}

fn lost(why: &str) -> Line {
    Line::State {
        state: "lost",
        attempt: None,
        session: None,
        container_port: None,
        why: Some(why.into()),
        retry_in_ms: Some(250),
    }
}

fn connecting(attempt: u32) -> Line {
    Line::State {
        state: "connecting",
        attempt: Some(attempt),
        session: None,
        container_port: None,
        why: None,
        retry_in_ms: None,
    }
}

#[test]
fn a_plain_line_has_method_path_status_size_and_time() {
    let text = printed(PLAIN, &[request("/a?b=c", Some(200))]);
    assert_eq!(text, "GET /a?b=c 200 1.2 KiB 12 ms\n");
    let many = Style {
        many: true,
        ..PLAIN
    };
    assert!(printed(many, &[request("/", None)]).starts_with(":3000  GET / - "));
}

#[test]
fn the_address_is_told_and_the_port_where_the_kit_knows_none() {
    let text = printed(PLAIN, &[ready(Some("https://app-3000.example"))]);
    assert_eq!(text, "https://app-3000.example -> localhost:3000\n");
    let text = printed(PLAIN, &[ready(None)]);
    assert_eq!(text, "http://kit.example:3000 -> localhost:3000\n");
}

#[test]
fn json_is_one_object_a_line_with_its_event_first() {
    let lines = [
        connecting(1),
        ready(None),
        request("/", Some(200)),
        lost("reset"),
        Line::Closed {
            reason: "interrupted",
            kind: None,
            error: None,
        },
    ];
    let text = printed(JSON, &lines);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        [
            r#"{"event":"state","state":"connecting","attempt":1}"#,
            concat!(
                r#"{"event":"ready","bindId":1,"kind":"http","mode":"expose","#,
                r#""containerPort":3000,"publicUrl":null,"address":"http://kit.example:3000","#,
                r#""target":"localhost:3000","label":null,"again":false}"#
            ),
            concat!(
                r#"{"event":"request","containerPort":3000,"method":"GET","path":"/","#,
                r#""status":200,"bytesIn":0,"bytesOut":1234,"durationMs":12.345,"#,
                r#""remoteAddr":"203.0.113.9:5","error":null}"#
            ),
            r#"{"event":"state","state":"lost","why":"reset","retryInMs":250}"#,
            r#"{"event":"closed","reason":"interrupted"}"#,
        ]
    );
}

#[test]
fn nothing_from_outside_reaches_the_terminal_as_it_came() {
    let bad = "/\x1b[2J\x07\u{9b}31m\u{202e}\n";
    for style in [
        PLAIN,
        Style {
            width: Some(200),
            ..PLAIN
        },
        JSON,
    ] {
        let lines = [request(bad, Some(200)), lost(bad), ready(Some(bad))];
        let text = printed(style, &lines);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(
            !text
                .chars()
                .any(|letter| letter.is_control() && letter != '\n'),
            "{text}"
        );
    }
}

#[test]
fn an_outage_is_told_once() {
    let lines = [
        lost("no route"),
        connecting(2),
        lost("no route"),
        connecting(3),
        lost("refused"),
        Line::state("resumed"),
        lost("refused"),
    ];
    let text = printed(PLAIN, &lines);
    let wanted = "lost: no route; trying again in 250 ms\n\
                  lost: refused; trying again in 250 ms\n\
                  resumed\n\
                  lost: refused; trying again in 250 ms\n";
    assert_eq!(text, wanted);
    // Programs are told everything.
    assert_eq!(printed(JSON, &lines).lines().count(), lines.len());
}

#[test]
fn quiet_leaves_addresses_only() {
    let lines = [
        connecting(1),
        ready(None),
        request("/", Some(200)),
        lost("x"),
    ];
    let quiet = Style {
        quiet: true,
        ..PLAIN
    };
    assert_eq!(printed(quiet, &lines).lines().count(), 1);
}

#[test]
fn a_terminal_gets_columns_that_fit_it() {
    let style = Style {
        width: Some(80),
        ..PLAIN
    };
    let long = format!("/{}", "x".repeat(300));
    let text = printed(style, &[request("/", Some(200)), request(&long, Some(404))]);
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    let ends: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
    assert_eq!(ends[0], ends[1]);
}

#[test]
fn colour_is_used_only_where_it_is_wanted() {
    let line = request("/", Some(500));
    let style = Style {
        color: true,
        width: Some(80),
        ..PLAIN
    };
    assert!(printed(style, std::slice::from_ref(&line)).contains("\x1b[31m500\x1b[0m"));
    assert!(!printed(PLAIN, &[line]).contains('\x1b'));
}
