//! One binding: what a user asked for, what the kit made of it, and how far that is.
//!
//! A binding is known by our own *reference*, which stays; the kit's `bindId` changes with each new
//! session.

use std::net::SocketAddr;
use std::time::Duration;

use crate::client::checks::{check_datagrams, own_fields, trust};
use crate::client::config::{NO_ID, is_id};
use crate::client::error::Error;
use crate::client::handler::Handler;
use crate::client::options::{BindOptions, HostHeader, ProxyProtocol, To};
use crate::client::target::Target;
use crate::clock::Instant;
use crate::http::OwnField;
use crate::http::is_host;
use crate::limits::{CLIENT_NAME_BYTES, REBIND_EVERY, REBIND_MAX};
use crate::machine::{DialTarget, Trust};
use crate::wire::control::{
    Bind, BindErrCode, BindMode, BindOk, BindingKind, ResumedBind, SessionId,
};
use crate::wire::service::Service;

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
    /// HTTP or raw TCP.
    pub kind: BindingKind,
    /// EXPOSE or PULL.
    pub mode: BindMode,
    /// The name for people that was given with it.
    pub label: Option<String>,
    /// Our own name for it, which stays.
    pub(super) reference: u64,
}

impl Binding {
    /// Whether both are one binding of one session: after a reconnect it may have another
    /// `bind_id`, and where the kit picks its port another port.
    ///
    /// ```no_run
    /// # use hoody_tunnel::client::{self, *};
    /// # fn main() -> Result<(), client::Error> {
    /// let session = TunnelSession::connect(TunnelOptions::new("wss://kit.example"))?;
    /// let mut web = session.bind(BindOptions::expose(0).to(3000))?;
    /// for event in session.events() {
    ///     match event {
    ///         SessionEvent::Bound { binding, .. } if binding.is_same(&web) => web = binding,
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_same(&self, other: &Binding) -> bool {
        self.reference == other.reference
    }
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
        let unused = |_| Ok(Answerer::Target(Target::from(1)));
        BindSpec::new(self.clone(), unused).map(|_| ())
    }
}

/// What a user asked to bind.
#[derive(Debug, Clone)]
pub(super) struct BindSpec {
    pub service: Service,
    /// 0 has the kit pick; once it has, that port.
    pub container_port: u16,
    /// The kit may pick another where it is refused.
    pub any_port: bool,
    pub label: Option<String>,
    pub takeover: bool,
    pub host: Option<String>,
    pub host_header: HostHeader,
    pub headers: Vec<OwnField>,
    /// How the local server is told who is calling, if it is.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// The session that had the port, and was lost to its program.
    pub replaces: Option<SessionId>,
    pub local: Answerer,
    /// Whose certificates count where the local server speaks TLS.
    pub trust: Trust,
}

/// Who answers on this side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answerer {
    Target(Target),
    /// A handler of this process, by the number that the host knows.
    Handler(u32),
}

/// One binding.
#[derive(Debug, Clone)]
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
    pub current: bool,
    /// What the kit says against binding it again, if it does.
    refusals: Option<Refusals>,
}

