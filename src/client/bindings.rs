//! What this client wants bound, and how far that is.
//!
//! A binding is known by our own *reference*, which stays; the kit's `bindId` changes with each new
//! session.

use crate::client::error::Error;
use crate::client::handler::Handler;
use crate::client::options::{BindOptions, HostHeader, To};
use crate::client::target::Target;
use crate::clock::Instant;
use crate::http::is_value;
use crate::limits::{CLIENT_NAME_BYTES, REBIND_FOR};
use crate::machine::DialTarget;
use crate::wire::control::{Bind, BindErrCode, BindMode, BindOk, BindingKind, ResumedBind};

/// What the kit bound for us, as it was when this was made. Copies of it name the same binding,
/// also after a reconnect has given it another `bind_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Binding {
    /// The kit's name for it.
    pub bind_id: u64,
    /// The port on the kit.
    pub container_port: u16,
    /// Where the world reaches it, when the kit knows.
    pub public_url: Option<String>,
    /// EXPOSE or PULL.
    pub mode: BindMode,
    /// The name for people that was given with it.
    pub label: Option<String>,
    /// Our own name for it, which stays.
    pub(super) reference: u64,
}

impl BindOptions {
    /// Whether these can work, as far as it can be told without a kit.
    ///
    /// # Errors
    ///
    /// [`Error::Options`] says what cannot be bound so, and why.
    ///
    /// ```
    /// use hoody_tunnel::client::BindOptions;
    ///
    /// assert!(BindOptions::expose(3000).check().is_ok());
    /// assert!(BindOptions::pull(5432).takeover(true).check().is_err());
    /// ```
    pub fn check(&self) -> Result<(), Error> {
        let unused = |_| Ok(Local::Target(Target::Addr(([127, 0, 0, 1], 1).into())));
        BindSpec::new(self.clone(), unused).map(|_| ())
    }
}

/// What a user asked to bind.
#[derive(Debug, Clone)]
pub(super) struct BindSpec {
    pub mode: BindMode,
    /// 0 has the kit pick; once it has, that port.
    pub container_port: u16,
    pub label: Option<String>,
    pub takeover: bool,
    pub host: Option<String>,
    pub host_header: HostHeader,
    pub local: Local,
}

/// Who answers on this side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Local {
    Target(Target),
    /// A handler of this process, by the number that the host knows.
    Handler(u32),
}

/// One binding.
#[derive(Debug)]
pub(super) struct Bound {
    pub reference: u64,
    pub spec: BindSpec,
    pub state: BindState,
    /// What stands in `Host` when it is rewritten.
    pub authority: String,
    /// What the kit said last; `None` until it said yes for the first time.
    pub binding: Option<Binding>,
    /// The binding's id is the session's that stands, or may be resumed: a fresh one gives its ids
    /// anew, so an older id would name a stranger.
    current: bool,
    /// Since when it is tried to bind it again.
    again_since: Option<Instant>,
}

/// How far a binding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BindState {
    /// To be asked for when there is a session, or when its time has come.
    Wanted,
    /// BIND is out.
    Asked,
    /// It stands.
    Standing,
    /// UNBIND is out, or will be when there is a session.
    Leaving,
}

/// What to do about a refused BIND.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Tell the caller; it was never bound.
    Tell,
    /// Try again later: it may be our own ghost that has the port.
    TryAgain,
    /// It is lost for good.
    Lost(Binding),
}

/// All bindings of a session.
#[derive(Debug, Default)]
pub(super) struct Bindings {
    pub all: Vec<Bound>,
    /// Bindings that a session which an earlier process left had; to be claimed by a user's bind.
    pub unclaimed: Vec<ResumedBind>,
}

