//! Parts of heads that came, until the heads behind them do (PROTOCOL §4).
//!
//! Those of a STREAM_OPEN come on its lane right before it, so a lane has one such head at most.
//! The memory of all of them together is bounded.

use crate::limits::MAX_LANES;
use crate::mux::keys::StreamKey;
use crate::wire::parts::HeadParts;
use std::collections::BTreeMap;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// Of STREAM_OPENs that are to come, by lane.
    opens: [Option<(u32, HeadParts)>; MAX_LANES],
    heads: BTreeMap<StreamKey, HeadParts>,
    /// Of the head that came last.
    came: HeadParts,
    held: usize,
    most: usize,
}

impl Parts {
    /// None, and at most so many bytes of them.
    pub(super) fn new(most: usize) -> Parts {
        Parts {
            most,
            ..Parts::default()
        }
    }

    /// One came for a stream that is to be opened on a lane; false where that cannot be.
    pub(super) fn before_open(&mut self, lane: usize, id: u32, payload: &[u8]) -> bool {
        let fits = self.held + payload.len() <= self.most;
        let Some(slot) = self.opens.get_mut(lane) else {
            return false;
        };
        let (of, parts) = slot.get_or_insert_with(|| (id, HeadParts::default()));
        let added = *of == id && fits && parts.add(payload);
        self.held += if added { payload.len() } else { 0 };
        added
    }

    /// One came for a stream that is open; false where they are too many.
    pub(super) fn before_head(&mut self, key: StreamKey, payload: &[u8]) -> bool {
        let fits = self.held + payload.len() <= self.most;
        let added = fits && self.heads.entry(key).or_default().add(payload);
        self.held += if added { payload.len() } else { 0 };
        added
    }

    /// A stream is opened on a lane; false where the parts before it are of another one.
    pub(super) fn opened(&mut self, lane: usize, id: u32) -> bool {
        let slot = self.opens.get_mut(lane).and_then(Option::take);
        let (of, parts) = slot.unwrap_or_else(|| (id, HeadParts::default()));
        self.comes(parts);
        of == id
    }

    /// The head of a stream has come.
    pub(super) fn headed(&mut self, key: StreamKey) {
        let parts = match self.heads.is_empty() {
            true => None,
            false => self.heads.remove(&key),
        };
        self.comes(parts.unwrap_or_default());
    }

    fn comes(&mut self, parts: HeadParts) {
        self.held -= parts.bytes();
        self.came = parts;
    }

    /// Those of the head that came last.
    pub(super) fn take(&mut self) -> HeadParts {
        std::mem::take(&mut self.came)
    }

    /// A stream is over.
    pub(super) fn forget(&mut self, key: StreamKey) {
        if let Some(parts) = self.heads.remove(&key) {
            self.held -= parts.bytes();
        }
    }

    /// Nothing of before follows on a lane.
    pub(super) fn forget_lane(&mut self, lane: usize) {
        if let Some((_, parts)) = self.opens.get_mut(lane).and_then(Option::take) {
            self.held -= parts.bytes();
        }
    }

    /// Bytes of all of them.
    pub(super) fn held(&self) -> usize {
        let opens = self.opens.iter().flatten().map(|(_, parts)| parts.bytes());
        let heads = self.heads.values().map(HeadParts::bytes);
        let held = opens.chain(heads).sum();
        debug_assert_eq!(self.held, held, "parts were miscounted");
        held
    }
}