/// A binding that stood before is refused.
#[derive(Debug, Clone)]
struct Refusals {
    /// The last one.
    code: BindErrCode,
    pause: Duration,
    /// The next try.
    due: Instant,
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
pub(super) enum OnRefusal {
    /// Tell the caller; it was never bound.
    Tell,
    /// Ask again now, for any port.
    AnotherPort,
    /// Ask again when it is due, and tell the user of the binding where this is news.
    Later(Option<Binding>),
}

impl BindSpec {
    /// Checks what can be checked without the kit.
    pub(super) fn new(
        options: BindOptions,
        add_handler: impl FnOnce(Handler) -> Result<Answerer, Error>,
    ) -> Result<BindSpec, Error> {
        let wrong = |text: &str| Err(Error::Options(text.into()));
        let trust = trust(&options)?;
        check_datagrams(&options)?;
        let headers = own_fields(&options)?;
        let is_raw = options.service.kind() != BindingKind::Http;
        let local = match (options.to, is_raw) {
            (Some(To::Handler(_)), true) => {
                return wrong("A handler answers requests; this port carries raw connections.");
            }
            (None, _) if options.container_port == 0 => {
                return wrong("Say which local server to use when the kit picks the port.");
            }
            (Some(To::Target(target)), _) if target.port() == Some(0) => {
                return wrong("The target's port must not be 0.");
            }
            (Some(To::Target(target)), true) if !target.prefix().is_empty() => {
                return wrong("This port carries raw connections: its target has no path.");
            }
            (Some(To::Target(target)), true) if target.server_name().is_some() => {
                return wrong(
                    "This port carries raw connections, TLS too: write host:port without https.",
                );
            }
            (Some(To::Target(target)), _) => Answerer::Target(target),
            (None, _) => {
                let port = options.container_port;
                Answerer::Target(Target::from(SocketAddr::from(([127, 0, 0, 1], port))))
            }
            (Some(To::Handler(_)), _) if options.proxy_protocol.is_some() => {
                return wrong("A handler finds its visitor's address in X-Forwarded-For.");
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
        if options.replaces.as_deref().is_some_and(|id| !is_id(id)) {
            return wrong(NO_ID);
        }
        if options.takeover && options.service.mode() == BindMode::Pull {
            return wrong("Only what is exposed can be taken over.");
        }
        if let HostHeader::Name(name) = &options.host_header
            && (name.is_empty() || !is_host(name.as_bytes()))
        {
            return wrong("The host header must be a name, perhaps with a port.");
        }
        Ok(BindSpec {
            service: options.service,
            container_port: options.container_port,
            any_port: options.any_port,
            label: options.label,
            takeover: options.takeover,
            host: options.host,
            host_header: options.host_header,
            headers,
            proxy_protocol: options.proxy_protocol,
            replaces: options.replaces.map(SessionId::new),
            local,
            trust,
        })
    }

    /// What may be wrong where the local server closes without a byte, which some do that speak
    /// another protocol.
    pub(super) fn hint_at_silence(&self) -> &'static str {
        match &self.local {
            Answerer::Target(_) if self.proxy_protocol.is_some() => {
                ". Does it expect the PROXY protocol in this version?"
            }
            Answerer::Target(target) if target.scheme() == "http" => {
                ". If it speaks TLS, expose https://…"
            }
            _ => "",
        }
    }

    /// Whether a binding that the kit has is what this asks for.
    pub(super) fn is_like(&self, resumed: &ResumedBind) -> bool {
        let service = Service::of(resumed.kind, resumed.mode);
        service == Some(self.service) && self.container_port == resumed.container_port
    }
}

impl Answerer {
    pub(super) fn dial(&self) -> DialTarget {
        match self {
            Answerer::Target(target) => target.dial(),
            Answerer::Handler(number) => DialTarget::Handler(*number),
        }
    }

    /// What stands in `Host` when it is rewritten.
    pub(super) fn authority(&self) -> String {
        match self {
            Answerer::Target(target) => target.authority(),
            Answerer::Handler(_) => "localhost".into(),
        }
    }

    /// How it is spoken to.
    pub(super) fn scheme(&self) -> &'static str {
        match self {
            Answerer::Target(target) => target.scheme(),
            Answerer::Handler(_) => "http",
        }
    }

    /// The name that its certificate must carry, where it speaks TLS.
    pub(super) fn server_name(&self) -> Option<String> {
        match self {
            Answerer::Target(target) => target.server_name(),
            Answerer::Handler(_) => None,
        }
    }

    /// What stands in front of each path that it is asked for.
    pub(super) fn prefix(&self) -> &str {
        match self {
            Answerer::Target(target) => target.prefix(),
            Answerer::Handler(_) => "",
        }
    }
}

impl Bound {
    pub(super) fn new(reference: u64, spec: BindSpec) -> Bound {
        Bound {
            reference,
            authority: spec.local.authority(),
            spec,
            state: BindState::Wanted,
            binding: None,
            current: false,
            refusals: None,
        }
    }

