//! A running tunnel, from the flags to the exit: connect, bind, tell what happens, end in order.
//!
//! Three threads speak to the loop here through one channel: the session's events, the answers to
//! our binds, and the signals. The loop prints, and decides when it is over. Printing never waits:
//! a reader of ours that stops must not keep anybody from ending us.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use hoody_tunnel::client::{
    BindMode, Binding, Error, Forwarding, SessionEvent, Shortage, TunnelOptions, TunnelSession,
};

use crate::binding::{bind, open_ports};
use crate::interrupt::Signals;
use crate::places::{Places, Port, Row};
use crate::render::{self, Line, Paper, Ready, Screen, Style};
use crate::state::{Keeper, State};
use crate::wish::{Wish, Wishes};

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Somebody asked for the end: exit code 0.
    Stopped,
    /// It failed, and stderr says why: exit code 1.
    Failed,
}

/// What the threads tell the loop.
pub enum News {
    Events(Vec<SessionEvent>),
    Bound(usize, Result<Binding, Error>),
    Forwarding(Result<Forwarding, Error>),
    /// Something that is worth a line.
    Notice(String),
    Signal,
    /// Standard output takes no more.
    Unread(io::Error),
}

/// What a run begins with.
#[derive(Default)]
pub struct Begin {
    /// What is told first.
    pub notices: Vec<String>,
    /// What a run before has left of the session.
    pub state: Option<State>,
    /// How many connections the kit is asked for.
    pub connections: u32,
    /// Where the kit's ports are.
    pub places: Places,
}

/// Runs a session with `wishes` until it is over.
pub fn run(
    options: TunnelOptions,
    wishes: Wishes,
    signals: Signals,
    style: Style,
    begin: Begin,
) -> Result<Outcome, Error> {
    let (tell, news) = sync_channel(QUEUE);
    let signal = tell.clone();
    let watched = signals.watch(move || {
        let _ = signal.send(News::Signal);
    });
    watched.map_err(|error| Error::Io(format!("no thread can be made: {error}")))?;
    let unread = tell.clone();
    let paper = render::stdout(style, move |error| {
        let error = io::Error::new(error.kind(), error.to_string());
        let _ = unread.send(News::Unread(error));
    });
    let mut screen = Screen::new(paper, style);
    for message in begin.notices {
        screen.print(&Line::Notice { message });
    }
    let state = Keeper::new(begin.state);
    let options = match state.look(|state| state.session().map(str::to_owned)) {
        Some(id) => options.resume_session_id(id),
        None => options,
    };
    let session = Arc::new(TunnelSession::start(options)?);
    let (waiting, forwards) = (wishes.len(), wishes.forwards);
    let wishes = Arc::new(wishes.binds);
    let mut run = Run {
        session: Arc::clone(&session),
        wishes: Arc::clone(&wishes),
        bound: Vec::new(),
        forwards: Vec::new(),
        waiting,
        screen,
        online: false,
        attached: false,
        connections: begin.connections,
        places: begin.places,
        state: state.clone(),
        early: Vec::new(),
        stopping: None,
        failure: None,
    };
    pass_on_events(&session, &tell);
    open_ports(&session, forwards, &tell);
    bind(session, wishes, state, tell);
    run.until_closed(&news);
    Ok(run.finish())
}

/// News that may wait for the loop.
const QUEUE: usize = 256;
/// How long events gather before they are shown.
const BREATH: Duration = Duration::from_millis(20);
/// How long a closing session gets before we go anyway; it gives its streams 5 s.
const CLOSING: Duration = Duration::from_secs(8);

/// Passes the session's events on.
fn pass_on_events(session: &Arc<TunnelSession>, tell: &SyncSender<News>) {
    let (events, tell) = (session.events(), tell.clone());
    thread::spawn(move || {
        while let Some(first) = events.recv() {
            let mut batch = vec![first];
            while let Some(event) = events.try_recv() {
                batch.push(event);
            }
            if tell.send(News::Events(batch)).is_err() {
                return;
            }
            // A busy tunnel wakes us some dozen times a second, and not once a request.
            thread::sleep(BREATH);
        }
    });
}

