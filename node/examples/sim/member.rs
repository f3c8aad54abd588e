//! What the simulator asks of a node, whatever rule it gossips by.

use std::collections::BTreeMap;

use probe_ebpf::time::{MonoNs, Span};

use crate::host::Host;

/// The key that every node's application writes.
pub(crate) const KEY: &str = "key";

/// A node that gossips by some rule: bytes and `now` in, [`Effects`] out.
pub(crate) trait Member: Sized {
    /// Memory of no lasting meaning, which all nodes share.
    type Scratch: Default;

    fn start(start: &Start<'_>, io: &mut Io<'_, Self>) -> Result<Self, String>;
    /// A datagram came. Bad ones are the rule's own business.
    fn handle_datagram(&mut self, from: Host, bytes: &[u8], now: MonoNs, io: &mut Io<'_, Self>);
    /// A message came over TCP; the response is to be written to `out`, unless there is none.
    fn handle_request(
        &mut self,
        from: Host,
        bytes: &[u8],
        now: MonoNs,
        io: &mut Io<'_, Self>,
        out: &mut Vec<u8>,
    );
    /// The answer to a message over TCP came.
    fn handle_response(&mut self, from: Host, bytes: &[u8], now: MonoNs, io: &mut Io<'_, Self>);
    /// Does what is due.
    fn tick(&mut self, now: MonoNs, io: &mut Io<'_, Self>);
    /// When [`tick`](Self::tick) has something to do next.
    fn next_wakeup(&self) -> MonoNs;
    /// The node's own application writes [`KEY`]. Returns the version of this change.
    fn set(&mut self, value: &[u8], now: MonoNs, io: &mut Io<'_, Self>) -> Result<u64, String>;
    /// What it says of the paths to and from its ring neighbours, if it judges any.
    fn verdicts(&self) -> Verdicts {
        Verdicts::default()
    }
    /// Adds the node's own totals to `sum`.
    fn count(&self, sum: &mut BTreeMap<&'static str, u64>);
}

/// A node's judgement of the paths between it and its ring neighbours.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdicts {
    /// Directed paths to and from those who are its neighbours now.
    pub(crate) paths: usize,
    /// The name of each verdict on one of these that rests on samples enough.
    pub(crate) judged: Vec<&'static str>,
}

/// What a member works with beside itself.
pub(crate) struct Io<'a, M: Member> {
    pub(crate) scratch: &'a mut M::Scratch,
    pub(crate) effects: &'a mut Effects,
}

/// What a node is started with.
#[derive(Clone, Debug)]
pub(crate) struct Start<'a> {
    pub(crate) host: Host,
    /// Random.
    pub(crate) seed: u64,
    pub(crate) now: MonoNs,
    /// Where to look for others; may contain `host`.
    pub(crate) seeds: &'a [Host],
    pub(crate) rule: RuleOptions,
}

/// Settings of the rule; each has its rule's own default.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RuleOptions {
    pub(crate) interval: Span,
    pub(crate) fanout: Option<usize>,
    pub(crate) max_packet: usize,
    /// Follow packets' journeys and judge paths, as the daemon does.
    pub(crate) judge: bool,
}

/// What a node wants done and what it found out: filled by the node, drained by the world.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub(crate) packets: Packets,
    /// Packets to send, in order.
    pub(crate) sends: Vec<(Host, Slot)>,
    /// Messages to send over a new TCP connection each.
    pub(crate) connects: Vec<(Host, Slot)>,
    /// Answers to such.
    pub(crate) responses: Vec<(Host, Slot)>,
    /// Entries that were new to the node.
    pub(crate) learned: Vec<Learned>,
    /// Whom the node holds for unreachable from now on, or no longer.
    pub(crate) liveness: Vec<(Host, Liveness)>,
}

/// An entry that was new to a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Learned {
    pub(crate) origin: Host,
    /// Is it the application's, and not one of the protocol's own?
    pub(crate) application: bool,
    pub(crate) version: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Liveness {
    Unreachable,
    Reachable,
}

impl Effects {
    /// Sends a datagram.
    pub(crate) fn send(&mut self, to: Host, bytes: &[u8]) {
        let slot = self.packets.put(bytes);
        self.sends.push((to, slot));
    }
    /// Sends a message over TCP and asks for the response.
    pub(crate) fn connect(&mut self, to: Host, bytes: &[u8]) {
        let slot = self.packets.put(bytes);
        self.connects.push((to, slot));
    }
}

/// Where a packet's bytes are while it flies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(u32);

/// Bytes of packets in flight. Memory of those that arrived is used again.
#[derive(Debug, Default)]
pub(crate) struct Packets {
    slots: Vec<Vec<u8>>,
    free: Vec<Slot>,
}

impl Packets {
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Vec::with_capacity(bytes.len()));
            Slot(self.slots.len() as u32 - 1)
        });
        let packet = &mut self.slots[slot.0 as usize];
        packet.clear();
        packet.extend_from_slice(bytes);
        slot
    }
    pub(crate) fn get(&self, slot: Slot) -> &[u8] {
        &self.slots[slot.0 as usize]
    }
    /// The same bytes once more.
    pub(crate) fn copy(&mut self, slot: Slot) -> Slot {
        let bytes = std::mem::take(&mut self.slots[slot.0 as usize]);
        let copy = self.put(&bytes);
        self.slots[slot.0 as usize] = bytes;
        copy
    }
    /// Takes the bytes out while they are handled; [`release`](Self::release) gives them back.
    pub(crate) fn take(&mut self, slot: Slot) -> Vec<u8> {
        std::mem::take(&mut self.slots[slot.0 as usize])
    }
    /// The packet is no longer under way.
    pub(crate) fn release(&mut self, slot: Slot, bytes: Vec<u8>) {
        self.slots[slot.0 as usize] = bytes;
        self.free.push(slot);
    }
    /// The packet was lost.
    pub(crate) fn lose(&mut self, slot: Slot) {
        self.free.push(slot);
    }
}
