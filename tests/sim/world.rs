//! A kit, laptops, and everybody around them, in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use hoody_tunnel::client::{BindOptions, Client, Error, Notice, Order, Proxy, TunnelOptions};
use hoody_tunnel::client::{HostHeader, Spec, Target};
use hoody_tunnel::clock::Instant;
use hoody_tunnel::http::HeadLimits;
use hoody_tunnel::kit::Kit;
use hoody_tunnel::kit::config::Config;
use hoody_tunnel::limits::{DEFAULT_MEMORY, DEFAULT_REPLAY_BUFFER, MIN_REPLAY_BUFFER};
use hoody_tunnel::wire::control::Secret;

use crate::actor::{Actor, Tally};
use crate::dice::Dice;
use crate::echo::Echo;
use crate::excuses::Excuses;
use crate::host::{Host, resolve};
use crate::net::{End, Gone, MILLI, Net, Owner, SECOND};
use crate::operator::Operator;
use crate::plan::{Plan, Style};
use crate::raw::Raw;
use crate::server::Server;
use crate::succession::{self, Succession};
use crate::visitor::Visitor;

/// What happens at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Visitor(usize),
    Crowd(usize, Style),
    Caller(usize),
    Echo(usize, usize),
    Fault,
    StartKit,
    StartClient(usize),
    Bind(usize, u16),
    Retake(usize, u16),
    Upstreams(bool),
    Descriptors,
    WakeUp(usize),
    Upgrade,
    Succeed,
}

/// A laptop: a process that may be restarted, and what its user wants.
pub struct Laptop {
    pub host: Option<Host<Client>>,
    /// Machines that have an heir, and finish what they have begun.
    pub leaving: Vec<Host<Client>>,
    /// It runs several machines, as the library does.
    pub heirs: bool,
    pub connections: u32,
    pub expose: u16,
    pub pull: u16,
    /// The session that it had last, as a file would keep it for the next process.
    pub session: Option<String>,
    /// Ports that stand, by what was told.
    pub bound: BTreeSet<u16>,
    pub online: bool,
    pub references: BTreeMap<u64, u16>,
    next_reference: u64,
    /// Its user asked for the end.
    pub closing: bool,
    pub ended: Option<Option<Error>>,
}

impl Laptop {
    fn hosts(&self) -> impl Iterator<Item = &Host<Client>> {
        self.host.iter().chain(&self.leaving)
    }

    fn hosts_mut(&mut self) -> impl Iterator<Item = &mut Host<Client>> {
        self.host.iter_mut().chain(&mut self.leaving)
    }

    fn new(index: u16, connections: u32) -> Laptop {
        Laptop {
            host: None,
            leaving: Vec::new(),
            heirs: false,
            connections,
            expose: 3000 + index,
            pull: 5000 + index,
            session: None,
            bound: BTreeSet::new(),
            online: false,
            references: BTreeMap::new(),
            next_reference: 1,
            closing: false,
            ended: None,
        }
    }
}

pub struct World {
    pub net: Net,
    pub dice: Dice,
    pub kit: Option<Host<Kit>>,
    pub succession: Succession,
    pub config: Config,
    pub laptops: Vec<Laptop>,
    actors: BTreeMap<usize, (End, Box<dyn Actor>)>,
    /// Since when those are there who came to a port, and whose it is.
    came: BTreeMap<usize, (usize, u64)>,
    pub excuses: Excuses,
    next_actor: usize,
    agenda: BTreeMap<(u64, u64), Act>,
    next_act: u64,
    pub tally: Tally,
    pub rough: bool,
    /// Only connections between laptops and kit are lost, and nobody's memory.
    pub only_cuts: bool,
    /// What the kit says that it has taken is not so.
    pub kit_lies: bool,
    pub healing: bool,
    pub finishing: bool,
    /// What the kit may hold, and the most that it held.
    memory: u64,
    pub most_held: u64,
    pub log: Vec<String>,
    instant_steps: u64,
}