struct Run<P> {
    session: Arc<TunnelSession>,
    wishes: Arc<Vec<Wish>>,
    /// Bindings that stand, with the wish that each fulfils.
    bound: Vec<(usize, Binding)>,
    /// Ports of this machine that stand.
    forwards: Vec<Forwarding>,
    /// Wishes whose answer is still to come.
    waiting: usize,
    screen: Screen<P>,
    /// Whether the session has stood once.
    online: bool,
    /// Whether it stands.
    attached: bool,
    /// How many connections the kit was asked for.
    connections: u32,
    /// Where the kit's ports are.
    places: Places,
    /// What a next run finds of this one.
    state: Keeper,
    /// Bindings that were answered before we heard that the session stands: the two come by
    /// different threads, and are told in the order in which they happened.
    early: Vec<Line>,
    /// When the session is given up, once it was asked to close.
    stopping: Option<Instant>,
    /// Why it ends, unless somebody asked for it.
    failure: Option<Error>,
}

impl<P: Paper> Run<P> {
    fn until_closed(&mut self, news: &Receiver<News>) {
        loop {
            let next = match self.stopping {
                None => news.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(deadline) => {
                    news.recv_timeout(deadline.saturating_duration_since(Instant::now()))
                }
            };
            match next {
                Ok(News::Events(batch)) => {
                    if self.events(batch).is_break() {
                        return;
                    }
                }
                Ok(News::Bound(index, outcome)) => self.bound(index, outcome),
                Ok(News::Forwarding(outcome)) => self.forwarding(outcome),
                Ok(News::Notice(message)) => self.screen.print(&Line::Notice { message }),
                Ok(News::Signal) if self.stopping.is_some() => {
                    // A second one: now.
                    self.session.begin_close();
                    self.stopping = Some(Instant::now() + LAST_WORDS);
                }
                Ok(News::Signal) => self.interrupted(),
                // Nobody reads what we tell (`| head -1`): that is an end like another.
                Ok(News::Unread(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                    self.stop();
                }
                Ok(News::Unread(error)) => {
                    self.fail(Error::Io(format!("cannot print: {error}")));
                }
                Err(_) => return,
            }
        }
    }

    fn interrupted(&mut self) {
        self.stop();
        self.screen.print(&Line::Notice {
            message: "closing; streams get 5 s to finish (Ctrl-C again ends at once)".into(),
        });
    }

    fn stop(&mut self) {
        if self.stopping.is_none() {
            self.stopping = Some(Instant::now() + CLOSING);
            self.session.begin_close();
        }
    }

    /// Ends the session because of `why`.
    fn fail(&mut self, why: Error) {
        if self.stopping.is_none() {
            self.failure = Some(why);
        }
        self.stop();
    }

    fn bound(&mut self, index: usize, outcome: Result<Binding, Error>) {
        self.waiting -= 1;
        match outcome {
            Ok(binding) => {
                self.keep(|state| state.bound(index, binding.container_port));
                let ready = Line::Ready(self.ready(index, &binding, false));
                self.bound.push((index, binding));
                self.early.push(ready);
                self.tell_early();
            }
            // When the session ended its own event says why.
            Err(Error::Closed(_)) => {}
            Err(why) => self.fail(why),
        }
    }

    fn forwarding(&mut self, outcome: Result<Forwarding, Error>) {
        self.waiting -= 1;
        match outcome {
            Ok(forwarding) => {
                self.early.push(Line::Forwarding {
                    local_host: forwarding.local_addr.ip().to_string(),
                    local_port: forwarding.local_addr.port(),
                    target: forwarding.target.clone(),
                });
                self.forwards.push(forwarding);
                self.tell_early();
            }
            Err(Error::Closed(_)) => {}
            Err(why) => self.fail(why),
        }
    }

    fn ready(&self, index: usize, binding: &Binding, again: bool) -> Ready {
        let wish = &self.wishes[index];
        let port = Port {
            number: binding.container_port,
            public_url: binding.public_url.as_deref(),
            is_pull: binding.mode == BindMode::Pull,
            on: wish.on.as_deref(),
            kind: binding.kind,
        };
        Ready {
            address: self.places.address(&port),
            bind_id: binding.bind_id,
            kind: binding.kind.to_string(),
            mode: binding.mode.to_string(),
            container_port: binding.container_port,
            public_url: binding.public_url.clone(),
            target: wish.target.clone(),
            label: binding.label.clone(),
            again,
        }
    }

    /// Tells a batch of events; breaks off at the session's end.
    fn events(&mut self, batch: Vec<SessionEvent>) -> ControlFlow<()> {
        for event in batch {
            if let SessionEvent::Closed { error } = event {
                if self.stopping.is_none() {
                    self.failure = error;
                }
                return ControlFlow::Break(());
            }
            self.event(event);
        }
        ControlFlow::Continue(())
    }

    fn event(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Bound {
                binding,
                again: true,
            } => self.bound_again(binding),
            SessionEvent::NotBound { binding, why } => {
                let port = binding.container_port;
                let text = format!("port {port} is refused for now, and tried again: {why}");
                self.screen.print(&Line::Notice { message: text });
            }
            SessionEvent::TakenOver { binding, reason } => {
                self.screen.print(&taken_over(&binding, &reason));
                let port = binding.container_port;
                let text = format!("another session took port {port} over: {reason}");
                self.gone(&binding, Error::Closed(text));
            }
            other => {
                let mut fewer = None;
                match &other {
                    SessionEvent::Online { connections, .. } => {
                        fewer = self.fewer(*connections);
                        self.stands();
                    }
                    SessionEvent::Resumed { .. } => self.stands(),
                    SessionEvent::Lost { .. } => self.attached = false,
                    _ => {}
                }
                for line in line(other).into_iter().chain(fewer) {
                    self.screen.print(&line);
                }
                self.tell_early();
            }
        }
    }