impl BindSpec {
    /// Checks what can be checked without the kit.
    pub fn new(
        options: BindOptions,
        add_handler: impl FnOnce(Handler) -> Result<Local, Error>,
    ) -> Result<BindSpec, Error> {
        let wrong = |text: &str| Err(Error::Options(text.into()));
        let local = match (options.to, options.mode) {
            (Some(To::Handler(_)), BindMode::Pull) => {
                return wrong("A handler answers requests; a pull carries raw connections.");
            }
            (None, _) if options.container_port == 0 => {
                return wrong("Say which local server to use when the kit picks the port.");
            }
            (Some(To::Target(target)), _) if target.port() == 0 => {
                return wrong("The target's port must not be 0.");
            }
            (Some(To::Target(target)), _) => Local::Target(target),
            (None, _) => {
                let port = options.container_port;
                Local::Target(Target::Addr(([127, 0, 0, 1], port).into()))
            }
            (Some(To::Handler(handler)), _) => add_handler(handler)?,
        };
        let name = match &options.host_header {
            HostHeader::Name(name) => Some(name),
            _ => None,
        };
        for (what, text) in [
            ("label", options.label.as_ref()),
            ("host", options.host.as_ref()),
            ("host header", name),
        ] {
            if text.is_some_and(|text| text.len() > CLIENT_NAME_BYTES) {
                return wrong(&format!(
                    "The {what} is longer than {CLIENT_NAME_BYTES} bytes."
                ));
            }
        }
        if options.takeover && options.mode == BindMode::Pull {
            return wrong("Only what is exposed can be taken over.");
        }
        if let HostHeader::Name(name) = &options.host_header
            && (name.is_empty() || !is_value(name.as_bytes()) || name.contains(char::is_whitespace))
        {
            return wrong("The host header must be a name, perhaps with a port.");
        }
        Ok(BindSpec {
            mode: options.mode,
            container_port: options.container_port,
            label: options.label,
            takeover: options.takeover,
            host: options.host,
            host_header: options.host_header,
            local,
        })
    }

    /// Whether a binding that the kit has is what this asks for.
    pub fn is_like(&self, resumed: &ResumedBind) -> bool {
        self.mode == resumed.mode && self.container_port == resumed.container_port
    }
}

impl Local {
    pub fn dial(&self) -> DialTarget {
        match self {
            Local::Target(target) => target.dial(),
            Local::Handler(number) => DialTarget::Handler(*number),
        }
    }

    /// What stands in `Host` when it is rewritten.
    pub fn authority(&self) -> String {
        match self {
            Local::Target(target) => target.authority(),
            Local::Handler(_) => "localhost".into(),
        }
    }
}

impl Bound {
    pub fn new(reference: u64, spec: BindSpec) -> Bound {
        Bound {
            reference,
            authority: spec.local.authority(),
            spec,
            state: BindState::Wanted,
            binding: None,
            current: false,
            again_since: None,
        }
    }

    /// The BIND for it. A port that was ours is not taken over when it is bound again: whoever has
    /// it by then took it with good reason.
    pub fn bind(&self, retake: bool) -> Bind {
        let kind = match self.spec.mode {
            BindMode::Pull => BindingKind::Tcp,
            _ => BindingKind::Http,
        };
        Bind {
            client_bind_ref: self.reference,
            kind,
            mode: self.spec.mode,
            container_port: self.spec.container_port,
            label: self.spec.label.clone(),
            takeover: retake || (self.spec.takeover && self.binding.is_none()),
            host: self.spec.host.clone(),
        }
    }

    /// The kit said yes. Says whether it had been bound before.
    pub fn stands(&mut self, ok: &BindOk) -> bool {
        let again = self.binding.is_some();
        self.spec.container_port = ok.container_port;
        self.binding = Some(Binding {
            bind_id: ok.bind_id,
            container_port: ok.container_port,
            public_url: ok.public_url.clone(),
            mode: self.spec.mode,
            label: self.spec.label.clone(),
            reference: self.reference,
        });
        self.current = true;
        self.state = BindState::Standing;
        self.again_since = None;
        again
    }

    /// The kit said no.
    pub fn refused(&mut self, code: BindErrCode, now: Instant) -> Refusal {
        let Some(binding) = &self.binding else {
            return Refusal::Tell;
        };
        let since = *self.again_since.get_or_insert(now);
        let may_pass = matches!(
            code,
            BindErrCode::AlreadyBound | BindErrCode::PortInUse | BindErrCode::Internal
        );
        if may_pass && now < since + REBIND_FOR {
            self.state = BindState::Wanted;
            return Refusal::TryAgain;
        }
        Refusal::Lost(binding.clone())
    }

