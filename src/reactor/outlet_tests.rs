//! Readers that stop, come back, or go, at the other end of a real pipe.

use super::*;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::time::Duration;

fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: there is room for both descriptors, and whoever gets them owns them.
    let (reader, writer) = unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    };
    (reader.into(), writer.into())
}

fn manner(waiting: usize) -> Manner {
    Manner {
        name: "test",
        waiting,
        dropped: |count| format!("{count} dropped\n"),
        failed: Box::new(|_| {}),
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < until, "{what} never happened");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_full_queue_keeps_what_it_has_and_counts_the_rest_in_one_place() {
    let mut queue = Queue::new(40);
    assert!(queue.push(b"0123456789012345678901234567\n", false));
    assert!(!queue.push(b"too long for it\n", false));
    assert!(!queue.push(b"a\n", false), "it would have hidden the gap");
    assert!(queue.push(b"vital\n", true));
    assert!(!queue.push(b"vital\n", true));
    let mut batch = Vec::new();
    queue.take(&mut batch, |count| format!("{count} dropped\n"));
    assert_eq!(batch, b"0123456789012345678901234567\nvital\n3 dropped\n");
    assert!(queue.is_empty() && queue.push(b"again\n", false));
}

#[test]
fn pieces_are_whole_lines() {
    assert_eq!(piece_of(b"ab\ncd\n"), 6);
    assert_eq!(piece_of(b"ab\ncd"), 3);
    assert_eq!(piece_of(b"ab"), 2);
    let mut two = vec![b'x'; OUTLET_PIECE - 2];
    two.push(b'\n');
    two.extend_from_slice(b"more\n");
    assert_eq!(piece_of(&two), OUTLET_PIECE - 1);
    let mut long = vec![b'x'; OUTLET_PIECE * 2];
    long.extend_from_slice(b"\nmore\n");
    assert_eq!(piece_of(&long), OUTLET_PIECE * 2 + 1);
}

#[test]
fn a_reader_that_stops_stops_nobody_and_learns_what_it_missed() {
    let (mut reader, writer) = pipe();
    let outlet = Outlet::start(writer, manner(8192));
    // More than the pipe and the queue hold together.
    for number in 0..20_000 {
        outlet.put(&format!("line {number}\n"));
    }
    assert!(outlet.dropped() > 0);
    let before = Instant::now();
    outlet.flush();
    assert!(before.elapsed() < OUTLET_LAST_WORDS, "it waited for nobody");
    let dropped = outlet.dropped();
    outlet.put_vital("the end\n");
    drop(outlet);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    let lines = text
        .lines()
        .filter(|line| line.starts_with("line "))
        .count() as u64;
    let told = text
        .lines()
        .filter_map(|line| line.strip_suffix(" dropped"));
    let told: u64 = told.map(|count| count.parse::<u64>().unwrap()).sum();
    assert_eq!((told, lines), (dropped, 20_000 - dropped));
    assert!(text.contains("the end\n"));
}

#[test]
fn what_is_said_last_is_out_before_the_end() {
    let (mut reader, writer) = pipe();
    let outlet = Outlet::start(writer, manner(8192));
    for number in 0..100 {
        outlet.put(&format!("{number}\n"));
    }
    outlet.flush();
    let mut space = [0; 8192];
    let count = reader.read(&mut space).unwrap();
    assert!(space[..count].ends_with(b"\n99\n"));
    assert_eq!(outlet.dropped(), 0);
}

#[test]
fn a_reader_that_went_is_told_once_and_its_lines_are_counted() {
    let (reader, writer) = pipe();
    let (tell, told) = mpsc::channel();
    let outlet = Outlet::start(
        writer,
        Manner {
            failed: Box::new(move |error| tell.send(error.kind()).unwrap()),
            ..manner(8192)
        },
    );
    drop(reader);
    outlet.put("a\n");
    assert_eq!(told.recv(), Ok(io::ErrorKind::BrokenPipe));
    eventually("it is known that nobody reads", || {
        outlet.put("b\n");
        outlet.dropped() > 0
    });
    outlet.flush();
    drop(outlet);
    assert!(told.try_recv().is_err());
}

#[test]
fn without_a_thread_lines_are_written_by_whoever_brings_them() {
    let (mut reader, writer) = pipe();
    let outlet = Outlet::start_with(writer, manner(8192), |_| false);
    outlet.put("a\n");
    outlet.put_vital("b\n");
    outlet.flush();
    let mut space = [0; 16];
    let count = reader.read(&mut space).unwrap();
    assert_eq!(&space[..count], b"a\nb\n");
    drop(reader);
    outlet.put("c\n");
    assert_eq!(outlet.dropped(), 1);
}

#[test]
fn a_stream_that_somebody_made_not_wait_loses_nothing() {
    let (mut reader, writer) = pipe();
    // SAFETY: fcntl(2) on a descriptor of ours.
    unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    let outlet = Outlet::start(writer, manner(1 << 20));
    let line = format!("{}\n", "x".repeat(999));
    (0..500).for_each(|_| outlet.put(&line));
    drop(outlet);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text.len(), 500 * 1000);
}
