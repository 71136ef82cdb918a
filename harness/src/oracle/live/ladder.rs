//! What one segment is charged, by its length: from it, constants of the build can be told.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::json;

use super::super::facts::{Rung, rungs};
use super::super::recorder::Options;
use super::super::script::Script;
use super::Bench;
use super::play::Play;

/// Charges of single segments over a blocking TAP, without timestamps. Empty if nothing could be measured: then nothing is
/// known, which is no reason not to record.
pub(super) fn measure(bench: &mut Bench) -> Vec<Rung> {
    let map = json!({"name": "ladder", "listener": [["SO_RCVBUF", 65_536]]});
    let Some(script) = map.as_object().and_then(|m| Script::from_map(m.clone()).ok()) else {
        return Vec::new();
    };
    let options = Options { stop: Arc::new(AtomicBool::new(false)), ..Options::default() };
    let Ok((mut play, _)) = Play::open(bench, &script, &options) else { return Vec::new() };
    let mut found = Vec::new();
    for payload in rungs() {
        match play.charge(payload) {
            Ok(Some(charged)) => found.push(Rung { payload, charged }),
            Ok(None) => {}
            Err(_) => break,
        }
    }
    play.finish();
    found
}