    /// The kit's name for it in this session.
    pub fn bind_id(&self) -> Option<u64> {
        let binding = self.binding.as_ref().filter(|_| self.current);
        binding.map(|binding| binding.bind_id)
    }
}

impl Bindings {
    pub fn get(&self, reference: u64) -> Option<&Bound> {
        self.all.iter().find(|bound| bound.reference == reference)
    }

    pub fn get_mut(&mut self, reference: u64) -> Option<&mut Bound> {
        self.all
            .iter_mut()
            .find(|bound| bound.reference == reference)
    }

    pub fn remove(&mut self, reference: u64) -> Option<Bound> {
        let at = self
            .all
            .iter()
            .position(|bound| bound.reference == reference)?;
        Some(self.all.remove(at))
    }

    pub fn by_id(&mut self, bind_id: u64) -> Option<&mut Bound> {
        self.all
            .iter_mut()
            .find(|bound| bound.bind_id() == Some(bind_id))
    }

    /// The binding that a stream belongs to. An older kit names only the port, or nothing when
    /// there can be no doubt (PROTOCOL §4).
    pub fn for_stream(
        &self,
        mode: BindMode,
        bind_id: Option<u64>,
        port: Option<u16>,
    ) -> Option<&Bound> {
        let mut fitting = self.all.iter().filter(|bound| {
            bound.spec.mode == mode
                && bound.binding.is_some()
                && matches!(bound.state, BindState::Standing | BindState::Leaving)
        });
        if let Some(bind_id) = bind_id {
            return fitting.find(|bound| bound.bind_id() == Some(bind_id));
        }
        if let Some(port) = port {
            return fitting.find(|bound| bound.spec.container_port == port);
        }
        let only = fitting.next()?;
        fitting.next().is_none().then_some(only)
    }

    /// The session is gone: what stood or was asked for is wanted again.
    pub fn session_lost(&mut self) {
        for bound in &mut self.all {
            if bound.state != BindState::Leaving {
                bound.state = BindState::Wanted;
            }
        }
    }

    /// The session that stands is a fresh one: ids of the one before mean nothing any more.
    pub fn session_is_fresh(&mut self) {
        for bound in &mut self.all {
            bound.current = false;
        }
    }

