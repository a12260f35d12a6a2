//! From what somebody wishes to have bound to what is.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread;

use hoody_tunnel::client::{BindErrCode, Binding, Error, TunnelSession};

use crate::run::{News, Wish};
use crate::state::Keeper;

/// Binds one wish after the other, waiting for each answer. The session's id is written down before
/// it has any port: who is killed then leaves nothing that a next start would not find.
///
/// What an earlier run left is asked for at once: visitors come with the session that comes back,
/// and nobody would know whose they are.
pub fn bind(
    session: Arc<TunnelSession>,
    wishes: Arc<Vec<Wish>>,
    state: Keeper,
    tell: SyncSender<News>,
) {
    thread::spawn(move || {
        let stands = || {
            // Where it does not stand, the binds say why.
            let id = session.wait_online(None).ok().and_then(|()| session.id());
            if let Some(id) = id
                && let Err(why) = state.keep(|state| state.stands(&id))
            {
                let _ = tell.send(News::Notice(why));
            }
        };
        let one = |index: usize, wish: &Wish| {
            let before = state.look(|state| state.port(index));
            bind_one(&session, wish, before, &tell)
        };
        let told = |index, outcome: Result<Binding, Error>| {
            let failed = outcome.is_err();
            tell.send(News::Bound(index, outcome)).is_ok() && !failed
        };
        let wishes = wishes.iter().enumerate();
        if state.look(|state| state.session().map(|_| ())).is_none() {
            stands();
            for (index, wish) in wishes {
                if !told(index, one(index, wish)) {
                    return;
                }
            }
            return;
        }
        thread::scope(|scope| {
            let asked = wishes.map(|(index, wish)| scope.spawn(move || one(index, wish)));
            let asked: Vec<_> = asked.collect();
            stands();
            for (index, asked) in asked.into_iter().enumerate() {
                if !asked.join().is_ok_and(|outcome| told(index, outcome)) {
                    return;
                }
            }
        });
    });
}

/// Binds one wish, to the port it had `before` if it can have that.
fn bind_one(
    session: &TunnelSession,
    wish: &Wish,
    before: Option<u16>,
    tell: &SyncSender<News>,
) -> Result<Binding, Error> {
    let outcome = session.bind(wish.first(before));
    if let Err(Error::Bind { code, .. }) = &outcome
        && wish.any_port
        && let Some(why) = another_port_may_do(*code)
    {
        let port = wish.port;
        let note = format!("port {port} of the container {why}: asking for another");
        let _ = tell.send(News::Notice(note));
        return session.bind((wish.make)(0));
    }
    outcome
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
