//! Callers of forwarded ports (PROTOCOL §8): their exchanges are as those of PULL, but begin here.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::buffer::Buffer;
use crate::client::event::Shortage;
use crate::client::forwards::Admitted;
use crate::client::local::exchange::{Exchange, Work};
use crate::client::local::pool::PoolKey;
use crate::client::local::upstream::Upstream;
use crate::client::local::{Around, LocalSide};
use crate::machine::{CloseHow, Command, ConnKey, DialTarget};
use crate::mux::{StreamKey, Wanted};
use crate::outflow::Outflow;
use crate::pipe::RawPipe;
use crate::wire::code::Code;

impl LocalSide {
    /// A caller has come, and gets a stream. `None`: there is no room for one.
    pub(in crate::client) fn caller_came(
        &mut self,
        around: &mut Around<'_>,
        caller: &Admitted,
        peer: SocketAddr,
    ) -> Option<ConnKey> {
        self.gets_a_stream(around, caller, Some(peer))
    }

    /// A socket of the user's is connected with a service of the container.
    pub(in crate::client) fn connect(
        &mut self,
        around: &mut Around<'_>,
        wanted: &Admitted,
        socket: PathBuf,
    ) {
        if let Some(conn) = self.gets_a_stream(around, wanted, None) {
            let target = DialTarget::Unix(socket);
            around.cx.effects.ask(Command::Dial { conn, target });
        }
    }

    /// Opens a stream for a connection that stands, with `peer`, or is to be dialled.
    fn gets_a_stream(
        &mut self,
        around: &mut Around<'_>,
        caller: &Admitted,
        peer: Option<SocketAddr>,
    ) -> Option<ConnKey> {
        let origin = peer.map(|peer| peer.ip().to_canonical());
        if !self.pool.has_room()
            && let Some(idle) = self.pool.sacrifice()
        {
            self.close_upstream(around, idle, CloseHow::Clean);
        }
        if !self.pool.has_room() || !self.pool.may_serve(origin) {
            self.count_refusal(around, Shortage::Connections);
            return None;
        }
        let (now, mux) = (around.cx.now, around.mux.as_deref_mut()?);
        let exchange = Exchange {
            stream: StreamKey::unpack(0),
            binding: caller.reference,
            container_port: caller.port,
            conn: None,
            origin,
            visitor: None,
            logs_in: false,
            head_bytes: 0,
            out: Outflow::new(),
            work: Work::Raw,
            pipe: RawPipe::new(),
            started: now,
            bytes_in: 0,
            bytes_out: 0,
            remote_addr: peer.map(|peer| peer.to_string()),
            told: false,
        };
        let key = self.exchanges.insert(exchange).ok()?;
        let entry = Upstream {
            pool_key: PoolKey {
                binding: caller.reference,
                visitor: None,
            },
            exchange: Some(key),
            origin,
            greeting: Buffer::new(),
            peer,
            connected: peer.is_some(),
            reused: false,
            is_personal: true,
        };
        let opened = mux.open_for(Wanted::default(), key, (&[], &caller.open), now);
        let (Ok(stream), Ok(conn)) = (opened, self.conns.insert(entry)) else {
            if let Ok(stream) = opened {
                mux.reset(stream, Code::Cancel, "too many connections");
            }
            self.exchanges.remove(key);
            self.count_refusal(around, Shortage::Connections);
            return None;
        };
        let exchange = self.exchanges.resolve_mut(key);
        (exchange.stream, exchange.conn) = (stream, Some(conn));
        self.pool.serves(origin);
        self.pool.opened();
        around.arm_sweep();
        Some(conn)
    }
}