    /// The session came back with these. What it still has stands again; gives those that nobody
    /// here knows.
    pub fn session_resumed(&mut self, resumed: Vec<ResumedBind>) -> Vec<ResumedBind> {
        let mut unknown = Vec::new();
        for one in resumed {
            match self.by_id(one.bind_id) {
                Some(bound) if bound.state == BindState::Wanted => {
                    bound.state = BindState::Standing;
                    bound.again_since = None;
                }
                Some(_) => {}
                None => unknown.push(one),
            }
        }
        unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MAX_FRAME_PAYLOAD;
    use crate::wire::control;
    use std::time::Duration;

    fn bound(reference: u64, mode: BindMode, port: u16) -> Bound {
        let spec = BindSpec {
            mode,
            container_port: port,
            label: None,
            takeover: true,
            host: None,
            host_header: HostHeader::Rewrite,
            local: Local::Target(Target::from(1)),
        };
        let mut bound = Bound::new(reference, spec);
        bound.state = BindState::Asked;
        bound
    }

    fn ok(reference: u64, bind_id: u64, port: u16) -> BindOk {
        BindOk {
            client_bind_ref: reference,
            bind_id,
            container_port: port,
            public_url: None,
        }
    }

    #[test]
    fn names_that_no_frame_could_carry_are_refused_before_anything_is_sent() {
        let none = |_| Err(Error::Options("no handlers here".into()));
        let longest = "\u{1}".repeat(CLIENT_NAME_BYTES);
        let name = "x".repeat(CLIENT_NAME_BYTES);
        let options = |text: &str, name: &str| {
            BindOptions::expose(1)
                .label(text)
                .host(text)
                .host_header(HostHeader::Name(name.into()))
        };
        let spec = BindSpec::new(options(&longest, &name), none).unwrap();
        let mut json = Vec::new();
        control::write(&Bound::new(u64::MAX, spec).bind(true), &mut json);
        assert!(json.len() < MAX_FRAME_PAYLOAD / 10, "{} bytes", json.len());
        let long = "x".repeat(70_000);
        for (options, what) in [
            (BindOptions::expose(1).label(&long), "label"),
            (BindOptions::pull(1).host(&long), "host"),
            (options("", &long), "host header"),
        ] {
            match options.check() {
                Err(Error::Options(why)) => assert!(why.contains(what), "{why}"),
                other => panic!("{what} was taken: {}", other.is_ok()),
            }
        }
    }

    #[test]
    fn a_refusal_is_final_at_first_and_patient_for_what_was_ours() {
        let mut one = bound(1, BindMode::Expose, 0);
        let now = Instant::ZERO;
        assert_eq!(one.refused(BindErrCode::AlreadyBound, now), Refusal::Tell);
        assert!(one.bind(false).takeover);
        assert!(!one.stands(&ok(1, 7, 23_000)));
        assert!(!one.bind(false).takeover, "what was lost is not taken back");
        assert_eq!(
            one.bind(false).container_port,
            23_000,
            "the same port again"
        );
        assert_eq!(
            one.refused(BindErrCode::AlreadyBound, now),
            Refusal::TryAgain
        );
        let later = now + REBIND_FOR + Duration::from_secs(1);
        assert!(matches!(
            one.refused(BindErrCode::AlreadyBound, later),
            Refusal::Lost(_)
        ));
        one.stands(&ok(1, 8, 23_000));
        assert_eq!(
            one.refused(BindErrCode::AlreadyBound, later),
            Refusal::TryAgain
        );
        assert!(matches!(
            one.refused(BindErrCode::ReservedPort, later),
            Refusal::Lost(_)
        ));
    }

    #[test]
    fn a_stream_of_an_older_kit_finds_its_binding_by_port_or_by_being_alone() {
        let mut bindings = Bindings::default();
        bindings.all.push(bound(1, BindMode::Expose, 0));
        bindings.all.push(bound(2, BindMode::Pull, 5432));
        assert!(bindings.for_stream(BindMode::Expose, None, None).is_none());
        bindings.all[0].stands(&ok(1, 1, 3000));
        bindings.all[1].stands(&ok(2, 2, 5432));
        let found = |bindings: &Bindings, mode, id, port| {
            bindings
                .for_stream(mode, id, port)
                .map(|bound| bound.reference)
        };
        assert_eq!(found(&bindings, BindMode::Expose, Some(1), None), Some(1));
        assert_eq!(found(&bindings, BindMode::Pull, Some(1), None), None);
        assert_eq!(found(&bindings, BindMode::Pull, None, Some(5432)), Some(2));
        assert_eq!(found(&bindings, BindMode::Expose, None, None), Some(1));
        bindings.all.push(bound(3, BindMode::Expose, 0));
        bindings.all[2].stands(&ok(3, 3, 3001));
        assert_eq!(found(&bindings, BindMode::Expose, None, None), None);
        assert_eq!(
            found(&bindings, BindMode::Expose, None, Some(3001)),
            Some(3)
        );
    }

    #[test]
    fn a_resumed_session_has_what_it_lists_and_no_more() {
        let mut bindings = Bindings::default();
        for reference in 1..=2 {
            bindings.all.push(bound(reference, BindMode::Expose, 0));
            bindings.all[reference as usize - 1].stands(&ok(reference, reference, 3000));
        }
        bindings.session_lost();
        let listed = |bind_id| ResumedBind {
            bind_id,
            kind: BindingKind::Http,
            mode: BindMode::Expose,
            container_port: 3000,
            public_url: None,
        };
        let unknown = bindings.session_resumed(vec![listed(2), listed(9)]);
        assert_eq!(unknown, vec![listed(9)]);
        assert_eq!(bindings.all[0].state, BindState::Wanted);
        assert_eq!(bindings.all[1].state, BindState::Standing);
    }
}
