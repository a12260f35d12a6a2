//! A link with a rate, a delay, losses and a queue, between two network namespaces.
//!
//! Each end is a TUN device; packets pass through this process, so the TCP at both ends is the
//! kernel's own and sees what a real link would show it. It needs root, and no qdisc of the kernel.

use super::Flags;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant};

/// `TUNSETIFF` of `linux/if_tun.h`, and its flags for plain IP packets.
const TUNSETIFF: libc::c_ulong = 0x4004_54CA;
const PLAIN_TUN: libc::c_short = 0x0001 | 0x1000;

/// One way through the link.
struct Way {
    queue: VecDeque<(Instant, Vec<u8>)>,
    /// When the last packet will have left the bottleneck.
    free_at: Instant,
}

/// What the link does to packets.
struct Link {
    bytes_per_second: f64,
    delay: Duration,
    loss: f64,
    queue_seconds: f64,
    dice: u64,
}

impl Link {
    fn lost(&mut self) -> bool {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice >> 11) as f64 / ((1u64 << 53) as f64) < self.loss
    }

    fn take(&mut self, way: &mut Way, packet: &[u8], now: Instant) {
        let waits = way.free_at.saturating_duration_since(now);
        if self.lost() || waits.as_secs_f64() > self.queue_seconds {
            return;
        }
        let takes = Duration::from_secs_f64(packet.len() as f64 / self.bytes_per_second);
        way.free_at = way.free_at.max(now) + takes;
        way.queue
            .push_back((way.free_at + self.delay, packet.to_vec()));
    }
}

/// Makes the link and carries packets until killed. The ends are `10.88.0.1` and `10.88.0.2`.
pub fn run(flags: &Flags) {
    let mut ends = [open(flags.text("a"), 1), open(flags.text("b"), 2)];
    let rate = flags.fraction("mbit", 100.0) * 1e6 / 8.0;
    let mut link = Link {
        bytes_per_second: rate,
        delay: Duration::from_secs_f64(flags.fraction("delay", 50.0) / 1e3),
        loss: flags.fraction("loss", 0.0) / 100.0,
        queue_seconds: flags.fraction("queue", 256.0) * 1024.0 / rate,
        dice: 0x2545_F491_4F6C_DD1D,
    };
    let start = Instant::now();
    let mut ways = [0, 1].map(|_| Way {
        queue: VecDeque::new(),
        free_at: start,
    });
    println!("{{\"link\": \"up\"}}");
    let mut packet = [0; 65_536];
    loop {
        wait(&ends, &ways);
        let now = Instant::now();
        for side in 0..2 {
            for _ in 0..64 {
                let Ok(count) = ends[side].read(&mut packet) else {
                    break;
                };
                link.take(&mut ways[side], &packet[..count], now);
            }
            let far = 1 - side;
            while ways[side].queue.front().is_some_and(|(due, _)| *due <= now) {
                if let Some((_, bytes)) = ways[side].queue.pop_front() {
                    // A device that is gone or full loses packets, as links do.
                    let _ = ends[far].write(&bytes);
                }
            }
        }
    }
}

fn wait(ends: &[File; 2], ways: &[Way; 2]) {
    let next = ways
        .iter()
        .filter_map(|way| way.queue.front())
        .map(|(due, _)| *due)
        .min();
    let wait = next.map_or(Duration::from_secs(1), |due| {
        due.saturating_duration_since(Instant::now())
    });
    let timeout = libc::timespec {
        tv_sec: wait.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(wait.subsec_nanos() as i32),
    };
    let mut polled = [0, 1].map(|side: usize| libc::pollfd {
        fd: ends[side].as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    });
    // SAFETY: the array and the timespec live on our stack for the length of the call.
    unsafe { libc::ppoll(polled.as_mut_ptr(), 2, &raw const timeout, std::ptr::null()) };
}

/// Makes a TUN device in a namespace and gives it its address.
fn open(namespace: &str, host: u8) -> File {
    let namespace = namespace.to_owned();
    let made = std::thread::spawn(move || {
        let inside = File::open(format!("/run/netns/{namespace}")).expect("the namespace exists");
        // SAFETY: setns(2) takes two numbers; it moves this thread alone, which ends here.
        let moved = unsafe { libc::setns(inside.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(moved, 0, "entering a namespace needs root");
        let tun = File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .expect("the kernel has TUN devices");
        let mut request = [0u8; 40];
        request[..5].copy_from_slice(b"shape");
        request[16..18].copy_from_slice(&PLAIN_TUN.to_ne_bytes());
        // SAFETY: the buffer has the size of `struct ifreq` and lives for the call.
        let set = unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
        assert_eq!(set, 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
        for words in [
            format!("addr add 10.88.0.{host}/24 dev shape"),
            "link set shape up txqueuelen 2000".to_owned(),
        ] {
            let done = Command::new("ip")
                .args(words.split(' '))
                .status()
                .expect("ip runs");
            assert!(done.success(), "ip {words}");
        }
        // SAFETY: fcntl(2) with numbers only, on a descriptor that we own.
        unsafe { libc::fcntl(tun.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        tun
    });
    made.join().expect("the device is made")
}
