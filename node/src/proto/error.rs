//! Why the core refused something.

use crate::wire::WireError;

/// A datagram that was not handled. The state is as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// It was not understood.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Its sender uses this node's id: a copy of our own packet, or another node of the same name.
    #[error("the sender uses this node's own id")]
    OwnId,
    /// News that nobody asked for, from someone who never answered from there.
    #[error("it brings news that was not asked for")]
    Unasked,
}

impl Rejected {
    /// A label for metrics; never changes.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Wire(e) => e.reason(),
            Self::OwnId => "own_id",
            Self::Unasked => "unasked",
        }
    }
}

/// A write that was refused. The state is as it was before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Keys have 1 to 255 bytes.
    #[error("the key has {len} bytes; it must have 1 to {}", crate::wire::KEY_MAX)]
    Key {
        /// Its length in bytes.
        len: usize,
    },
    /// The protocol keeps these for itself.
    #[error("keys that begin with {} are the protocol's own", crate::wire::INTERNAL_PREFIX)]
    Reserved,
    /// It would not fit a packet, on its own or with what relays add, and block everything after it.
    #[error("the value has {len} bytes; with this key at most {limit} fit a packet")]
    TooLarge {
        /// Its length in bytes.
        len: usize,
        /// The most that would do.
        limit: usize,
    },
    /// No more keys (deleted ones count).
    #[error("this node already holds {limit} keys, the most allowed")]
    TooManyEntries {
        /// The limit.
        limit: usize,
    },
    /// No more room.
    #[error("keys and values would take {bytes} bytes; the limit is {limit}")]
    TooManyBytes {
        /// What it would come to.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// There is no such key to delete.
    #[error("there is no such key")]
    NotFound,
    /// The 64-bit version counter is at its end.
    #[error("this node's versions are used up")]
    VersionsUsedUp,
}
