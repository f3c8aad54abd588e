//! One whole message out of a stream of bytes.

use std::io;

use prometheus::IntCounter;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout_at};

use super::PATIENCE;
use super::budget::{Budget, Share};
use super::failure::Failure;
use crate::wire::v0::stream::Framing;

/// Bytes held for a connection of which nothing is known yet.
const FIRST: usize = 1024;

/// Reads messages and counts what it reads.
#[derive(Debug)]
pub(super) struct Inbox {
    buffer: Vec<u8>,
    share: Share,
}

impl Inbox {
    /// Within `budget`; `None` when that is used up.
    pub(super) fn new(budget: &Budget) -> Option<Self> {
        Some(Self { buffer: Vec::new(), share: budget.take(FIRST)? })
    }

    /// The next message as `framing` finds it; `None` when the stream ends before its first byte. What comes behind
    /// it stays for the next one. `read` counts every byte.
    ///
    /// # Errors
    /// When it is not understood, not whole in time, or too long.
    pub(super) async fn next(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        mut framing: Framing,
        read: &IntCounter,
    ) -> Result<Option<Vec<u8>>, Failure> {
        // A message that is begun has as much time as one that is awaited, whatever comes meanwhile.
        let mut deadline = Instant::now() + PATIENCE;
        let mut begun = !self.buffer.is_empty();
        loop {
            if begun && let Some(end) = framing.end(&self.buffer)? {
                return Ok(Some(self.split(end)));
            }
            self.make_room()?;
            let n = match timeout_at(deadline, stream.read_buf(&mut self.buffer)).await {
                Err(_) if begun => return Err(Failure::Slow),
                Err(_) => return Err(Failure::Idle),
                Ok(n) => n?,
            };
            read.inc_by(n as u64);
            if n == 0 {
                return if begun { Err(Failure::Ended) } else { Ok(None) };
            }
            if !begun {
                begun = true;
                deadline = Instant::now() + PATIENCE;
            }
        }
    }

    /// Room for more, within the budget: twice as much as there was.
    fn make_room(&mut self) -> Result<(), Failure> {
        if self.buffer.len() < self.buffer.capacity() {
            return Ok(());
        }
        let wanted = (2 * self.buffer.len()).max(FIRST);
        if !self.share.grow_to(wanted) {
            return Err(Failure::Crowded);
        }
        self.buffer.reserve_exact(wanted - self.buffer.len());
        Ok(())
    }

    /// Takes the message off the front.
    fn split(&mut self, end: usize) -> Vec<u8> {
        let rest = self.buffer.split_off(end);
        std::mem::replace(&mut self.buffer, rest)
    }

    /// The last message has been dealt with: its memory is free again.
    pub(super) fn release(&mut self) {
        self.buffer.shrink_to_fit();
        self.share.shrink_to(self.buffer.len().max(FIRST));
    }
}

/// Writes all of it, and counts what is really written.
pub(super) async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    mut bytes: &[u8],
    written: &IntCounter,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = stream.write(bytes).await?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        written.inc_by(n as u64);
        bytes = &bytes[n..];
    }
    Ok(())
}
