//! Names of nodes.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use crate::wire::{ID_MAX, WireError};

/// A node's name: UTF-8, 1 to [`ID_MAX`] bytes. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// Takes a name over.
    ///
    /// # Errors
    /// [`WireError::BadId`] when it is empty or longer than [`ID_MAX`] bytes.
    pub fn new(id: &str) -> Result<Self, WireError> {
        if (1..=ID_MAX).contains(&id.len()) { Ok(Self(id.into())) } else { Err(WireError::BadId) }
    }
    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for NodeId {
    fn borrow(&self) -> &str {
        &self.0
    }
}
impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}