    /// When BIND is due for it, if it is wanted.
    pub(super) fn due(&self) -> Option<Instant> {
        let due = self.refusals.as_ref().map_or(Instant::ZERO, |it| it.due);
        (self.state == BindState::Wanted).then_some(due)
    }

    /// What was refused before may be granted now: the session is another, or came back.
    pub(super) fn hope(&mut self) {
        if let Some(refusals) = &mut self.refusals {
            refusals.due = Instant::ZERO;
        }
    }

    /// The kit has it, as it did before.
    pub(super) fn still_stands(&mut self) {
        self.state = BindState::Standing;
        self.refusals = None;
    }

    /// The BIND for it, from a client that has perhaps lost a session. A port that was ours is not
    /// taken over when it is bound again: whoever has it by then took it with good reason.
    pub(super) fn bind(&self, retake: bool, replaces: Option<&SessionId>) -> Bind {
        // The one that this client lost counts from then on.
        let before = self.spec.replaces.as_ref();
        let before = before.filter(|_| self.binding.is_none());
        Bind {
            client_bind_ref: self.reference,
            kind: self.spec.service.kind(),
            mode: self.spec.service.mode(),
            container_port: self.spec.container_port,
            label: self.spec.label.clone(),
            takeover: retake || (self.spec.takeover && self.binding.is_none()),
            host: self.spec.host.clone(),
            replaces: before.or(replaces).cloned(),
        }
    }

    /// The kit said yes. Says whether it had been bound before.
    pub(super) fn stands(&mut self, ok: &BindOk) -> bool {
        let again = self.binding.is_some();
        self.spec.container_port = ok.container_port;
        self.binding = Some(Binding {
            bind_id: ok.bind_id,
            container_port: ok.container_port,
            public_url: ok.public_url.clone(),
            kind: self.spec.service.kind(),
            mode: self.spec.service.mode(),
            label: self.spec.label.clone(),
            reference: self.reference,
        });
        self.current = true;
        self.still_stands();
        again
    }

    /// The kit said no.
    pub(super) fn refused(&mut self, code: BindErrCode, now: Instant) -> OnRefusal {
        let had_port = self.spec.container_port != 0;
        if self.spec.any_port && had_port && is_about_the_port(code) {
            self.spec.container_port = 0;
            self.state = BindState::Wanted;
            return OnRefusal::AnotherPort;
        }
        let Some(binding) = &self.binding else {
            return OnRefusal::Tell;
        };
        self.state = BindState::Wanted;
        let binding = binding.clone();
        let before = self.refusals.take();
        let is_news = before.as_ref().is_none_or(|before| before.code != code);
        let pause = before.map_or(REBIND_EVERY, |before| (before.pause * 2).min(REBIND_MAX));
        self.refusals = Some(Refusals {
            code,
            pause,
            due: now + pause,
        });
        OnRefusal::Later(is_news.then_some(binding))
    }