/// Who accepts for local servers.
const HTTP_SERVERS: usize = usize::MAX;
const RAW_SERVERS: usize = usize::MAX - 1;
const HTTP_PORT: u16 = 7000;
const RAW_PORT: u16 = 7001;
/// Bytes of memory that a kit has in a crowd.
const CROWD_MEMORY: u64 = 4 << 20;
const TOKEN: &str = "an-open-secret";

impl World {
    pub fn new(seed: u64, trouble: Trouble) -> World {
        World::with(seed, trouble, None)
    }

    /// A world of good links, whose sessions may have so many streams.
    pub fn crowded(seed: u64, streams: usize) -> World {
        World::with(seed, Trouble::None, Some(streams))
    }

    /// Planted: a kit that thinks it has plenty of memory.
    pub fn wasteful(&mut self) {
        let budget = self.memory;
        self.config.memory = 64 * budget;
        self.config.stream_initial_window = 1 << 20;
        self.config.session_initial_window = 16 << 20;
        let kit = Kit::new(self.config.clone(), self.dice.entropy(), self.now());
        let dice = Dice::new(self.dice.number());
        if let Some(mut old) = self.kit.take() {
            old.kill(false, &mut self.net);
        }
        self.kit = Some(Host::new(kit, Owner::Kit, dice, &mut self.net));
    }

    fn with(seed: u64, trouble: Trouble, crowd: Option<usize>) -> World {
        let mut dice = Dice::new(seed);
        let mut net = Net::new(Dice::new(dice.number()));
        let mut config = config(&mut dice, trouble, Dice::new(!seed));
        if let Some(streams) = crowd {
            net.good_links = true;
            config.max_streams_per_session = streams;
            (config.memory, config.max_sessions) = (CROWD_MEMORY, 4);
            config.replay_buffer = DEFAULT_REPLAY_BUFFER;
        }
        let mut world = World {
            memory: config.memory,
            most_held: 0,
            net,
            kit: None,
            succession: Succession::default(),
            config,
            laptops: Vec::new(),
            actors: BTreeMap::new(),
            came: BTreeMap::new(),
            excuses: Excuses::default(),
            next_actor: 0,
            agenda: BTreeMap::new(),
            next_act: 0,
            tally: Tally::default(),
            rough: trouble != Trouble::None,
            only_cuts: trouble == Trouble::Cuts,
            kit_lies: false,
            healing: false,
            finishing: false,
            log: Vec::new(),
            instant_steps: 0,
            dice,
        };
        world.upstreams(true);
        world.start_kit();
        for index in 0..1 + world.dice.below(3) as u16 {
            let connections = match world.dice.once_in(2) {
                true => 1,
                false => 1 + world.dice.below(4) as u32,
            };
            world.laptops.push(Laptop::new(index, connections));
            world.start_client(usize::from(index));
        }
        world
    }

    pub fn note(&mut self, text: String) {
        self.log
            .push(format!("{:>10} ms {text}", self.net.now / MILLI));
    }

    pub fn at(&mut self, when: u64, act: Act) {
        self.next_act += 1;
        self.agenda.insert((when, self.next_act), act);
    }

    pub fn after(&mut self, millis: u64, act: Act) {
        self.at(self.net.now + millis * MILLI, act);
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(self.net.now)
    }

    pub fn start_kit(&mut self) {
        let kit = Kit::new(self.config.clone(), self.dice.entropy(), self.now());
        let dice = Dice::new(self.dice.number());
        self.kit = Some(Host::new(kit, Owner::Kit, dice, &mut self.net));
    }

    /// No laptops but the first, which has so many connections.
    pub fn keep_one_laptop(&mut self, connections: u32) {
        for laptop in &mut self.laptops {
            if let Some(mut host) = laptop.host.take() {
                host.kill(false, &mut self.net);
            }
        }
        self.laptops.truncate(1);
        self.laptops[0].connections = connections;
        self.start_client(0);
    }

