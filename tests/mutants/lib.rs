//! What replays recordings, from the harness' own sources.

/// As in the harness, without what records.
pub mod oracle {
    pub mod diff;
    pub mod facts;
    pub mod payload;
    pub mod replay;
    pub mod script;
    pub mod trace;
    pub mod vnet;
}
