//! Streams of datagrams (PROTOCOL §8.1): each has a socket of its own toward the local service, so
//! that what that answers is known to be for the stream's peer.

use crate::client::event::Shortage;
use crate::client::keys::ExchangeKey;
use crate::client::local::exchange::Work;
use crate::client::local::{Around, LocalSide};
use crate::machine::{Command, IoFailure, SocketAt, SocketKey};
use crate::mux::Span;
use crate::wire::code::Code;

impl LocalSide {
    /// Whether a stream is one of datagrams.
    pub(in crate::client) fn carries_datagrams(&self, key: ExchangeKey) -> bool {
        let exchange = self.exchanges.get(key);
        exchange.is_some_and(|it| matches!(it.work, Work::Datagrams(_)))
    }

    /// Opens the socket of a new stream.
    pub(super) fn open_socket(&mut self, around: &mut Around<'_>, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        let bound = around.bindings.get(exchange.binding);
        let target = bound.map(|bound| bound.spec.local.dial());
        let socket = self.sockets.insert(key).ok();
        let (Some(target), Some(socket)) = (target, socket) else {
            if let Some(socket) = socket {
                self.sockets.remove(socket);
            }
            self.count_refusal(around, Shortage::Connections);
            return self.abandon(around, key, Code::RefusedStream, "too many peers");
        };
        exchange.work = Work::Datagrams(Some(socket));
        let at = SocketAt::For(target);
        around.cx.effects.ask(Command::OpenSocket { socket, at });
    }

    /// The socket could not be had.
    pub(super) fn socket_failed(
        &mut self,
        around: &mut Around<'_>,
        socket: SocketKey,
        why: &IoFailure,
    ) {
        let Some(key) = self.sockets.remove(socket) else {
            return;
        };
        self.exchanges.resolve_mut(key).work = Work::Datagrams(None);
        let code = match why.is_shortage() {
            true => Code::RefusedStream,
            false => Code::Cancel,
        };
        if why.is_shortage() {
            self.count_refusal(around, Shortage::Descriptors);
        }
        self.abandon(around, key, code, &why.text);
    }

    /// A datagram from the kit.
    pub(in crate::client) fn datagram_came(
        &mut self,
        around: &mut Around<'_>,
        key: ExchangeKey,
        index: usize,
        span: &Span,
    ) {
        let (Some(exchange), Some(mux)) = (self.exchanges.get_mut(key), around.mux.as_deref())
        else {
            return;
        };
        if let Work::Datagrams(Some(socket)) = exchange.work {
            exchange.bytes_in += span.len() as u64;
            around.cx.effects.ask(Command::Send {
                socket,
                peer: None,
                datagram: mux.payload(index, span).to_vec(),
            });
        }
    }

    /// The local service answers.
    pub(in crate::client) fn datagram_leaves(
        &mut self,
        around: &mut Around<'_>,
        socket: SocketKey,
        datagram: &[u8],
    ) {
        let key = self.sockets.get(socket).copied();
        if let Some(exchange) = key.and_then(|key| self.exchanges.get_mut(key))
            && let Some(mux) = around.mux.as_deref_mut()
        {
            exchange.bytes_out += datagram.len() as u64;
            mux.send_datagram(exchange.stream, datagram, around.cx.now);
        }
    }

    /// The kit sends no more on a stream, and nobody is there for an answer.
    pub(super) fn datagrams_end(&mut self, around: &mut Around<'_>, key: ExchangeKey) {
        if let Some(exchange) = self.exchanges.get(key)
            && let Some(mux) = around.mux.as_deref_mut()
        {
            mux.send_eof(exchange.stream, around.cx.now);
        }
        self.drop_exchange(around, key, None);
    }

    /// The exchange is over: so is its socket.
    pub(super) fn close_socket(&mut self, around: &mut Around<'_>, key: ExchangeKey) {
        if let Some(exchange) = self.exchanges.get(key)
            && let Work::Datagrams(Some(socket)) = exchange.work
        {
            self.sockets.remove(socket);
            around.cx.effects.ask(Command::CloseSocket { socket });
        }
    }
}