    /// One more laptop, which believes that it is the first.
    pub fn add_twin(&mut self, session: String) {
        self.laptops.push(Laptop {
            session: Some(session),
            ..Laptop::new(1, 1)
        });
        self.start_client_as(1, true);
    }

    pub fn start_client(&mut self, index: usize) {
        self.start_client_as(index, false);
    }

    /// Its session may be kept from before; `same`: it is.
    fn start_client_as(&mut self, index: usize, same: bool) {
        let now = self.now();
        let (entropy, number) = (self.dice.entropy(), self.dice.number());
        let takeover = self.dice.once_in(2);
        let Some(laptop) = self.laptops.get_mut(index) else {
            return;
        };
        let mut options = TunnelOptions::new("ws://10.0.0.1:50")
            .token(TOKEN)
            .proxy(Proxy::None)
            .connections(laptop.connections);
        if number & 1 == 1 {
            // One more way to the same kit, and one that leads nowhere.
            options = options.also_at("ws://10.0.0.9:50").also_at("ws://kit:50");
        }
        if let Some(id) = laptop.session.clone().filter(|_| same || number & 2 == 2) {
            options = options.resume_session_id(id);
        }
        let mut client = Client::new(&options, entropy, now).expect("good options");
        laptop.heirs |= number & 4 == 4;
        if laptop.heirs {
            client = client.with_heirs();
        }
        let owner = Owner::Client(index);
        let host = Host::new(client, owner, Dice::new(number), &mut self.net);
        laptop.host = Some(host);
        (laptop.online, laptop.ended) = (false, None);
        laptop.bound.clear();
        let (expose, pull) = (laptop.expose, laptop.pull);
        self.bind(index, expose, takeover);
        self.bind(index, pull, false);
    }

    pub fn bind(&mut self, index: usize, port: u16, takeover: bool) {
        let Some(laptop) = self.laptops.get_mut(index) else {
            return;
        };
        let Some(host) = laptop.host.as_mut().filter(|_| !laptop.closing) else {
            return;
        };
        let reference = laptop.next_reference;
        laptop.next_reference += 1;
        laptop.references.insert(reference, port);
        let http = SocketAddr::from(([127, 0, 0, 1], HTTP_PORT));
        let raw = SocketAddr::from(([127, 0, 0, 1], RAW_PORT));
        let options = match port < 5000 {
            true => BindOptions::expose(port).takeover(takeover).to(http),
            false => BindOptions::pull(port).to(raw),
        };
        // Every second one by a Unix socket, which is called the same.
        let unix = |port: u16| {
            format!("unix:/run/{port}")
                .parse::<Target>()
                .expect("a target")
        };
        let options = match (port % 2, port < 5000) {
            (1, true) => options
                .to(unix(HTTP_PORT))
                .host_header(HostHeader::Name(http.to_string())),
            (1, false) => options.to(unix(RAW_PORT)),
            _ => options,
        };
        let spec = Box::new(Spec::new(options).expect("good options"));
        host.order(Order::Bind { reference, spec }, &mut self.net);
    }

    /// Its user no longer waits for a port that somebody else has, and asks for it anew.
    fn retake(&mut self, index: usize, port: u16) {
        let laptop = &mut self.laptops[index];
        let found = laptop.references.iter().rev().find(|it| *it.1 == port);
        let Some((reference, _)) = found.filter(|_| !laptop.bound.contains(&port)) else {
            return;
        };
        let reference = *reference;
        if let Some(host) = laptop.host.as_mut().filter(|_| !laptop.closing) {
            host.order(Order::Unbind { reference }, &mut self.net);
            laptop.references.remove(&reference);
            self.act(Act::Bind(index, port));
        }
    }

