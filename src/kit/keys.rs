//! What sessions, bindings and ports are called, for all parts alike.

use crate::table::Key;

/// Marks keys that name sessions.
#[derive(Debug)]
pub(super) enum SessionMark {}
/// The kit's name for a session, which never leaves it.
pub(super) type SessionKey = Key<SessionMark>;

/// Marks keys that name bindings.
#[derive(Debug)]
pub(super) enum BindingMark {}
/// The kit's name for a binding.
pub(super) type BindingKey = Key<BindingMark>;

/// Which way a binding goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mode {
    /// HTTP from the world to the laptop.
    Expose,
    /// TCP from the container to the laptop.
    Pull,
}
