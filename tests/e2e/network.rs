//! Two machines, a cable between them, and what happens to it: the time until a visitor is served
//! again is printed.

use crate::support::client::Hoody;
use crate::support::http::Talk;
use crate::support::kit::{Kit, KitPlan};
use crate::support::netns::Net;
use crate::support::tcp::TcpServer;
use crate::support::upstream::Upstream;
use crate::support::{PATIENCE, long};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// After a silent change of address a visitor must be served again within this.
const SILENT_CHANGE: Duration = Duration::from_secs(6);

/// A kit on one machine, a client and its web server on the other, a visitor beside the kit.
struct Scene {
    // Dropped in this order: processes first, their network last.
    hoody: Hoody,
    _upstream: Upstream,
    kit: Kit,
    port: u16,
    net: Net,
}

impl Scene {
    fn new(kit_flags: &[&str]) -> Scene {
        let net = Net::new();
        let at = net.kit_ip();
        let kit = net.in_kit(|| KitPlan::new().on(at).flags(kit_flags).start());
        let upstream = net.in_laptop(|| {
            Upstream::start(|exchange| {
                exchange.answer(200, "", b"here");
                true
            })
        });
        let hoody = net.in_laptop(|| Hoody::expose(&kit, upstream.port()));
        let port = hoody.port();
        let scene = Scene {
            hoody,
            _upstream: upstream,
            kit,
            port,
            net,
        };
        assert!(
            scene.net.in_kit(|| scene.visit()),
            "it works before anything is broken"
        );
        scene
    }

    /// Whether a new visitor is served, with little patience.
    fn visit(&self) -> bool {
        visit((self.kit.address, self.port).into())
    }

    /// How long until a visitor is served, counted from now.
    fn until_served(&self, patience: Duration) -> Duration {
        let start = Instant::now();
        self.net.in_kit(|| {
            while !self.visit() {
                assert!(
                    start.elapsed() < patience,
                    "not served again in {patience:?}"
                );
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        start.elapsed()
    }

    fn sessions(&self) -> u64 {
        self.net.in_kit(|| {
            self.kit.json("sessions")["total"]
                .as_u64()
                .expect("a number")
        })
    }
}

fn visit(at: SocketAddr) -> bool {
    let Ok(stream) = TcpStream::connect_timeout(&at, Duration::from_millis(300)) else {
        return false;
    };
    let mut talk = Talk::over(stream);
    let short = Some(Duration::from_millis(300));
    talk.stream.set_read_timeout(short).expect("a TCP socket");
    let asked = talk.say_into_the_void("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    let _ = std::io::Read::read_to_end(&mut talk.stream, &mut answer);
    asked && answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(b"here")
}

/// Visitors that never stop asking, so that the link breaks under load.
fn under_load<T: Send>(scene: &Scene, work: impl FnOnce() -> T + Send) -> T {
    let stop = Arc::new(AtomicBool::new(false));
    let at: SocketAddr = (scene.kit.address, scene.port).into();
    let served = Arc::new(AtomicUsize::new(0));
    let visitors: Vec<_> = scene.net.in_kit(|| {
        (0..8)
            .map(|_| {
                let (stop, served) = (stop.clone(), served.clone());
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        served.fetch_add(usize::from(visit(at)), Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(5));
                    }
                })
            })
            .collect()
    });
    let result = work();
    stop.store(true, Ordering::Relaxed);
    for visitor in visitors {
        visitor.join().expect("no visitor hangs");
    }
    assert!(served.load(Ordering::Relaxed) > 0);
    result
}

fn cable_out_for(seconds: u64) {
    let scene = Scene::new(&[]);
    let before = scene.hoody.mark();
    let took = under_load(&scene, || {
        std::thread::sleep(Duration::from_millis(300));
        scene.net.cable(false);
        std::thread::sleep(Duration::from_secs(seconds));
        scene.net.cable(true);
        scene.until_served(Duration::from_secs(60))
    });
    println!("cable out for {seconds} s: served {took:?} after it was back");
    assert_eq!(scene.sessions(), 1, "one session, no ghosts");
    if seconds > 10 {
        scene.hoody.wait_state(before, "lost", PATIENCE);
    }
}

#[test]
fn a_cable_out_for_five_seconds() {
    cable_out_for(5);
}

#[test]
fn a_cable_out_for_thirty_and_for_seventy_seconds() {
    if long() {
        cable_out_for(30);
        // Longer than the grace: the client binds again on the same port.
        cable_out_for(70);
    } else {
        // The same two cases with a grace that is shorter than the outage.
        let scene = Scene::new(&["--takeover-grace", "2s", "--pong-timeout", "1s"]);
        scene.net.cable(false);
        std::thread::sleep(Duration::from_secs(12));
        scene.net.cable(true);
        let took = scene.until_served(Duration::from_secs(60));
        println!("cable out for 12 s, grace 2 s: served {took:?} after it was back");
        assert_eq!(scene.sessions(), 1, "one session, no ghosts");
    }
}

#[test]
fn a_silent_change_of_the_laptops_address() {
    let scene = Scene::new(&[]);
    let mut all = Vec::new();
    for (from, to) in [(2, 3), (3, 4), (4, 5)] {
        scene.net.move_laptop(from, to);
        all.push(scene.until_served(Duration::from_secs(60)));
    }
    println!("silent change of address: served again after {all:?}");
    assert!(all.iter().all(|took| *took <= SILENT_CHANGE), "{all:?}");
    assert_eq!(scene.sessions(), 1);
}

#[test]
fn a_link_on_which_nothing_passes_any_more() {
    let scene = Scene::new(&[]);
    scene.net.black_hole(true);
    std::thread::sleep(Duration::from_secs(8));
    scene.net.black_hole(false);
    let took = scene.until_served(Duration::from_secs(60));
    println!("nothing passed for 8 s: served {took:?} after it did");
    assert_eq!(scene.sessions(), 1);
}

#[test]
fn the_network_comes_up_after_the_client() {
    let net = Net::new();
    let at = net.kit_ip();
    net.cable(false);
    let kit = net.in_kit(|| KitPlan::new().on(at).start());
    let upstream = net.in_laptop(|| {
        Upstream::start(|exchange| {
            exchange.answer(200, "", b"here");
            true
        })
    });
    let hoody = net.in_laptop(|| {
        let target = format!("127.0.0.1:{}", upstream.port());
        Hoody::start(&kit, &["expose", &target, "--container-port", "0"], 0)
    });
    std::thread::sleep(Duration::from_secs(2));
    net.cable(true);
    let ready = hoody.wait_event(0, "ready", Duration::from_secs(30));
    let port = ready["containerPort"].as_u64().expect("a port") as u16;
    assert!(net.in_kit(|| visit((at, port).into())));
}

#[test]
fn the_two_machines_reach_each_other_until_the_cable_is_out() {
    let net = Net::new();
    let at: SocketAddr = (net.kit_ip(), 5000).into();
    let server = net.in_kit(|| TcpServer::on(at, |_| {}));
    let reach = || {
        let patience = Duration::from_millis(500);
        net.in_laptop(|| TcpStream::connect_timeout(&at, patience).is_ok())
    };
    assert!(reach());
    net.cable(false);
    assert!(!reach(), "the cable is out");
    net.cable(true);
    assert!(reach());
    net.black_hole(true);
    assert!(!reach(), "nothing passes");
    net.black_hole(false);
    net.move_laptop(2, 3);
    assert!(reach(), "from another address");
    assert_eq!(server.accepted(), 3);
    net.in_kit(|| drop(server));
}