    /// Its user gives one of a laptop's ports up, and wants it back a little later.
    pub fn unbind(&mut self, index: usize) {
        let at = self.dice.below(2) as usize;
        let laptop = &mut self.laptops[index];
        let port = [laptop.expose, laptop.pull][at];
        let found = laptop.references.iter().rev().find(|it| *it.1 == port);
        let Some((reference, _)) = found else { return };
        let reference = *reference;
        if let Some(host) = laptop.host.as_mut().filter(|_| !laptop.closing) {
            host.order(Order::Unbind { reference }, &mut self.net);
            laptop.bound.remove(&port);
            self.after(1500, Act::Bind(index, port));
        }
    }

    /// The planted bug: one who came to a port is cut.
    pub fn cut_somebody(&mut self) {
        let ends = self.actors.values().map(|(end, _)| *end);
        let mut slow = ends.filter(|end| end.1 == 0 && self.net.port(*end) < 5000);
        if let Some(end) = slow.next() {
            self.net.cut(end, Gone::Reset);
        }
    }

    /// Somebody asks for the sessions, and ends the first.
    pub fn operator(&mut self) {
        let actor = Operator::new(TOKEN, self.net.now);
        let quality = self.net.quality(false);
        let kit = resolve("kit", 50);
        let end = self.net.dial(Owner::Nobody, kit, quality);
        self.add_actor(end, Box::new(actor));
    }

    /// Some who came to a port are silent for ever, without FIN; some are gone, process and all.
    pub fn visitors_vanish(&mut self) {
        let ids: Vec<usize> = self.actors.keys().copied().collect();
        for id in ids {
            let (end, _) = self.actors[&id];
            let port = self.net.port(end);
            if end.1 != 0 || !(3000..6000).contains(&port) || !self.dice.once_in(3) {
                continue;
            }
            if self.dice.once_in(2) {
                self.note(format!("who came to {port} is gone without a word"));
                self.actors.remove(&id);
                self.net.kill(end, true);
            } else {
                self.note(format!("who came to {port} is silent"));
                self.net.vanish(end);
            }
        }
    }

    pub fn upstreams(&mut self, up: bool) {
        for (port, owner) in [(HTTP_PORT, HTTP_SERVERS), (RAW_PORT, RAW_SERVERS)] {
            let addr = resolve("localhost", port);
            match up {
                true => drop(self.net.listeners.insert(addr, Owner::Actor(owner))),
                false => drop(self.net.listeners.remove(&addr)),
            }
        }
    }

    fn add_actor(&mut self, end: End, actor: Box<dyn Actor>) -> usize {
        let id = self.next_actor;
        self.next_actor += 1;
        self.actors.insert(id, (end, actor));
        self.net.adopt(end, Owner::Actor(id));
        id
    }

    /// Somebody comes to an EXPOSE port.
    pub fn visitor(&mut self, index: usize) {
        let rough = self.rough && !self.healing;
        let count = if self.dice.once_in(3) {
            1 + self.dice.below(5)
        } else {
            1
        };
        let style = if rough { Style::Rough } else { Style::Calm };
        self.visitor_with(index, style, count);
    }

    /// Somebody comes to an EXPOSE port with so many requests of a style.
    pub fn visitor_with(&mut self, index: usize, style: Style, count: u64) {
        let plans = (0..count)
            .map(|_| Plan::new(self.dice.number() >> 20, style))
            .collect();
        let port = 3000 + index as u16;
        let actor = Visitor::new(plans, self.net.now);
        let mut quality = self.net.quality(false);
        if style == Style::Slow {
            // Its system's own buffers would hide how slow it is.
            quality.bound = 4096 + self.dice.size(8192);
        }
        let nobody = Owner::Nobody;
        let end = self.net.dial(nobody, resolve("kit", port), quality);
        let id = self.add_actor(end, Box::new(actor));
        self.came.insert(id, (index, self.net.now));
    }

