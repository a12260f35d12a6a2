//! The values in control payloads that are more than text: secrets, which are not shown, and words
//! from a fixed list.

use std::fmt;

use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

use crate::limits::MAX_SESSION_ID;

/// A token or a nonce: shown to nobody, compared in constant time.
#[derive(Clone, Default)]
pub struct Secret(String);

impl Secret {
    /// Keeps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The secret itself, for the wire and for comparing.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether both are the same, in a time that tells only their lengths.
    pub fn matches(&self, other: &str) -> bool {
        let (ours, theirs) = (self.0.as_bytes(), other.as_bytes());
        let differing = ours
            .iter()
            .zip(theirs)
            .fold(0, |bits, (a, b)| bits | (a ^ b));
        // The optimiser must not turn the fold into a loop that stops early.
        ours.len() == theirs.len() && std::hint::black_box(differing) == 0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.matches(&other.0)
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Secret)
    }
}

/// `S-` and a UUID. It is a capability: [`fmt::Display`] and [`fmt::Debug`] show its first
/// characters only, [`SessionId::as_str`] is the whole.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId(String);

impl SessionId {
    /// Keeps an id.
    pub fn new(text: impl Into<String>) -> Self {
        SessionId(text.into())
    }

    /// The whole id, for the wire and for looking it up.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A peer may send anything here: only what our own ids are made of is shown.
        let plain = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
        for c in self.0.chars().take(6).take_while(plain) {
            write!(f, "{c}")?;
        }
        f.write_str("…")
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for SessionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let id = String::deserialize(deserializer)?;
        if id.len() > MAX_SESSION_ID {
            return Err(serde::de::Error::custom("a session id of that length"));
        }
        Ok(SessionId(id))
    }
}

/// An enum of words. A word that we do not know reads as the last variant: it is for the room above
/// to refuse it with a frame of its own, not for the parser to end the session.
macro_rules! words {
    (
        $(#[$doc:meta])*
        $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)* } else $other:ident
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// The word on the wire.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }

            /// The variant for a word.
            pub fn from_name(word: &str) -> $name {
                match word { $($word => $name::$variant,)* _ => $name::$other }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer).map(|word| $name::from_name(&word))
            }
        }
    };
}

words! {
    /// What a binding carries.
    BindingKind {
        /// HTTP requests.
        Http = "http",
        /// Raw connections.
        Tcp = "tcp",
        /// Datagrams.
        Udp = "udp",
        /// A word that we do not know: INVALID_KIND.
        Unknown = "unknown",
    } else Unknown
}

words! {
    /// Which way a binding goes.
    BindMode {
        /// The kit's public port leads to the laptop's server.
        Expose = "expose",
        /// The kit's loopback port leads to the laptop's service.
        Pull = "pull",
        /// A word that we do not know: INVALID_KIND.
        Unknown = "unknown",
    } else Unknown
}

words! {
    /// Why a BIND or UNBIND was refused (PROTOCOL §3).
    BindErrCode {
        /// Held by another session.
        AlreadyBound = "ALREADY_BOUND",
        /// The system says no.
        PortInUse = "PORT_IN_USE",
        /// A port of the system or of the kit.
        ReservedPort = "RESERVED_PORT",
        /// A port below 1024 that the kit does not allow.
        PrivilegedPort = "PRIVILEGED_PORT",
        /// PULL asked for a host that is not loopback.
        InvalidHost = "INVALID_HOST",
        /// Not one of the pairs of kind and mode that there are.
        InvalidKind = "INVALID_KIND",
        /// The session has all the bindings it may have.
        BindCapExceeded = "BIND_CAP_EXCEEDED",
        /// UNBIND of what is not bound.
        NotFound = "NOT_FOUND",
        /// The kit's own fault, and every code that is newer than we are.
        Internal = "INTERNAL",
    } else Internal
}

words! {
    /// Why a JOIN was refused (PROTOCOL §7).
    JoinErrCode {
        /// No such session.
        UnknownSession = "UNKNOWN_SESSION",
        /// The nonce is not the index's ticket.
        BadTicket = "BAD_TICKET",
        /// The ticket is too old.
        Expired = "EXPIRED",
        /// The index has its socket.
        IndexInUse = "INDEX_IN_USE",
        /// Any code that we do not know.
        Unknown = "UNKNOWN",
    } else Unknown
}
