//! Many, one after another: what is left in the kit afterwards must be what was there before.

use crate::support::client::Hoody;
use crate::support::http::Talk;
use crate::support::kit::Kit;
use crate::support::long;
use crate::support::tunnel::{Heard, STREAM_OPEN, Tunnel};
use crate::support::upstream::Upstream;
use std::time::Duration;

/// How much memory may grow: 5 %, and one slab of the allocator for a process this small.
fn flat(before: u64, after: u64) -> bool {
    after <= before + before / 20 + 256
}

#[test]
fn visitors_one_after_another_leave_nothing_behind() {
    let upstream = Upstream::start(|exchange| {
        exchange.answer(200, "", b"x");
        true
    });
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, upstream.port());
    let visit = |count: u32| {
        for _ in 0..count {
            assert_eq!(Talk::port(hoody.port()).get("/").body, b"x");
        }
    };
    let count = if long() { 100_000 } else { 5_000 };
    // The first ones fill pools and tables that stay.
    visit(count / 10);
    let home = kit.permits();
    let before = (kit.proc.rss_kib(), hoody.proc.rss_kib());
    visit(count);
    let after = (kit.proc.rss_kib(), hoody.proc.rss_kib());
    println!(
        "{count} visitors: kit {} to {} KiB, client {} to {} KiB",
        before.0, after.0, before.1, after.1
    );
    assert!(
        flat(before.0, after.0),
        "the kit grew from {} to {} KiB",
        before.0,
        after.0
    );
    assert!(
        flat(before.1, after.1),
        "the client grew from {} to {} KiB",
        before.1,
        after.1
    );
    kit.all_permits_are_home(home);
}

#[test]
fn resumes_one_after_another_leave_nothing_behind() {
    let kit = Kit::start();
    let mut owner = Tunnel::open(&kit);
    let (_, port) = owner.expose(0);
    let id = owner.id();
    let mut owner = Some(owner);
    let mut resume = |count: u32| {
        for round in 0..count {
            let mut old = owner.take().expect("one owner at a time");
            // A request is in flight when the socket drops, now and then.
            let asking = (round % 50 == 0).then(|| {
                let mut talk = Talk::port(port);
                talk.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                old.expect(STREAM_OPEN);
                talk
            });
            if round % 3 == 0 {
                // Sometimes the kit has not noticed yet: the session is moved, not resumed.
                owner = Some(Tunnel::resume(&kit, &id));
                drop(old);
            } else {
                old.vanish(round % 3 == 1);
                owner = Some(Tunnel::resume(&kit, &id));
            }
            let now = owner.as_ref().expect("it came back");
            assert_eq!(now.hello["resumed"], true, "resume {round}");
            if let Some(mut talk) = asking {
                assert!(
                    talk.try_reply(false)
                        .is_none_or(|reply| reply.status >= 500)
                );
            }
        }
    };
    let count = if long() { 10_000 } else { 1_000 };
    resume(count / 10);
    let (home, before) = (kit.permits(), kit.proc.rss_kib());
    resume(count);
    let after = kit.proc.rss_kib();
    println!("{count} resumes: kit {before} to {after} KiB");
    assert!(
        flat(before, after),
        "the kit grew from {before} to {after} KiB"
    );
    kit.all_permits_are_home(home);
    let mut last = owner.expect("the last owner");
    assert!(!matches!(
        last.hear(Duration::from_millis(100)),
        Heard::Close(..)
    ));
    assert!(last.alive());
    assert_eq!(kit.json("bindings")["total"], 1);
}

#[test]
fn aborted_downloads_leave_nothing_behind() {
    let upstream = Upstream::start(|exchange| {
        exchange
            .talk
            .say("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
        let block = vec![1; 65_536];
        while exchange.talk.say_into_the_void(&block) {}
        false
    });
    let kit = Kit::start();
    let hoody = Hoody::expose(&kit, upstream.port());
    let abort = |count: u32| {
        for _ in 0..count {
            let mut talk = Talk::port(hoody.port());
            talk.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            talk.head().expect("a head");
            talk.take(100_000);
        }
    };
    abort(50);
    kit.settles("hoody_tunnel_streams_active", 0);
    let before = (kit.proc.rss_kib(), hoody.proc.rss_kib());
    abort(if long() { 5_000 } else { 300 });
    kit.settles("hoody_tunnel_streams_active", 0);
    let after = (kit.proc.rss_kib(), hoody.proc.rss_kib());
    println!(
        "aborted downloads: kit {} to {} KiB, client {} to {}",
        before.0, after.0, before.1, after.1
    );
    assert!(
        after.0 < before.0 + 3072,
        "the kit grew from {} to {} KiB",
        before.0,
        after.0
    );
    assert!(
        after.1 < before.1 + 6144,
        "the client grew from {} to {} KiB",
        before.1,
        after.1
    );
}