    /// Somebody comes to a PULL port.
    pub fn caller(&mut self, index: usize) {
        let rough = self.rough && !self.healing;
        let actor = Raw::caller(self.dice.number() >> 20, rough);
        let quality = self.net.quality(false);
        let port = 5000 + index as u16;
        let end = self
            .net
            .dial(Owner::Nobody, resolve("localhost", port), quality);
        let id = self.add_actor(end, Box::new(actor));
        self.came.insert(id, (index, self.net.now));
    }

    /// Somebody comes to a PULL port and asks so many times.
    fn echo(&mut self, index: usize, count: usize) {
        let quality = self.net.quality(false);
        let port = resolve("localhost", 5000 + index as u16);
        let end = self.net.dial(Owner::Nobody, port, quality);
        self.add_actor(end, Box::new(Echo::new(count)));
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Visitor(index) => self.visitor(index),
            Act::Crowd(index, style) => self.visitor_with(index, style, 1),
            Act::Caller(index) => self.caller(index),
            Act::Echo(index, count) => self.echo(index, count),
            Act::Fault => crate::faults::strike(self),
            Act::StartKit if self.kit.is_none() => {
                self.note("the kit starts again".into());
                self.start_kit();
            }
            Act::StartKit => {}
            Act::StartClient(index) => {
                if self.laptops[index].host.is_none() {
                    self.note(format!("client {index} starts again"));
                    self.start_client(index);
                }
            }
            Act::Bind(index, port) if self.laptops[index].bound.contains(&port) => {}
            Act::Bind(index, port) => {
                let takeover = self.dice.once_in(2) || self.healing;
                self.bind(index, port, takeover);
            }
            Act::Retake(index, port) => self.retake(index, port),
            Act::Upstreams(up) => self.upstreams(up),
            Act::Descriptors => {}
            Act::Upgrade => succession::upgrade(self),
            Act::Succeed => succession::succeed(self),
            Act::WakeUp(index) => crate::faults::wake_up(self, index),
        }
    }

    /// Lets time pass until `until`.
    pub fn run_until(&mut self, until: u64) {
        loop {
            self.settle();
            let mut next = until;
            let kit = self.kit.as_ref().and_then(Host::next_timeout);
            let clients = self
                .laptops
                .iter()
                .flat_map(Laptop::hosts)
                .filter_map(Host::next_timeout);
            let agenda = self.agenda.keys().next().map(|(at, _)| *at);
            let alarms = self.net.next_alarm();
            let before = self.succession.next_timeout();
            for at in clients.chain(kit).chain(before).chain(agenda).chain(alarms) {
                next = next.min(at);
            }
            self.instant_steps += 1;
            if next > self.net.now {
                self.instant_steps = 0;
            }
            let next = next.max(self.net.now);
            self.net.advance(next);
            if let Some(entry) = self.agenda.first_entry()
                && entry.key().0 <= next
            {
                let act = entry.remove();
                self.act(act);
            } else if next >= until {
                self.settle();
                return;
            }
        }
    }

    pub fn run_for(&mut self, millis: u64) {
        self.run_until(self.net.now + millis * MILLI);
    }

    /// Everybody does what there is to do at this moment.
    fn settle(&mut self) {
        loop {
            for end in self.net.take_changed() {
                match self.net.owner(end) {
                    Owner::Kit => self.kits().for_each(|kit| kit.post(end)),
                    Owner::Client(index) => {
                        let laptop = &mut self.laptops[index];
                        laptop.hosts_mut().for_each(|host| host.post(end));
                    }
                    Owner::Actor(id) => self.step_actor(id),
                    Owner::Nobody => {}
                }
            }
            let accepted = self.accept_for_servers();
            let moved = self.step_hosts();
            self.read_notices();
            if !moved && !accepted && !self.net.has_changed() {
                return;
            }
            self.instant_steps += 1;
            assert!(
                self.instant_steps < 20_000,
                "it spins at {} ms\n{}",
                self.net.now / MILLI,
                self.describe()
            );
        }
    }

    fn step_actor(&mut self, id: usize) {
        let Some((end, mut actor)) = self.actors.remove(&id) else {
            return;
        };
        let before = self.tally.lost;
        let vanished = self.net.has_vanished(end);
        let closed = self.net.was_never_accepted(end) && self.is_without(id, self.net.port(end));
        actor.step(&mut self.net, end, &mut self.tally);
        if self.tally.lost > before && !vanished && !closed && !self.is_excused(id) {
            let (what, notes) = (actor.describe(), self.tally.notes.last());
            panic!(
                "a stream was lost at {}: {what} {notes:?}\n{}",
                self.net.now / MILLI,
                self.describe()
            );
        }
        if !actor.is_done() {
            self.actors.insert(id, (end, actor));
        }
    }

    /// Whether somebody came to a port that his laptop knows it does not have: whoever had it before
    /// was waited for as long as the grace, and it is closed until the laptop asks for it again.
    fn is_without(&self, id: usize, port: u16) -> bool {
        let came = self.came.get(&id);
        came.is_some_and(|(index, _)| !self.laptops[*index].bound.contains(&port))
    }

    /// Whether somebody may be cut now: streams do not survive here, or not what went wrong.
    fn is_excused(&self, id: usize) -> bool {
        let Some((index, since)) = self.came.get(&id) else {
            return true;
        };
        let grace = self.config.takeover_grace.as_nanos() as u64;
        let plan = self.config.memory_plan();
        let lanes = plan.lanes.min(self.laptops[*index].connections as usize);
        let kept = plan.kept_of(lanes) >= MIN_REPLAY_BUFFER && grace != 0;
        !kept || self.excuses.cover(*index, *since, self.net.now, grace)
    }

    fn accept_for_servers(&mut self) -> bool {
        let waiting = self.net.backlog.iter().position(|(_, end)| {
            matches!(
                self.net.owner(*end),
                Owner::Actor(HTTP_SERVERS | RAW_SERVERS)
            )
        });
        let Some(at) = waiting else { return false };
        let (addr, end) = self.net.backlog.remove(at);
        self.net.adopt((end.0, 0), self.net.owner((end.0, 0)));
        let actor: Box<dyn Actor> = match addr.port() {
            HTTP_PORT => Box::new(Server::default()),
            _ => Box::new(Raw::service()),
        };
        self.add_actor(end, actor);
        true
    }

    fn step_hosts(&mut self) -> bool {
        let count = self.laptops.len() as u64 + 1;
        let first = self.dice.below(count);
        let mut moved = false;
        for offset in 0..count {
            let at = ((first + offset) % count) as usize;
            moved |= match self.laptops.get_mut(at) {
                Some(laptop) => {
                    let mut moved = false;
                    laptop
                        .hosts_mut()
                        .for_each(|host| moved |= host.step(&mut self.net));
                    moved
                }
                None => {
                    let kits = self.kit.iter_mut().chain(&mut self.succession.before);
                    let mut moved = false;
                    kits.for_each(|kit| moved |= kit.step(&mut self.net));
                    moved
                }
            };
        }
        for kit in self.kit.iter().chain(&self.succession.before) {
            let open = kit.descriptors();
            assert!(open <= self.config.fd_budget, "{open} descriptors are open");
            let held = kit.machine.held() as u64;
            self.most_held = self.most_held.max(held);
            assert!(held <= self.memory, "{held} bytes of memory are held");
        }
        moved
    }

    fn kits(&mut self) -> impl Iterator<Item = &mut Host<Kit>> {
        self.kit.iter_mut().chain(&mut self.succession.before)
    }

    fn read_notices(&mut self) {
        succession::read_notices(self);
        if let Some(kit) = &mut self.kit
            && kit.stopped
            && !self.finishing
        {
            assert_eq!(kit.machine.leftovers(), [0; 4], "after a shutdown");
            assert_eq!(kit.descriptors(), 0, "a kit stopped with descriptors");
            self.kit = None;
            self.succession.abandon(&mut self.net);
            let millis = self.dice.below(3000);
            self.note("the kit has ended".into());
            let until = self.net.now + millis * MILLI + 20 * SECOND;
            self.excuses.excuse(None, self.net.now, until);
            self.after(millis, Act::StartKit);
        }
        for index in 0..self.laptops.len() {
            succession::pass_on(self, index);
            let laptop = &mut self.laptops[index];
            let Some(host) = &mut laptop.host else {
                continue;
            };
            let notices: Vec<Notice> = host.notices.drain(..).collect();
            for notice in notices {
                crate::told::read_notice(self, index, notice);
            }
            // Another machine may have taken its place.
            let host = self.laptops[index].host.as_ref();
            if host.is_some_and(|host| host.stopped) {
                crate::told::client_stopped(self, index);
            }
        }
    }

    /// Whether all that was sent is acknowledged.
    pub fn retains_nothing(&self) -> bool {
        let accounts = self.laptops.iter().flat_map(|laptop| {
            let kit = self.kit.as_ref().zip(laptop.session.as_deref());
            let ours = kit.and_then(|(kit, id)| kit.machine.account(id));
            let host = laptop.host.as_ref();
            [ours, host.and_then(|host| host.machine.account())]
        });
        accounts.flatten().all(|account| account.retained == 0)
    }

    pub fn actors_left(&self) -> usize {
        self.actors.len()
    }

    pub fn describe(&self) -> String {
        let actors: Vec<String> = self
            .actors
            .values()
            .map(|(end, actor)| format!("{} at {}", actor.describe(), self.net.describe(*end)))
            .collect();
        let kits = self.kit.iter().chain(&self.succession.before);
        let kits: Vec<String> = kits.map(|kit| kit.describe(&self.net)).collect();
        let clients: Vec<String> = self
            .laptops
            .iter()
            .flat_map(Laptop::hosts)
            .map(|host| host.describe(&self.net))
            .collect();
        let log = &self.log[self.log.len().saturating_sub(60)..];
        format!(
            "actors:\n{}\nkit:\n{}\nclients:\n{}\nlog:\n{}",
            actors.join("\n"),
            kits.join("\n"),
            clients.join("\n"),
            log.join("\n")
        )
    }
}