    /// What to tell where the kit allows fewer connections than were asked for.
    fn fewer(&self, granted: u32) -> Option<Line> {
        let asked = self.connections;
        let message = format!("the kit allows {granted} of the {asked} connections asked for");
        (granted < asked).then_some(Line::Notice { message })
    }

    fn stands(&mut self) {
        self.online = true;
        self.attached = true;
        if let Some(id) = self.session.id() {
            self.keep(|state| state.stands(&id));
        }
    }

    /// Writes something down for a next run.
    fn keep(&mut self, write: impl FnOnce(&mut State) -> io::Result<()>) {
        if let Err(message) = self.state.keep(write) {
            self.screen.print(&Line::Notice { message });
        }
    }

    fn tell_early(&mut self) {
        if self.online {
            let early = std::mem::take(&mut self.early);
            for line in &early {
                self.screen.print(line);
            }
            if !early.is_empty() && self.waiting == 0 {
                self.tell_all();
            }
        }
    }

    /// What is where, in one table.
    fn tell_all(&mut self) {
        let mut all: Vec<&(usize, Binding)> = self.bound.iter().collect();
        all.sort_by_key(|(index, _)| *index);
        let bound = all.into_iter();
        let bound = bound.map(|(index, binding)| self.ready(*index, binding, false).row());
        let forwarded = self.forwards.iter().map(|it| self.places.forwarded(it));
        let rows: Vec<Row> = bound.chain(forwarded).collect();
        self.screen.table(&rows);
    }

    fn bound_again(&mut self, binding: Binding) {
        let same = |(_, had): &&mut (usize, Binding)| had.is_same(&binding);
        let Some((index, had)) = self.bound.iter_mut().find(same) else {
            return;
        };
        let moved =
            had.container_port != binding.container_port || had.public_url != binding.public_url;
        *had = binding.clone();
        let index = *index;
        self.keep(|state| state.bound(index, binding.container_port));
        let ready = self.ready(index, &binding, true);
        self.screen.print(&Line::Ready(ready));
        if moved {
            self.tell_all();
        }
    }

    /// A binding is gone for good. Without any, there is nothing left to do.
    fn gone(&mut self, binding: &Binding, why: Error) {
        self.bound.retain(|(_, had)| !had.is_same(binding));
        if self.bound.is_empty() && self.forwards.is_empty() && self.waiting == 0 {
            self.fail(why);
        } else {
            self.tell_all();
        }
    }

