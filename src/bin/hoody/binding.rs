//! From what somebody wishes to have bound or forwarded to what is.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread;

use hoody_tunnel::client::{BindErrCode, Binding, Error, ForwardOptions, TunnelSession};

use crate::run::News;
use crate::state::Keeper;
use crate::wish::Wish;

/// Binds one wish after the other, waiting for each answer. The session's id is written down before
/// it has any port: who is killed then leaves nothing that a next start would not find. What takes
/// a port over from others comes last, for when something is refused all of it is given up.
///
/// What an earlier run left is asked for at once: visitors come with the session that comes back,
/// and nobody would know whose they are.
pub fn bind(
    session: Arc<TunnelSession>,
    wishes: Arc<Vec<Wish>>,
    state: Keeper,
    tell: SyncSender<News>,
) {
    let binder = Binder {
        session,
        state,
        tell,
    };
    thread::spawn(move || {
        let takes_over = |index: usize, wish: &Wish| wish.takes_over && !binder.had(index);
        let all = wishes.iter().enumerate();
        let (last, first): (Vec<_>, Vec<_>) = all.partition(|(at, wish)| takes_over(*at, wish));
        if binder
            .state
            .look(|state| state.session().map(|_| ()))
            .is_none()
        {
            binder.stands();
            let mut wishes = first.into_iter().chain(last);
            return wishes.all(|(index, wish)| binder.told(index, binder.one(index, wish)));
        }
        let at = &binder;
        let is_well = thread::scope(|scope| {
            let ask = |(index, wish)| (index, scope.spawn(move || at.one(index, wish)));
            let asked: Vec<_> = first.into_iter().map(ask).collect();
            binder.stands();
            let mut asked = asked.into_iter();
            asked.all(|(index, asked)| asked.join().is_ok_and(|it| binder.told(index, it)))
        });
        let mut last = last.into_iter();
        is_well && last.all(|(index, wish)| binder.told(index, binder.one(index, wish)))
    });
}

/// Opens ports of this machine, one after the other.
pub fn open_ports(
    session: &Arc<TunnelSession>,
    forwards: Vec<ForwardOptions>,
    tell: &SyncSender<News>,
) {
    let (session, tell) = (Arc::clone(session), tell.clone());
    thread::spawn(move || {
        for options in forwards {
            let outcome = session.forward(options);
            let failed = outcome.is_err();
            if tell.send(News::Forwarding(outcome)).is_err() || failed {
                return;
            }
        }
    });
}

struct Binder {
    session: Arc<TunnelSession>,
    state: Keeper,
    tell: SyncSender<News>,
}

impl Binder {
    /// Waits for the session, and writes its id down. Where it does not stand, the binds say why.
    fn stands(&self) {
        let online = self.session.wait_online(None).ok();
        if let Some(id) = online.and_then(|()| self.session.id())
            && let Err(why) = self.state.keep(|state| state.stands(&id))
        {
            let _ = self.tell.send(News::Notice(why));
        }
    }

    /// Whether an earlier run had this port.
    fn had(&self, index: usize) -> bool {
        self.state.look(|state| state.port(index)).is_some()
    }

    /// Tells how it went, and whether to go on.
    fn told(&self, index: usize, outcome: Result<Binding, Error>) -> bool {
        let failed = outcome.is_err();
        self.tell.send(News::Bound(index, outcome)).is_ok() && !failed
    }

    /// Binds one wish, to the port it had before if it can have that.
    fn one(&self, index: usize, wish: &Wish) -> Result<Binding, Error> {
        let before = self.state.look(|state| state.port(index));
        let replaces = self
            .state
            .look(|state| state.replaces(index).map(str::to_owned));
        let outcome = self.session.bind(wish.first(before, replaces));
        if let Err(Error::Bind { code, .. }) = &outcome
            && wish.any_port
            && let Some(why) = another_port_may_do(*code)
        {
            let port = wish.port;
            let note = format!("port {port} of the container {why}: asking for another");
            let _ = self.tell.send(News::Notice(note));
            return self.session.bind((wish.make)(0));
        }
        outcome
    }
}

/// Why a port was refused, if another one may be had.
fn another_port_may_do(code: BindErrCode) -> Option<&'static str> {
    match code {
        BindErrCode::AlreadyBound => Some("is held by another tunnel (--takeover takes it over)"),
        BindErrCode::PortInUse => Some("is in use"),
        BindErrCode::ReservedPort => Some("is reserved"),
        BindErrCode::PrivilegedPort => Some("is a privileged one"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_ports_own_trouble_has_us_ask_for_another() {
        for code in [
            BindErrCode::AlreadyBound,
            BindErrCode::PortInUse,
            BindErrCode::ReservedPort,
            BindErrCode::PrivilegedPort,
        ] {
            assert!(another_port_may_do(code).is_some(), "{code}");
        }
        for code in [
            BindErrCode::InvalidHost,
            BindErrCode::InvalidKind,
            BindErrCode::BindCapExceeded,
            BindErrCode::Internal,
        ] {
            assert!(another_port_may_do(code).is_none(), "{code}");
        }
    }
}