/// What may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    None,
    /// Connections between laptops and kit are lost again and again, and nothing else.
    Cuts,
    Any,
}

fn config(dice: &mut Dice, trouble: Trouble, mut more: Dice) -> Config {
    let rough = trouble == Trouble::Any;
    let windows = [256 * 1024, 300_000, 1 << 20];
    let stream_initial_window = windows[dice.below(3) as usize];
    let tight = rough && dice.once_in(3);
    let replays = trouble == Trouble::Cuts || more.once_in(3);
    Config {
        visitor_heads: HeadLimits::LARGEST,
        listen: resolve("kit", 50),
        expose_host: resolve("kit", 0).ip(),
        token: Some(Secret::new(TOKEN)),
        stream_initial_window,
        session_initial_window: stream_initial_window * (1 + dice.below(3) as u32),
        response_timeout: Duration::from_secs(30),
        takeover_grace: Duration::from_secs(if rough && dice.once_in(4) { 0 } else { 20 }),
        ping_after: Duration::from_secs(5),
        pong_timeout: Duration::from_secs(10),
        half_close_timeout: Duration::from_secs(120),
        max_streams_per_session: if tight { 4 } else { 1024 },
        fd_budget: if tight && dice.once_in(2) { 48 } else { 1024 },
        max_sessions: 16,
        replay_buffer: match replays {
            true => [512 << 10, 1 << 20, 4 << 20][more.below(3) as usize],
            false => 0,
        },
        // Enough for all that may be kept.
        memory: if replays { 2 << 30 } else { DEFAULT_MEMORY },
        ..Config::default()
    }
}

/// How long a run lasts before everything is healed.
pub const TROUBLE: u64 = 40 * SECOND;
