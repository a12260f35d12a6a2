//! One binding: what a user asked for, what the kit made of it, and how far that is.
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
        let unused = |_| Ok(Answerer::Target(Target::Addr(([127, 0, 0, 1], 1).into())));
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
    pub local: Answerer,
}

/// Who answers on this side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answerer {
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
    pub current: bool,
    /// Since when it is tried to bind it again.
    pub again_since: Option<Instant>,
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
    /// Try again later: it may be our own ghost that has the port.
    TryAgain,
    /// It is lost for good.
    Lost(Binding),
}

impl BindSpec {
    /// Checks what can be checked without the kit.
    pub(super) fn new(
        options: BindOptions,
        add_handler: impl FnOnce(Handler) -> Result<Answerer, Error>,
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
            (Some(To::Target(target)), _) => Answerer::Target(target),
            (None, _) => {
                let port = options.container_port;
                Answerer::Target(Target::Addr(([127, 0, 0, 1], port).into()))
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
    pub(super) fn is_like(&self, resumed: &ResumedBind) -> bool {
        self.mode == resumed.mode && self.container_port == resumed.container_port
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
            again_since: None,
        }
    }

    /// The BIND for it. A port that was ours is not taken over when it is bound again: whoever has
    /// it by then took it with good reason.
    pub(super) fn bind(&self, retake: bool) -> Bind {
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
    pub(super) fn stands(&mut self, ok: &BindOk) -> bool {
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
    pub(super) fn refused(&mut self, code: BindErrCode, now: Instant) -> OnRefusal {
        let Some(binding) = &self.binding else {
            return OnRefusal::Tell;
        };
        let since = *self.again_since.get_or_insert(now);
        let may_pass = matches!(
            code,
            BindErrCode::AlreadyBound | BindErrCode::PortInUse | BindErrCode::Internal
        );
        if may_pass && now < since + REBIND_FOR {
            self.state = BindState::Wanted;
            return OnRefusal::TryAgain;
        }
        OnRefusal::Lost(binding.clone())
    }

    /// The kit's name for it in this session.
    pub(super) fn bind_id(&self) -> Option<u64> {
        let binding = self.binding.as_ref().filter(|_| self.current);
        binding.map(|binding| binding.bind_id)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::limits::MAX_FRAME_PAYLOAD;
    use crate::wire::control;
    use std::time::Duration;

    pub(crate) fn bound(reference: u64, mode: BindMode, port: u16) -> Bound {
        let spec = BindSpec {
            mode,
            container_port: port,
            label: None,
            takeover: true,
            host: None,
            host_header: HostHeader::Rewrite,
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
        assert_eq!(one.refused(BindErrCode::AlreadyBound, now), OnRefusal::Tell);
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
            OnRefusal::TryAgain
        );
        let later = now + REBIND_FOR + Duration::from_secs(1);
        assert!(matches!(
            one.refused(BindErrCode::AlreadyBound, later),
            OnRefusal::Lost(_)
        ));
        one.stands(&ok(1, 8, 23_000));
        assert_eq!(
            one.refused(BindErrCode::AlreadyBound, later),
            OnRefusal::TryAgain
        );
        assert!(matches!(
            one.refused(BindErrCode::ReservedPort, later),
            OnRefusal::Lost(_)
        ));
    }
}
