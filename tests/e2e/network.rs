//! Two machines, a cable between them, and what happens to it: the time until a visitor is served
//! again is printed.

use crate::support::client::Hoody;
use crate::support::http::Talk;
use crate::support::kit::{Kit, KitPlan};
use crate::support::netns::Net;
use crate::support::ongoing::{go_on_over, goes_on};
use crate::support::tcp::TcpServer;
use crate::support::upstream::Upstream;
use crate::support::{PATIENCE, becomes, eventually, long};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a visitor waits at first. Whatever a broken link swallows is never answered, so that
/// visitors must come again; each next one waits a bit longer, for the machine may be just slow.
const IMPATIENT: Duration = Duration::from_millis(300);

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
                goes_on(exchange).unwrap_or_else(|| {
                    exchange.answer(200, "", b"here");
                    true
                })
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
            scene.net.in_kit(|| scene.visit(PATIENCE)),
            "it works before anything is broken"
        );
        scene
    }

    /// Whether a new visitor is served.
    fn visit(&self, patience: Duration) -> bool {
        visit((self.kit.address, self.port).into(), patience)
    }

    /// How long until a visitor is served, counted from now.
    fn until_served(&self, patience: Duration) -> Duration {
        let start = Instant::now();
        let mut wait = IMPATIENT;
        self.net.in_kit(|| {
            eventually("a visitor is served again", patience, || {
                wait += Duration::from_millis(20);
                self.visit(wait).then_some(())
            });
        });
        start.elapsed()
    }

    /// What is open while something happens to the network goes on.
    fn go_on_over(&self, work: impl FnOnce(&AtomicUsize)) {
        let at: SocketAddr = (self.kit.address, self.port).into();
        let connect = || TcpStream::connect(at).expect("it listens");
        go_on_over([(); 2].map(|()| self.net.in_kit(connect)), work);
    }

    /// Waits until the kit has so many sessions, parked ones among them.
    fn has_sessions(&self, count: u64) {
        self.net.in_kit(|| self.kit.has_sessions(count));
    }
}

#[test]
fn what_runs_goes_on_after_whatever_happens_to_the_network_and_the_laptop() {
    let scene = Scene::new(&[]);
    // In the long form the outages are those that a person causes.
    let pick = |short: u64, whole: u64| Duration::from_secs(if long() { whole } else { short });
    let stopped = |scene: &Scene, span| {
        scene.hoody.proc.signal(libc::SIGSTOP);
        std::thread::sleep(span);
        scene.hoody.proc.signal(libc::SIGCONT);
    };
    scene.go_on_over(|came| {
        let then = |what: &str, trouble: &dyn Fn()| {
            trouble();
            let (before, start) = (came.load(Ordering::Relaxed), Instant::now());
            becomes("more comes", true, || {
                came.load(Ordering::Relaxed) > before + 200
            });
            println!("{what}: 200 lines more after {:?}", start.elapsed());
        };
        then("the cable was out", &|| {
            scene.net.cable(false);
            std::thread::sleep(pick(4, 30));
            scene.net.cable(true);
        });
        then("the address changed", &|| scene.net.move_laptop(2, 3));
        then("nothing passed", &|| {
            scene.net.black_hole(true);
            std::thread::sleep(pick(3, 20));
            scene.net.black_hole(false);
        });
        then("the laptop slept", &|| stopped(&scene, pick(10, 50)));
    });
    scene.has_sessions(1);
}

fn visit(at: SocketAddr, patience: Duration) -> bool {
    let Ok(stream) = TcpStream::connect_timeout(&at, patience) else {
        return false;
    };
    let mut talk = Talk::over(stream);
    let short = Some(patience);
    talk.stream.set_read_timeout(short).expect("a TCP socket");
    let asked = talk.say_into_the_void("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    let _ = std::io::Read::read_to_end(&mut talk.stream, &mut answer);
    asked && answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(b"here")
}

/// Visitors that never stop asking, so that the link breaks under load. The work begins when some
/// of them are served.
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
                        let here = visit(at, 4 * IMPATIENT);
                        served.fetch_add(usize::from(here), Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(5));
                    }
                })
            })
            .collect()
    });
    becomes("the load", true, || served.load(Ordering::Relaxed) > 100);
    let result = work();
    stop.store(true, Ordering::Relaxed);
    for visitor in visitors {
        visitor.join().expect("no visitor hangs");
    }
    result
}

fn cable_out_for(seconds: u64) {
    let scene = Scene::new(&[]);
    let before = scene.hoody.mark();
    let took = under_load(&scene, || {
        scene.net.cable(false);
        std::thread::sleep(Duration::from_secs(seconds));
        scene.net.cable(true);
        scene.until_served(Duration::from_secs(60))
    });
    println!("cable out for {seconds} s: served {took:?} after it was back");
    // No ghosts: one would stay for longer than this waits.
    scene.has_sessions(1);
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
        let times = ["--ping-after", "2s", "--pong-timeout", "3s"];
        let scene = Scene::new(&[&times[..], &["--takeover-grace", "2s"]].concat());
        scene.net.cable(false);
        // The kit hears nothing, gives the session its grace, and forgets it.
        scene.has_sessions(0);
        scene.net.cable(true);
        let took = scene.until_served(Duration::from_secs(60));
        println!("cable out for longer than the grace: served {took:?} after it was back");
        scene.has_sessions(1);
    }
}

#[test]
fn a_silent_change_of_the_laptops_address() {
    let scene = Scene::new(&[]);
    let mut all = Vec::new();
    for (from, to) in [(2, 3), (3, 4), (4, 5)] {
        scene.net.move_laptop(from, to);
        // The kit alone would take three times as long to see that nobody answers.
        all.push(scene.until_served(PATIENCE));
    }
    println!("silent change of address: served again after {all:?}");
    scene.has_sessions(1);
}

#[test]
fn a_link_on_which_nothing_passes_any_more() {
    let scene = Scene::new(&[]);
    scene.net.black_hole(true);
    std::thread::sleep(Duration::from_secs(8));
    scene.net.black_hole(false);
    let took = scene.until_served(Duration::from_secs(60));
    println!("nothing passed for 8 s: served {took:?} after it did");
    scene.has_sessions(1);
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
    hoody.wait_state(0, "lost", PATIENCE);
    net.cable(true);
    let ready = hoody.wait_event(0, "ready", Duration::from_secs(60));
    let port = ready["containerPort"].as_u64().expect("a port") as u16;
    assert!(net.in_kit(|| visit((at, port).into(), PATIENCE)));
}

#[test]
fn the_two_machines_reach_each_other_until_the_cable_is_out() {
    let net = Net::new();
    let at: SocketAddr = (net.kit_ip(), 5000).into();
    let server = net.in_kit(|| TcpServer::on(at, |_| {}));
    let reach = |patience| net.in_laptop(|| TcpStream::connect_timeout(&at, patience).is_ok());
    let moment = Duration::from_millis(500);
    assert!(reach(PATIENCE));
    net.cable(false);
    assert!(!reach(moment), "the cable is out");
    net.cable(true);
    assert!(reach(PATIENCE));
    net.black_hole(true);
    assert!(!reach(moment), "nothing passes");
    net.black_hole(false);
    net.move_laptop(2, 3);
    assert!(reach(PATIENCE), "from another address");
    server.accepts(3);
    net.in_kit(|| drop(server));
}