    fn finish(mut self) -> Outcome {
        let said_goodbye = self.stopping.is_some() && self.attached;
        let is_killed = matches!(self.failure, Some(Error::Closed(_)));
        if said_goodbye || is_killed {
            self.state.forget();
        }
        let reason = match (&self.failure, self.stopping) {
            (Some(_), _) => "failed",
            (None, Some(_)) => "interrupted",
            (None, None) => "closed",
        };
        let error = self.failure.as_ref();
        self.screen.print(&Line::Closed {
            reason,
            kind: error.map(|error| error.kind().to_owned()),
            error: error.map(Error::to_string),
        });
        // Whether anybody reads it or not: it is over.
        self.screen.flush();
        match &self.failure {
            None => Outcome::Stopped,
            Some(why) => {
                crate::complain(&why.to_string());
                Outcome::Failed
            }
        }
    }
}

/// How long the library gets to say goodbye after the second signal.
const LAST_WORDS: Duration = Duration::from_millis(500);

fn taken_over(binding: &Binding, reason: &str) -> Line {
    Line::State {
        state: "taken over",
        attempt: None,
        session: None,
        container_port: Some(binding.container_port),
        why: Some(reason.to_owned()),
        retry_in_ms: None,
    }
}

/// Events that are told as they are.
fn line(event: SessionEvent) -> Option<Line> {
    let mut told = Line::state("connecting");
    let Line::State {
        state,
        attempt,
        session,
        why,
        retry_in_ms,
        ..
    } = &mut told
    else {
        return None;
    };
    match event {
        SessionEvent::Connecting { attempt: count } => *attempt = Some(count),
        SessionEvent::Online { session: id, .. } => {
            *state = "online";
            *session = Some(id);
        }
        SessionEvent::Resumed { session: id } => {
            *state = "resumed";
            *session = Some(id);
        }
        SessionEvent::Lost {
            why: reason,
            retry_in,
        } => {
            *state = "lost";
            *why = Some(reason);
            *retry_in_ms = u64::try_from(retry_in.as_millis()).ok();
        }
        SessionEvent::Request(record) => return Some(Line::from(record)),
        SessionEvent::StreamClosed(record) => return Some(Line::from(record)),
        SessionEvent::NotForwarded { why } => return Some(Line::Notice { message: why }),
        SessionEvent::AnotherKit { authority } => {
            let message = format!(
                "{authority} leads to another kit than the one with this session and is not used: \
                 several URLs are several ways to one kit"
            );
            return Some(Line::Notice { message });
        }
        SessionEvent::TurnedAway { count, total, why } => {
            let visitors = if count == 1 {
                "visitor was"
            } else {
                "visitors were"
            };
            let message = format!(
                "{count} {visitors} turned away with 503, {total} in all: {}",
                short_of(why)
            );
            return Some(Line::Notice { message });
        }
        SessionEvent::Missed(count) => {
            let message = format!("{count} lines were dropped here: nobody took them in time");
            return Some(Line::Notice { message });
        }
        _ => return None,
    }
    Some(told)
}

/// What this side is short of, and what to do.
fn short_of(why: Shortage) -> String {
    let advice = match why {
        Shortage::Descriptors => {
            " (`ulimit -n` says how many this program may open; the hard limit is the bound)"
        }
        // As many as the limit leaves for them.
        Shortage::Connections => " (`ulimit -n` bounds how many there may be)",
        _ => "",
    };
    format!("{}{advice}", why.sentence())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visitors_that_were_turned_away_are_told_in_one_line() {
        let told = SessionEvent::TurnedAway {
            count: 312,
            total: 400,
            why: Shortage::Descriptors,
        };
        let Some(Line::Notice { message }) = line(told) else {
            panic!("it is a notice");
        };
        assert!(message.starts_with("312 visitors were turned away with 503, 400 in all: "));
        assert!(
            message.contains("file descriptors (`ulimit -n`"),
            "{message}"
        );
    }

    #[test]
    fn every_state_of_a_session_has_its_word() {
        let id = || "S-466ab70d".to_owned();
        let lost = SessionEvent::Lost {
            why: "reset".into(),
            retry_in: Duration::from_millis(250),
        };
        let online = SessionEvent::Online {
            session: id(),
            connections: 1,
        };
        for (event, wanted) in [
            (SessionEvent::Connecting { attempt: 1 }, "connecting"),
            (online, "online"),
            (lost, "lost"),
            (SessionEvent::Resumed { session: id() }, "resumed"),
        ] {
            let Some(Line::State { state, .. }) = line(event) else {
                panic!("`{wanted}` is told as a state");
            };
            assert_eq!(state, wanted);
        }
    }
}
