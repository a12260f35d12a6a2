//! What every test program of ours needs beside its rooms: waiting, and ports nobody else has.
//!
//! Whatever happens in another thread or program has *not* happened when the call that causes it
//! returns: a counter, a log, a file, `/proc` or a metric is looked at with [`eventually`] or
//! [`becomes`]. A test never sleeps to let something happen, and never asserts how long it took.

use std::fmt::Debug;
use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long anything local may take before the test says that it hangs. It is a hang detector, not
/// a measure of speed: a machine that does many other things at once has this time, too.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks `probe` again and again until it has an answer.
#[track_caller]
pub fn eventually<T>(what: &str, patience: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(
            start.elapsed() < patience,
            "waited {patience:?} for: {what}"
        );
        std::thread::sleep(GLANCE);
    }
}

/// Waits until `probe` gives `want`, and tells what it gave instead if it never does.
#[track_caller]
pub fn becomes<T: PartialEq + Debug>(what: &str, want: T, mut probe: impl FnMut() -> T) {
    let start = Instant::now();
    loop {
        let seen = probe();
        if seen == want {
            return;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "waited {PATIENCE:?} for {what} to be {want:?}: it is {seen:?}"
        );
        std::thread::sleep(GLANCE);
    }
}

/// Waits until `probe` has given the same for `still`: until nothing moves any more. It is for what
/// has no sign of its own, as buffers that fill up.
#[track_caller]
pub fn at_rest<T: PartialEq + Debug>(
    what: &str,
    still: Duration,
    mut probe: impl FnMut() -> T,
) -> T {
    let start = Instant::now();
    let (mut last, mut since) = (probe(), start);
    while since.elapsed() < still {
        assert!(
            start.elapsed() < PATIENCE + still,
            "{what} never comes to rest: it is {last:?}"
        );
        std::thread::sleep(GLANCE);
        let seen = probe();
        if seen != last {
            (last, since) = (seen, Instant::now());
        }
    }
    last
}

/// How long to wait between two looks.
const GLANCE: Duration = Duration::from_millis(15);

/// A port nobody listens on, on any address. It lies below the ephemeral range and below the range
/// EXPOSE picks from, so that the system gives it to nobody.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    reserved(10_500..=19_499, &NEXT)
}

/// A port below 1024 that nobody listens on, and that is none of the kit's reserved ones.
pub fn free_privileged_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    reserved(600..=1019, &NEXT)
}

/// The next free port of `range`. It stays ours until the process ends: a name in the system's
/// abstract namespace stands for it, so that no other test program here picks it at the same time.
fn reserved(range: RangeInclusive<u16>, next: &AtomicU32) -> u16 {
    let (first, count) = (*range.start(), range.len() as u32);
    let start = std::process::id().wrapping_mul(97);
    for _ in 0..count {
        let step = start.wrapping_add(next.fetch_add(1, Ordering::Relaxed));
        let port = first + (step % count) as u16;
        if reserve(port) && TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port in {range:?}");
}

#[cfg(target_os = "linux")]
fn reserve(port: u16) -> bool {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};

    static OURS: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let name = format!("hoody-test-port-{port}");
    let name = SocketAddr::from_abstract_name(name).expect("a short name");
    let Ok(listener) = UnixListener::bind_addr(&name) else {
        return false;
    };
    OURS.lock().expect("no holder panics").push(listener);
    true
}

/// Elsewhere two test programs at the same time are not promised to live together.
#[cfg(not(target_os = "linux"))]
fn reserve(port: u16) -> bool {
    static OURS: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    let mut ours = OURS.lock().expect("no holder panics");
    let fresh = !ours.contains(&port);
    ours.push(port);
    fresh
}
