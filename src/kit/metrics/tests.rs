//! The page as Prometheus would read it.

use std::time::Duration;

use std::collections::BTreeMap;

use super::*;

fn page(metrics: &Metrics, gauges: &Gauges) -> String {
    let mut out = Vec::new();
    metrics.render(gauges, &About::default(), &mut out);
    String::from_utf8(out).unwrap()
}

/// Samples by their name with labels; panics on whatever the format does not allow.
fn samples(text: &str) -> BTreeMap<String, String> {
    let (mut samples, mut family, mut typed) = (BTreeMap::new(), String::new(), false);
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, sentence) = help.split_once(' ').unwrap();
            assert!(sentence.ends_with('.'), "{line}");
            (family, typed) = (name.to_string(), false);
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, family);
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            typed = true;
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(
                typed && name.starts_with(&family),
                "{line} is outside its family"
            );
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let before = samples.insert(name.to_string(), value.to_string());
            assert_eq!(before, None, "{name} is there twice");
        }
    }
    samples
}

#[test]
fn the_three_gauges_of_the_protocol_have_their_names() {
    let gauges = Gauges {
        sessions: 2,
        bindings: [3, 7, 4, 0, 0],
        fd_permits_available: 5,
        usage: Usage {
            rss: 6,
            fds: 7,
            log_lines_dropped: 8,
        },
        ..Gauges::default()
    };
    let samples = samples(&page(&Metrics::new(), &gauges));
    for (name, value) in [
        ("hoody_tunnel_sessions_active", "2"),
        (
            "hoody_tunnel_bindings_active{kind=\"http\",mode=\"expose\"}",
            "3",
        ),
        (
            "hoody_tunnel_bindings_active{kind=\"tcp\",mode=\"pull\"}",
            "4",
        ),
        ("hoody_tunnel_fd_permits_available", "5"),
        ("process_resident_memory_bytes", "6"),
    ] {
        assert_eq!(samples.get(name).map(String::as_str), Some(value), "{name}");
    }
}

#[test]
fn everything_that_is_counted_is_shown() {
    let mut metrics = Metrics::new();
    metrics.add_traffic(&Traffic {
        frames_in: 1,
        frames_out: 2,
        data_in: 3,
        data_out: 4,
    });
    metrics.add_traffic(&Traffic {
        frames_in: 1,
        frames_out: 1,
        data_in: 1,
        data_out: 1,
    });
    metrics.stream_ended(StreamOutcome::Finished);
    metrics.stream_refused(StreamRefusal::MaxStreams);
    metrics.refused(RefusalReason::Auth);
    metrics.refused(RefusalReason::Protocol);
    metrics.refused(RefusalReason::PreAuthLimit);
    metrics.refused_bind(BindErrCode::PortInUse);
    metrics.refused_join(JoinErrCode::Expired);
    metrics.pong_timeout();
    metrics.bound();
    metrics.violation(Code::ResourceExhausted);
    metrics.session_opened();
    metrics.session_resumed();
    metrics.session_parked();
    metrics.session_ended(SessionEnd::Shutdown);
    metrics.taken_over();
    metrics.accept_failed();
    metrics.admin_answered(202);
    metrics.binding_opened(3000);
    metrics.request(3000, 101);
    metrics.request(3000, 599);
    metrics.request(4000, 204);
    metrics.loop_turn.observe(Duration::from_millis(1));
    let live_traffic = Traffic {
        data_in: 10,
        ..Traffic::default()
    };
    let gauges = Gauges {
        live_traffic,
        ..Gauges::default()
    };
    let samples = samples(&page(&metrics, &gauges));
    for (name, value) in [
        ("frames_total{direction=\"in\"}", "2"),
        ("frames_total{direction=\"out\"}", "3"),
        ("data_bytes_total{direction=\"in\"}", "14"),
        ("data_bytes_total{direction=\"out\"}", "5"),
        ("streams_total{outcome=\"finished\"}", "1"),
        ("stream_refusals_total{reason=\"max_streams\"}", "1"),
        ("stream_refusals_total{reason=\"client\"}", "0"),
        ("handshake_refusals_total{reason=\"auth\"}", "1"),
        ("handshake_refusals_total{reason=\"protocol\"}", "1"),
        ("handshake_refusals_total{reason=\"pre_auth_limit\"}", "1"),
        (
            "protocol_violations_total{code=\"RESOURCE_EXHAUSTED\"}",
            "1",
        ),
        ("sessions_opened_total", "1"),
        ("session_resumes_total", "1"),
        ("session_parks_total", "1"),
        ("sessions_ended_total{reason=\"shutdown\"}", "1"),
        ("takeovers_total", "1"),
        ("bind_refusals_total{code=\"PORT_IN_USE\"}", "1"),
        ("join_refusals_total{code=\"EXPIRED\"}", "1"),
        ("handshake_refusals_total{reason=\"join\"}", "1"),
        ("pong_timeouts_total", "1"),
        ("binds_total", "1"),
        ("accept_failures_total", "1"),
        ("admin_requests_total{status=\"2xx\"}", "1"),
        ("requests_total{binding=\"3000\",status=\"1xx\"}", "1"),
        ("requests_total{binding=\"3000\",status=\"5xx\"}", "1"),
        ("requests_total{binding=\"other\",status=\"2xx\"}", "1"),
        ("loop_turn_seconds_bucket{le=\"0.001\"}", "1"),
        ("loop_turn_seconds_sum", "0.001"),
    ] {
        let name = format!("hoody_tunnel_{name}");
        assert_eq!(
            samples.get(&name).map(String::as_str),
            Some(value),
            "{name}"
        );
    }
}

/// Prometheus' own judgement, where its tool is installed.
#[test]
fn promtool_has_nothing_to_say() {
    use std::process::{Command, Stdio};
    let tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut tool) = tool else { return };
    let mut metrics = Metrics::new();
    metrics.binding_opened(3000);
    metrics.request(3000, 200);
    let text = page(&metrics, &Gauges::default());
    std::io::Write::write_all(&mut tool.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let output = tool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success() && said.is_empty(),
        "{}",
        String::from_utf8_lossy(&said)
    );
}
