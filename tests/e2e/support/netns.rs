//! Two machines of our own: network namespaces joined by a cable that can be pulled.

use super::proc::{bash, run};
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A pair of namespaces: the kit's at `.1` and the laptop's at `.2` of one subnet.
pub struct Net {
    kit: String,
    laptop: String,
    number: u32,
}

impl Net {
    /// Makes them; fails with the reason where that is not allowed.
    #[track_caller]
    pub fn new() -> Net {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed) % 250;
        let pid = std::process::id();
        let (kit, laptop) = (format!("hk{pid}x{number}"), format!("hl{pid}x{number}"));
        // SAFETY: geteuid(2) has no arguments and cannot fail.
        let root = unsafe { libc::geteuid() } == 0;
        assert!(
            root,
            "network tests make network namespaces: run them as root"
        );
        let net = Net {
            kit,
            laptop,
            number,
        };
        let (kit, laptop) = (&net.kit, &net.laptop);
        bash(
            20,
            &format!(
                "ip netns add {kit} || {{ echo 'no network namespaces here' >&2; exit 1; }}
                 ip netns add {laptop}
                 ip -n {kit} link add wire type veth peer name wire netns {laptop}
                 for side in {kit}:1 {laptop}:2; do
                   ip -n ${{side%:*}} link set lo up
                   ip -n ${{side%:*}} addr add 10.77.{number}.${{side#*:}}/24 dev wire
                   ip -n ${{side%:*}} link set wire up
                 done"
            ),
        );
        net
    }

    /// The kit's address.
    pub fn kit_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number as u8, 1)
    }

    /// Runs something in the kit's namespace; children started in it stay there.
    pub fn in_kit<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.kit, work)
    }

    /// Runs something in the laptop's namespace; children started in it stay there.
    pub fn in_laptop<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.laptop, work)
    }

    /// Pulls the cable out of the laptop, or puts it back.
    pub fn cable(&self, plugged: bool) {
        let state = if plugged { "up" } else { "down" };
        bash(10, &format!("ip -n {} link set wire {state}", self.laptop));
    }

    /// Gives the laptop another address; nobody is told.
    pub fn move_laptop(&self, from: u8, to: u8) {
        let (laptop, number) = (&self.laptop, self.number);
        bash(
            10,
            &format!(
                "ip -n {laptop} addr del 10.77.{number}.{from}/24 dev wire
                 ip -n {laptop} addr add 10.77.{number}.{to}/24 dev wire"
            ),
        );
    }

    /// Drops every packet between the two without a word to either, or stops doing so: the cable
    /// is in, but somewhere on the way nothing passes.
    pub fn black_hole(&self, on: bool) {
        let (kit, number) = (&self.kit, self.number);
        let verb = if on { "add" } else { "del" };
        bash(
            10,
            &format!("ip -n {kit} route {verb} blackhole 10.77.{number}.2/32"),
        );
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in [&self.kit, &self.laptop] {
            let _ = run(Command::new("ip").args(["netns", "del", name]));
        }
    }
}

/// Runs `work` on a thread that lives in the namespace.
fn inside<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> T {
    let file = File::open(format!("/run/netns/{name}")).expect("ip netns add made it");
    let joined = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: setns(2) takes two numbers; it moves this thread alone, which ends here.
            let moved = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(moved, 0, "entering a network namespace needs root");
            work()
        });
        thread.join()
    });
    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
