//! Why a packet is refused.

/// A packet that was not understood. Nothing of it was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum WireError {
    /// It ends inside an item.
    #[error("the packet ends inside an item")]
    Truncated,
    /// Not a protocol version that is spoken here.
    #[error("protocol version {0} is not spoken here")]
    WrongVersion(u8),
    /// Not a message of this protocol.
    #[error("message type {0} is unknown")]
    UnknownType(u8),
    /// The body is sealed, and there is no key to open it with.
    #[error("the body is sealed")]
    Sealed,
    /// An item of another type or out of its range.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// An item longer than its limit, or more items than allowed.
    #[error("over the limit: {0}")]
    TooLarge(&'static str),
    /// A node id that is empty, too long or not UTF-8.
    #[error("a node id must be 1 to 255 bytes of UTF-8")]
    BadId,
    /// Not an IP address and a port, or one that cannot be a node's.
    #[error("not the address of a node")]
    BadAddress,
    /// Bytes after the end.
    #[error("bytes after the end of the message")]
    Trailing,
}

impl WireError {
    /// A label for metrics; never changes.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::WrongVersion(_) => "wrong_version",
            Self::UnknownType(_) => "unknown_type",
            Self::Sealed => "sealed",
            Self::Malformed(_) => "malformed",
            Self::TooLarge(_) => "too_large",
            Self::BadId => "bad_id",
            Self::BadAddress => "bad_address",
            Self::Trailing => "trailing",
        }
    }
}