    /// The kit's name for it in this session.
    pub(super) fn bind_id(&self) -> Option<u64> {
        let binding = self.binding.as_ref().filter(|_| self.current);
        binding.map(|binding| binding.bind_id)
    }
}

/// Whether another port may be had.
fn is_about_the_port(code: BindErrCode) -> bool {
    matches!(
        code,
        BindErrCode::AlreadyBound
            | BindErrCode::PortInUse
            | BindErrCode::ReservedPort
            | BindErrCode::PrivilegedPort
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::limits::MAX_FRAME_PAYLOAD;
    use crate::wire::control;

    pub(crate) fn bound(reference: u64, service: Service, port: u16) -> Bound {
        let spec = BindSpec {
            service,
            container_port: port,
            any_port: port == 0,
            label: None,
            takeover: true,
            host: None,
            host_header: HostHeader::Rewrite,
            headers: Vec::new(),
            proxy_protocol: None,
            replaces: None,
            trust: Trust::System,
            local: Answerer::Target(Target::from(1)),
        };
        let mut bound = Bound::new(reference, spec);
        bound.state = BindState::Asked;
        bound
    }

    pub(crate) fn ok(reference: u64, bind_id: u64, port: u16) -> BindOk {
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
        control::write(&Bound::new(u64::MAX, spec).bind(true, None), &mut json);
        assert!(json.len() < MAX_FRAME_PAYLOAD / 10, "{} bytes", json.len());
        let long = "x".repeat(70_000);
        for (options, what) in [
            (BindOptions::expose(1).label(&long), "label"),
            (BindOptions::pull(1).host(&long), "host"),
            (options("", &long), "host header"),
            (options("", "a:b"), "host header"),
            (options("", "a:1:2"), "host header"),
            (options("", "[::1"), "host header"),
            (options("", "user@a"), "host header"),
        ] {
            match options.check() {
                Err(Error::Options(why)) => assert!(why.contains(what), "{why}"),
                other => panic!("{what} was taken: {}", other.is_ok()),
            }
        }
    }

    #[test]
    fn a_refusal_is_final_at_first_and_tried_again_for_what_was_ours() {
        let mut one = bound(1, Service::HttpExpose, 3000);
        let mut now = Instant::ZERO + REBIND_EVERY;
        assert_eq!(one.refused(BindErrCode::AlreadyBound, now), OnRefusal::Tell);
        assert!(one.bind(false, None).takeover);
        assert!(!one.stands(&ok(1, 7, 3000)));
        assert!(
            !one.bind(false, None).takeover,
            "what was lost is not taken back"
        );
        let told = |code, one: &mut Bound, now| match one.refused(code, now) {
            OnRefusal::Later(binding) => binding.is_some(),
            other => panic!("{other:?}"),
        };
        assert!(told(BindErrCode::AlreadyBound, &mut one, now));
        for seconds in [2, 4, 8, 16, 30, 30] {
            assert_eq!(one.due(), Some(now + Duration::from_secs(seconds)));
            now = now + Duration::from_secs(seconds);
            assert!(!told(BindErrCode::AlreadyBound, &mut one, now), "no news");
        }
        assert!(told(BindErrCode::ReservedPort, &mut one, now), "news");
        one.hope();
        assert!(one.due() <= Some(now), "a session is a new chance");
        assert!(!told(BindErrCode::ReservedPort, &mut one, now), "no news");
        one.stands(&ok(1, 8, 3000));
        assert!(told(BindErrCode::ReservedPort, &mut one, now), "news again");
    }

    #[test]
    fn a_port_that_the_kit_picked_may_be_another_one_and_no_other_may() {
        use BindErrCode::{AlreadyBound, BindCapExceeded, PortInUse, PrivilegedPort, ReservedPort};
        for code in [AlreadyBound, PortInUse, ReservedPort, PrivilegedPort] {
            for asked in [0, 3000] {
                let mut one = bound(1, Service::TcpPull, asked);
                one.stands(&ok(1, 7, 3000));
                assert_eq!(
                    one.bind(false, None).container_port,
                    3000,
                    "the same one first"
                );
                let refused = one.refused(code, Instant::ZERO);
                assert_eq!(refused == OnRefusal::AnotherPort, asked == 0, "{code}");
                assert_eq!(one.bind(false, None).container_port, asked);
                // Where there is none at all, it is asked for now and then.
                let refused = one.refused(code, Instant::ZERO);
                assert!(matches!(refused, OnRefusal::Later(_)), "{code}");
            }
        }
        let mut one = bound(1, Service::TcpPull, 0);
        one.stands(&ok(1, 7, 3000));
        let refused = one.refused(BindCapExceeded, Instant::ZERO);
        assert!(matches!(refused, OnRefusal::Later(Some(_))));
        assert_eq!(one.bind(false, None).container_port, 3000);
    }
}
